//! Parties whose folders are set back to an earlier copy: no used session happens twice.

use std::{fs, path::Path};

use marill_net::http::HttpClient;
use marill_serving::{
    messages::{CollectSeed, CollectedSeed, proof_of},
    state::{FileState, export},
    terms::Correlations,
};
use marill_testkit::parties::{World, wait_until};

use crate::files::{assert_none_fits, copy, from_file, no_file, session_of, started, write_files};

/// Sets a party's folder back to a copy.
fn restore(copy_of: &Path, party: &Path) {
    let _ = fs::remove_dir_all(party);
    copy(copy_of, party);
}

const PARTIES: [&str; 3] = ["server", "dealer", "files"];

/// Whatever is set back to yesterday, and whoever asks: no used session happens twice, and an
/// unused one still happens.
#[test]
fn no_used_session_opens_again_whatever_is_restored() {
    for restored in [
        &["server"][..],
        &["dealer"],
        &["files"],
        &["server", "files"],
        &["dealer", "files"],
        &PARTIES,
    ] {
        use_one_restore_and_try_again(restored);
    }
}

fn use_one_restore_and_try_again(restored: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let sessions: Vec<String> = write_files(folder.path(), 2)
        .iter()
        .map(|file| session_of(file))
        .collect();
    let path = folder.path().to_path_buf();
    for party in PARTIES {
        copy(&path.join(party), &path.join(format!("{party}.yesterday")));
    }

    let world = started(folder);
    let proof = use_up(&world, &sessions[0]);
    let World {
        parties, folder, ..
    } = world;
    drop(parties);
    wait_until_unlocked(&path);
    for party in restored {
        restore(&path.join(format!("{party}.yesterday")), &path.join(party));
    }

    let world = started(folder);
    nobody_opens(&world, &sessions[0], &proof, restored);
    // Another client, honest, gets the other session and the right tokens, and then no more.
    let another = world.opener_at(&world.parties.server, "another");
    let mut second = from_file(&another).unwrap();
    assert_eq!(world.secure(&mut second, 5, 4, 3).0, world.twin(5, 4, 3));
    let mut used = Vec::new();
    export(&path.join("another"), &mut used).unwrap();
    let used = String::from_utf8(used).unwrap();
    assert!(
        used.contains(&sessions[1]) && !used.contains(&sessions[0]),
        "{restored:?}: {used}"
    );
    assert_none_fits(&no_file(&another), &format!("{restored:?}"));
}

/// A client that keeps all that it is given; returns its proof.
fn use_up(world: &World, session: &String) -> String {
    let granted = world.grant(&"ab".repeat(32), std::slice::from_ref(session));
    assert!(
        granted.seed.is_none(),
        "no seed leaves before the server has taken the session up"
    );
    assert_eq!(&granted.session, session);
    let proof = proof_of(&granted.token);
    assert!(collect(world, session, &granted.token).is_none(), "not yet");
    world
        .handshake(session, &proof, Correlations::Preprocessed)
        .unwrap();
    assert!(collect(world, session, &granted.token).is_some());
    assert!(collect(world, session, &granted.token).is_none(), "once");
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    proof
}

/// Neither who used the session before, nor anyone whom the dealer would have to grant it.
fn nobody_opens(world: &World, session: &String, proof: &str, restored: &[&str]) {
    let again = world
        .handshake(session, proof, Correlations::Preprocessed)
        .unwrap_err()
        .to_string();
    assert!(
        again.contains("already been used") || again.contains("no preprocessed correlations"),
        "{restored:?}: {again}"
    );
    for id in ["ab", "cd"].map(|digits| digits.repeat(32)) {
        let answer = world.ask_with(&id, world.ticket(&id), std::slice::from_ref(session));
        assert_eq!(
            answer.status,
            409,
            "{restored:?}: {}",
            String::from_utf8_lossy(&answer.body)
        );
    }
}

/// E0's seed of a session that the server has taken up.
fn collect(world: &World, session: &str, token: &str) -> Option<String> {
    let dealer = HttpClient::new(world.parties.dealer.clone(), None);
    let request = CollectSeed {
        session: session.into(),
        token: token.to_string().into(),
    };
    let answer = dealer
        .post_json("/v1/seeds", &serde_json::to_vec(&request).unwrap(), 1 << 16)
        .unwrap();
    let seed = |body: &[u8]| {
        serde_json::from_slice::<CollectedSeed>(body)
            .unwrap()
            .seed
            .to_string()
    };
    (answer.status == 200).then(|| seed(&answer.body))
}

/// The services of a dropped world end in the background.
fn wait_until_unlocked(folder: &Path) {
    for party in ["dealer", "server"] {
        let party = folder.join(party);
        wait_until("the records being free", || {
            FileState::open(&party, &party.join("keys")).is_ok()
        });
    }
}
