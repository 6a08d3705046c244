//! Preprocessed correlations: whole sessions from files, one use at each party, damaged files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use marill_mpc::{Selection, tally_decode, tally_prefill};
use marill_net::http::HttpClient;
use marill_serving::{
    PreprocessingError, ServingError, SessionError,
    client::CorrelationPreference,
    dealer::{DEFAULT_OWNER, PreprocessOptions, SERVER_KEY_FILE, produce},
    messages::{
        ClientHello, CollectSeed, CollectedSeed, ServerWelcome, proof_of, recv_reply, send_json,
    },
    preprocessing::SealingKey,
    server::PREPROCESSING_KEY_FILE,
    state::{FileState, Keys, Limits, export, key_digest},
    terms::Correlations,
};
use marill_testkit::parties::{World, tiny_model, wait_until};
use tempfile::TempDir;

const BUCKET: usize = 16;
const TOKENS: usize = 4;

/// Writes `sessions` files below `folder` as the two operators would.
fn write_files(folder: &Path, sessions: usize) -> Vec<PathBuf> {
    let request = folder.join("order.json");
    let key =
        SealingKey::read_or_create(&folder.join("server").join(PREPROCESSING_KEY_FILE)).unwrap();
    fs::write(
        &request,
        serde_json::to_vec(&tiny_model().request(&key)).unwrap(),
    )
    .unwrap();
    let options = PreprocessOptions {
        state: folder.join("dealer"),
        vault: folder.join("vault"),
        owner: DEFAULT_OWNER.into(),
        folder: folder.join("files"),
        request,
        bucket: BUCKET,
        tokens: TOKENS,
        selection: Selection::Greedy,
        sessions,
        dry_run: false,
    };
    let mut said = Vec::new();
    produce(&options, &mut |line| said.push(line.to_string())).unwrap();
    assert_eq!(said.len(), 1 + sessions);
    files(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("files"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn session_of(file: &Path) -> String {
    file.file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .rsplit('-')
        .next()
        .unwrap()
        .to_string()
}

fn started(folder: TempDir) -> World {
    World::start(folder, false, true, |dealer| dealer)
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Sets a party's folder back to a copy.
fn restore(copy_of: &Path, party: &Path) {
    let _ = fs::remove_dir_all(party);
    copy(copy_of, party);
}

#[test]
fn a_session_from_a_file_gives_the_twins_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_files(folder.path(), 2);
    let spec = tiny_model().spec;
    let mut declared = tally_prefill(&spec, BUCKET).unwrap().dealer_to_e1_bytes;
    declared += (1..TOKENS)
        .map(|step| {
            tally_decode(&spec, BUCKET + step - 1)
                .unwrap()
                .dealer_to_e1_bytes
        })
        .sum::<u64>();
    let bytes = fs::metadata(&written[0]).unwrap().len();
    assert!(
        bytes > declared && bytes < declared + declared / 100 + 8192,
        "{bytes} for {declared}"
    );

    let world = started(folder);
    let opener = world.opener();
    for seed in [1, 2] {
        let mut session = opener
            .open_for(BUCKET, TOKENS, CorrelationPreference::Any, None)
            .unwrap();
        assert_eq!(session.correlations, Correlations::Preprocessed);
        let (tokens, _) = world.secure(&mut session, seed, 11, TOKENS as u64 - 1);
        assert_eq!(tokens, world.twin(seed, 11, TOKENS as u64 - 1));
        assert_eq!(
            world.parties.active()[0],
            0,
            "no session runs at the dealer"
        );
    }
    assert!(
        files(world.folder.path()).is_empty(),
        "a used file is removed"
    );
    // Seeds and heads of HTTP, no corrections.
    assert!(
        opener.dealer.count.received_bytes() < 8 << 10,
        "the client downloads its seeds"
    );

    // All are used: a session whose correlations are streamed follows, unless the client wants
    // none.
    let error = opener
        .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            ServingError::Preprocessing(PreprocessingError::NoneFits { .. })
        ),
        "{error}"
    );
    let mut session = opener
        .open_for(BUCKET, TOKENS, CorrelationPreference::Any, None)
        .unwrap();
    assert_eq!(session.correlations, Correlations::Live);
    assert_eq!(world.secure(&mut session, 3, 5, 1).0, world.twin(3, 5, 1));
}

#[test]
fn a_longer_answer_or_another_bucket_finds_no_file() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 1);
    let world = started(folder);
    let opener = world.opener();
    for (bucket, tokens) in [(BUCKET, TOKENS + 1), (2 * BUCKET, TOKENS)] {
        assert!(
            opener
                .open_for(bucket, tokens, CorrelationPreference::Preprocessed, None)
                .is_err()
        );
    }
    // Who asks for more steps than a file has is refused, and the file is used up.
    let mut session = opener
        .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
        .unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    for _ in 1..TOKENS {
        session.decode(&world.rows(6, 1)).unwrap();
    }
    let error = session.decode(&world.rows(6, 1)).unwrap_err().to_string();
    assert!(error.contains("used up"), "{error}");
}

