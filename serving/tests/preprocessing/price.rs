//! Who uses a file up, and what it costs: a client that was granted it and can pay.

use std::path::PathBuf;

use marill_net::http::HttpClient;
use marill_serving::{
    SessionError,
    messages::proof_of,
    state::{FileState, Keys, Limits, key_digest},
    terms::Correlations,
};
use marill_testkit::parties::{World, wait_until};

use crate::files::{BUCKET, from_file, session_of, started, write_files};

/// One file, and parties that may use it.
struct Offer {
    world: World,
    file: PathBuf,
    session: String,
}

impl Offer {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = write_files(folder.path(), 1).remove(0);
        let session = session_of(&file);
        let world = started(folder);
        Self {
            world,
            file,
            session,
        }
    }

    /// The proof of a client that was granted the session.
    fn granted(&self) -> String {
        let sessions = std::slice::from_ref(&self.session);
        proof_of(&self.world.grant(&"ab".repeat(32), sessions).token)
    }

    fn refusal(&self, proof: &str, correlations: Correlations) -> String {
        let refused = self.world.handshake(&self.session, proof, correlations);
        refused.unwrap_err().to_string()
    }

    fn keys(&self) -> PathBuf {
        self.world.folder.path().join("server/keys")
    }

    /// A new key that has so many tokens.
    fn key(&self, name: &str, tokens: usize) -> String {
        let limits = Limits {
            tokens: Some(tokens as u64),
            ..Limits::default()
        };
        Keys::add(&self.keys(), name, limits).unwrap()
    }

    /// Tokens that were charged to a key.
    fn used(&self, key: &str) -> u64 {
        let server = self.world.folder.path().join("server");
        FileState::used(&server, &key_digest(key)).unwrap().0
    }
}

/// Who holds no grant, shows a wrong proof or wants it live leaves the file where it is.
#[test]
fn a_file_is_used_up_only_by_its_client() {
    let offer = Offer::new();
    let world = &offer.world;
    let guess = proof_of("guess");
    let preprocessed = |proof: &str| offer.refusal(proof, Correlations::Preprocessed);
    assert!(
        preprocessed(&guess).contains("already been used"),
        "nothing was granted"
    );
    // Granted and never taken up: asked for, and given up.
    let proof = offer.granted();
    let other = "cd".repeat(32);
    let sessions = std::slice::from_ref(&offer.session);
    let answer = world.ask_with(&other, world.ticket(&other), sessions);
    assert_eq!(answer.status, 409, "it is reserved for a moment");
    assert!(preprocessed(&guess).contains("another client"));
    let live = offer.refusal(&proof, Correlations::Live);
    assert!(live.contains("already been used"), "{live}");
    assert!(offer.file.is_file(), "nobody has used it up");
}

#[test]
fn a_file_stays_for_who_cannot_pay_and_is_free_until_opened() {
    let offer = Offer::new();
    let proof = offer.granted();
    let handshake = |key: &str, proof: &str| {
        let preprocessed = Correlations::Preprocessed;
        offer
            .world
            .handshake_as(Some(key), &offer.session, proof, preprocessed)
    };
    let poor = offer.key("poor", BUCKET - 1);
    let error = handshake(&poor, &proof).map(drop).unwrap_err();
    assert!(
        matches!(&error, SessionError::Refused { code, .. } if code == "budget_spent"),
        "{error}"
    );
    assert!(offer.file.is_file());
    let honest = offer.key("honest", 100);
    assert!(handshake(&honest, &proof_of("guess")).is_err());
    assert_eq!(offer.used(&honest), 0);
}

#[test]
fn a_prompt_is_charged_when_its_file_is_opened_and_not_again() {
    let offer = Offer::new();
    let world = &offer.world;
    let proof = offer.granted();
    let key = offer.key("rich", 100);
    let preprocessed = Correlations::Preprocessed;
    let channel = world
        .handshake_as(Some(&key), &offer.session, &proof, preprocessed)
        .unwrap();
    assert_eq!(offer.used(&key), BUCKET as u64);
    assert!(!offer.file.is_file());
    drop(channel);
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    write_files(world.folder.path(), 1);
    let mut opener = world.opener();
    opener.server = HttpClient::new(world.parties.server.clone(), Some(key.clone()));
    let mut session = from_file(&opener).unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    session.decode(&world.rows(6, 1)).unwrap();
    session.end();
    drop(session);
    // What was charged in advance is given back.
    wait_until("the charges of the session", || {
        offer.used(&key) == 2 * BUCKET as u64 + 1
    });
}