const PARTIES: [&str; 3] = ["server", "dealer", "files"];

/// Whatever is set back to yesterday, and whoever asks: no used session happens twice, and an
/// unused one still happens.
#[test]
fn no_used_session_opens_again_whatever_is_restored() {
    let every = [
        &["server"][..],
        &["dealer"],
        &["files"],
        &["server", "files"],
        &["dealer", "files"],
        &PARTIES,
    ];
    for restored in every {
        let folder = tempfile::tempdir().unwrap();
        let sessions: Vec<String> = write_files(folder.path(), 2)
            .iter()
            .map(|file| session_of(file))
            .collect();
        let path = folder.path().to_path_buf();
        for party in PARTIES {
            copy(&path.join(party), &path.join(format!("{party}.yesterday")));
        }

        // A client that kept all that it was given.
        let world = started(folder);
        let granted = world.grant(&"ab".repeat(32), &sessions[..1]);
        assert!(
            granted.seed.is_none(),
            "no seed leaves before the server has taken the session up"
        );
        let (session, proof) = (granted.session, proof_of(&granted.token));
        assert_eq!(session, sessions[0]);
        assert!(
            collect(&world, &session, &granted.token).is_none(),
            "not yet"
        );
        world
            .handshake(&session, &proof, Correlations::Preprocessed)
            .unwrap();
        assert!(collect(&world, &session, &granted.token).is_some());
        assert!(collect(&world, &session, &granted.token).is_none(), "once");
        wait_until("the end of the session", || {
            world.parties.active() == [0, 0]
        });
        let World {
            parties, folder, ..
        } = world;
        drop(parties);
        wait_until_unlocked(&path);
        for party in restored {
            restore(&path.join(format!("{party}.yesterday")), &path.join(party));
        }

        let world = started(folder);
        let again = world
            .handshake(&session, &proof, Correlations::Preprocessed)
            .unwrap_err()
            .to_string();
        assert!(
            again.contains("already been used") || again.contains("no preprocessed correlations"),
            "{restored:?}: {again}"
        );
        for id in ["ab", "cd"].map(|digits| digits.repeat(32)) {
            let answer = world.ask_with(&id, world.ticket(&id), std::slice::from_ref(&session));
            assert_eq!(
                answer.status,
                409,
                "{restored:?}: {}",
                String::from_utf8_lossy(&answer.body)
            );
        }
        // Another client, honest, gets the other session and the right tokens, and then no more.
        let another = world.opener_at(&world.parties.server, "another");
        let mut second = another
            .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
            .unwrap();
        assert_eq!(world.secure(&mut second, 5, 4, 3).0, world.twin(5, 4, 3));
        let mut used = Vec::new();
        export(&path.join("another"), &mut used).unwrap();
        let used = String::from_utf8(used).unwrap();
        assert!(
            used.contains(&sessions[1]) && !used.contains(&session),
            "{restored:?}: {used}"
        );
        let error = another
            .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(
                error,
                ServingError::Preprocessing(PreprocessingError::NoneFits { .. })
            ),
            "{restored:?}: {error}"
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

#[test]
fn what_lies_in_a_backup_opens_nothing_without_the_vault() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), 1).remove(0);
    let session = session_of(&file);
    fs::rename(folder.path().join("vault"), folder.path().join("elsewhere")).unwrap();
    let world = started(folder);
    let answer = world.ask_with(&"ab".repeat(32), world.ticket(&"ab".repeat(32)), &[session]);
    assert_eq!(answer.status, 409);
    // The same dealer finds its vault again.
    fs::rename(
        world.folder.path().join("elsewhere"),
        world.folder.path().join("vault"),
    )
    .unwrap();
    let mut session = world
        .opener()
        .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
        .unwrap();
    assert_eq!(world.secure(&mut session, 5, 4, 3).0, world.twin(5, 4, 3));
}

/// Who holds no grant, shows a wrong proof, wants it live, or cannot pay, leaves the file where it
/// is.
#[test]
fn a_file_is_used_up_only_by_its_client_and_for_its_price() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), 1).remove(0);
    let session = session_of(&file);
    let world = started(folder);
    let id = "ab".repeat(32);
    let preprocessed = |proof: &str| {
        world
            .handshake(&session, proof, Correlations::Preprocessed)
            .unwrap_err()
            .to_string()
    };
    assert!(
        preprocessed(&proof_of("guess")).contains("already been used"),
        "nothing was granted"
    );
    // Granted and never taken up: asked for, and given up.
    let granted = world.grant(&id, std::slice::from_ref(&session));
    let other = "cd".repeat(32);
    let answer = world.ask_with(&other, world.ticket(&other), std::slice::from_ref(&session));
    assert_eq!(answer.status, 409, "it is reserved for a moment");
    assert!(preprocessed(&proof_of("guess")).contains("another client"));
    let live = world
        .handshake(&session, &proof_of(&granted.token), Correlations::Live)
        .unwrap_err()
        .to_string();
    assert!(live.contains("already been used"), "{live}");
    assert!(file.is_file(), "nobody has used it up");

    // With keys, and too small a budget.
    let keys = world.folder.path().join("server/keys");
    let limits = Limits {
        tokens: Some(BUCKET as u64 - 1),
        ..Limits::default()
    };
    let key = Keys::add(&keys, "poor", limits).unwrap();
    let server = HttpClient::new(world.parties.server.clone(), Some(key.clone()));
    let handshake = |proof: String| {
        let mut channel = server
            .websocket("/v1/session", Duration::from_secs(5))
            .unwrap();
        let (parameters, session) = (world.parameters.clone(), session.clone());
        let correlations = Correlations::Preprocessed;
        let hello = ClientHello {
            parameters,
            session,
            correlations,
            proof,
            adapter_sha256: None,
            sampling: None,
        };
        send_json(&mut channel, &hello).unwrap();
        recv_reply::<ServerWelcome>(&mut channel, "server").map(|_| ())
    };
    let error = handshake(proof_of(&granted.token)).unwrap_err();
    assert!(
        matches!(&error, SessionError::Refused { code, .. } if code == "budget_spent"),
        "{error}"
    );
    assert!(file.is_file());

    // An unavailable session costs nothing.
    let key = Keys::add(
        &keys,
        "honest",
        Limits {
            tokens: Some(100),
            ..Limits::default()
        },
    )
    .unwrap();
    let digest = key_digest(&key);
    let stranger = HttpClient::new(world.parties.server.clone(), Some(key));
    let mut channel = stranger
        .websocket("/v1/session", Duration::from_secs(5))
        .unwrap();
    let (parameters, proof, correlations) = (
        world.parameters.clone(),
        proof_of("guess"),
        Correlations::Preprocessed,
    );
    let hello = ClientHello {
        parameters,
        session: session.clone(),
        correlations,
        proof,
        adapter_sha256: None,
        sampling: None,
    };
    send_json(&mut channel, &hello).unwrap();
    assert!(recv_reply::<ServerWelcome>(&mut channel, "server").is_err());
    assert_eq!(
        FileState::used(&world.folder.path().join("server"), &digest)
            .unwrap()
            .0,
        0
    );
    Keys::revoke(&keys, "honest").unwrap();

    // With enough, its prompt is charged when it is opened, and not again.
    Keys::revoke(&keys, "poor").unwrap();
    let key = Keys::add(
        &keys,
        "rich",
        Limits {
            tokens: Some(100),
            ..Limits::default()
        },
    )
    .unwrap();
    let digest = key_digest(&key);
    let used = || {
        FileState::used(&world.folder.path().join("server"), &digest)
            .unwrap()
            .0
    };
    let server = HttpClient::new(world.parties.server.clone(), Some(key.clone()));
    let mut channel = server
        .websocket("/v1/session", Duration::from_secs(5))
        .unwrap();
    let (parameters, proof, correlations) = (
        world.parameters.clone(),
        proof_of(&granted.token),
        Correlations::Preprocessed,
    );
    let hello = ClientHello {
        parameters,
        session,
        correlations,
        proof,
        adapter_sha256: None,
        sampling: None,
    };
    send_json(&mut channel, &hello).unwrap();
    recv_reply::<ServerWelcome>(&mut channel, "server").unwrap();
    assert_eq!(used(), BUCKET as u64);
    assert!(!file.is_file());
    drop(channel);
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    write_files(world.folder.path(), 1);
    let mut opener = world.opener();
    opener.server.bearer = Some(key);
    let mut session = opener
        .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
        .unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    session.decode(&world.rows(6, 1)).unwrap();
    session.end();
    drop(session);
    // What was charged in advance is given back.
    wait_until("the charges of the session", || {
        used() == 2 * BUCKET as u64 + 1
    });
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

#[test]
fn damaged_and_foreign_files_end_with_an_error_that_names_them() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage, &str); 8] = [
        (
            "cut within the head",
            |bytes| bytes.truncate(10),
            "ends within its header",
        ),
        (
            "another kind",
            |bytes| bytes[0] ^= 1,
            "holds no correlations",
        ),
        (
            "a flipped bit in the head's session",
            |bytes| flip_in_head(bytes, b"\"session\":\""),
            "says something else",
        ),
        (
            "a flipped bit in the head's key",
            |bytes| flip_in_head(bytes, b"\"ephemeral_key\":\""),
            "not sealed to this server",
        ),
        (
            "a flipped bit in the first piece",
            |bytes| flip_piece(bytes, 0),
            "not sealed to this server",
        ),
        (
            "a flipped bit later",
            |bytes| flip_piece(bytes, 2),
            "altered or cut off",
        ),
        (
            "cut at the end",
            |bytes| bytes.truncate(bytes.len() - 3),
            "altered or cut off",
        ),
        (
            "without its last piece",
            |bytes| bytes.truncate(bytes.len() - 20),
            "altered or cut off",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), cases.len());
    let world = started(folder);
    for (what, damage, expected) in cases {
        let opener = world.opener();
        let every = files(world.folder.path());
        for file in &every {
            let mut bytes = fs::read(file).unwrap();
            damage(&mut bytes);
            fs::write(file, bytes).unwrap();
        }
        let started = opener.open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None);
        let ended = started.and_then(|mut session| {
            session.prefill(&world.rows(5, 4), 4)?;
            for _ in 1..TOKENS {
                session.decode(&world.rows(6, 1))?;
            }
            Ok(())
        });
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        wait_until("the end of the session", || {
            world.parties.active() == [0, 0]
        });
        for file in files(world.folder.path()) {
            fs::remove_file(file).unwrap();
        }
        write_files(world.folder.path(), 1);
    }

    // Sealed to another server, or by a dealer who does not know this server's word.
    for foreign in ["server", "dealer"] {
        for file in files(world.folder.path()) {
            fs::remove_file(file).unwrap();
        }
        let other = tempfile::tempdir().unwrap();
        let kept = if foreign == "server" {
            "dealer/server.key"
        } else {
            "server/ahead.key"
        };
        fs::create_dir_all(other.path().join(kept).parent().unwrap()).unwrap();
        fs::copy(world.folder.path().join(kept), other.path().join(kept)).unwrap();
        assert!(kept.ends_with(if foreign == "server" {
            SERVER_KEY_FILE
        } else {
            PREPROCESSING_KEY_FILE
        }));
        write_files(other.path(), 1);
        copy(
            &other.path().join("files"),
            &world.folder.path().join("files"),
        );
        copy(
            &other.path().join("dealer/ahead"),
            &world.folder.path().join("dealer/ahead"),
        );
        copy_keys(
            &other.path().join("vault"),
            &world.folder.path().join("vault"),
        );
        let error = world
            .opener()
            .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not sealed to this server"),
            "another {foreign}: {error}"
        );
    }
}

/// Puts the keys of one dealer's vault into another's, which the name of its folder keeps apart.
fn copy_keys(from: &Path, to: &Path) {
    let folder_of = |vault: &Path| {
        fs::read_dir(vault)
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.is_dir())
            .unwrap()
    };
    copy(&folder_of(from), &folder_of(to));
}

fn flip_in_head(bytes: &mut [u8], before: &[u8]) {
    let at = bytes
        .windows(before.len())
        .position(|window| window == before)
        .unwrap()
        + before.len();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
}

/// Flips a bit within a sealed piece.
fn flip_piece(bytes: &mut [u8], piece: usize) {
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 12 + length(8);
    for _ in 0..piece {
        at += 4 + length(at);
    }
    bytes[at + 4] ^= 1;
}

#[test]
fn a_request_that_does_not_fit_is_refused_before_any_write() {
    let folder = tempfile::tempdir().unwrap();
    let key = SealingKey::read_or_create(&folder.path().join("key")).unwrap();
    let path = folder.path().join("order.json");
    let good = serde_json::to_value(tiny_model().request(&key)).unwrap();
    let attempt = |request: &serde_json::Value, bucket: usize, tokens: usize, sessions: usize| {
        fs::write(&path, request.to_string()).unwrap();
        let (state, files) = (folder.path().join("dealer"), folder.path().join("files"));
        let options = PreprocessOptions {
            state,
            vault: folder.path().join("vault"),
            owner: DEFAULT_OWNER.into(),
            folder: files,
            request: path.clone(),
            bucket,
            tokens,
            selection: Selection::Greedy,
            sessions,
            dry_run: false,
        };
        produce(&options, &mut |_| {}).unwrap_err().to_string()
    };
    let limit = tiny_model().spec.max_positions;
    assert!(attempt(&good, 17, 1, 1).contains("multiples of 16"));
    assert!(attempt(&good, 16, limit, 1).contains("tokens fit"));
    assert!(attempt(&good, 16, 4, 1 << 40).contains("bytes free"));
    for (pointer, value, expected) in [
        ("/format", serde_json::json!(9), "format 9"),
        ("/server_key", serde_json::json!("00"), "server_key"),
        (
            "/server_key",
            serde_json::json!("00".repeat(32)),
            "no proper key",
        ),
        (
            "/terms/rounding",
            serde_json::json!("stochastic"),
            "rounding",
        ),
        ("/terms/spec_sha256", serde_json::json!("00"), "digest"),
    ] {
        let mut request = good.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        let said = attempt(&request, 16, 4, 1);
        assert!(said.contains(expected), "{pointer}: {said}");
    }
    let left = folder.path().join("files");
    assert!(!left.is_dir() || files(folder.path()).is_empty());
}
