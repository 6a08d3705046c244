//! What client and server of the setting `2pc` keep between sessions: used again where both have
//! their part, made anew where one has not, bounded, and never taken for another's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use marill_mpc::{
    ProgramSpec,
    random_model::{tiny_spec, with_private_matrices},
    two_party::SetUp,
};
use marill_net::http::HttpClient;
use marill_serving::{
    SetUpLimits,
    client::SessionOpener,
    local::LocalServer,
    state::{Keys, Limits},
    terms::{SessionParameters, Setting},
};
use marill_testkit::parties::{World, model_of, wait_until};

struct Alone {
    world: World,
    server: LocalServer,
    parameters: SessionParameters,
}

impl Alone {
    fn new(limits: SetUpLimits) -> Self {
        Self::of(tiny_spec(), limits, |_| {})
    }

    /// `prepare` may put keys into the server's folder before it starts.
    fn of(spec: ProgramSpec, limits: SetUpLimits, prepare: impl FnOnce(&Path)) -> Self {
        let world = World::of(
            model_of(spec.clone(), Setting::Dealer),
            tempfile::tempdir().unwrap(),
            false,
            false,
            |dealer| dealer,
        );
        let model = model_of(spec, Setting::TwoParties);
        let parameters = model.parameters.clone();
        let state = world.folder.path().join("alone");
        fs::create_dir_all(state.join("server")).unwrap();
        prepare(&state.join("server"));
        let server = LocalServer::start_with(model, &state, 4, limits).unwrap();
        Self {
            world,
            server,
            parameters,
        }
    }

    fn opener(&self, name: &str) -> SessionOpener {
        SessionOpener {
            server: HttpClient::new(self.server.endpoint.clone(), None),
            parameters: self.parameters.clone(),
            ..self.world.opener_at(&self.server.endpoint, name)
        }
    }

    /// A short session of this client; bytes both ways that depended on no input.
    fn session(&self, name: &str) -> u64 {
        self.run(&self.opener(name))
    }

    fn run(&self, opener: &SessionOpener) -> u64 {
        let mut session = opener.open().unwrap();
        let (tokens, _) = self.world.secure(&mut session, 3, 5, 0);
        assert_eq!(tokens, self.world.twin(3, 5, 0));
        let bytes = session.offline().unwrap().bytes;
        drop(session);
        wait_until("the session's end", || self.server.active() == 0);
        bytes
    }

    fn folder(&self, of: &str) -> PathBuf {
        self.world.folder.path().join(of).join("set-ups")
    }
}

const SERVER: &str = "alone/server";

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn saved() -> u64 {
    2 * SetUp::saved_bytes() as u64
}

#[test]
fn a_returning_client_saves_the_declared_bytes() {
    let spec = with_private_matrices(tiny_spec());
    let alone = Alone::of(spec, SetUpLimits::server(8, 30), |_| {});
    let first = alone.session("client");
    assert_eq!(first - alone.session("client"), saved());
    for folder in [alone.folder("client"), alone.folder(SERVER)] {
        let [file] = &files(&folder)[..] else {
            panic!("one file in {folder:?}")
        };
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn who_keeps_none_gets_its_answer_all_the_same() {
    let alone = Alone::new(SetUpLimits::NONE);
    let first = alone.session("client");
    assert_eq!(files(&alone.folder("client")).len(), 0);
    assert_eq!(files(&alone.folder(SERVER)).len(), 0);
    // And a client that does not, of a server that does.
    let alone = Alone::new(SetUpLimits::server(8, 30));
    let opener = alone.opener("client");
    let state = Arc::into_inner(opener.state).unwrap();
    let state = state.with_set_ups(SetUpLimits::NONE);
    let opener = SessionOpener {
        state: state.into(),
        ..opener
    };
    assert_eq!(alone.run(&opener), first);
    assert_eq!(files(&alone.folder(SERVER)).len(), 0);
}

#[test]
fn a_lost_or_damaged_file_is_made_anew() {
    let alone = Alone::new(SetUpLimits::server(8, 30));
    let first = alone.session("client");
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("client", |path| fs::remove_file(path).unwrap()),
        // In the header, and behind it.
        ("client", |path| spoil(path, 30)),
        (SERVER, |path| spoil(path, 2000)),
        (SERVER, |path| fs::write(path, b"").unwrap()),
    ];
    for (of, harm) in harms {
        files(&alone.folder(of)).iter().for_each(|path| harm(path));
        assert_eq!(alone.session("client"), first, "{of}");
    }
    assert_eq!(first - alone.session("client"), saved());
}

fn spoil(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Both come back from the backup of one day: it serves again, beside what came later.
#[test]
fn a_backup_of_both_is_used_again() {
    let alone = Alone::new(SetUpLimits::server(8, 30));
    let first = alone.session("client");
    let of = ["client", SERVER];
    let backup = of.map(|of| files(&alone.folder(of)).remove(0));
    let bytes = backup.each_ref().map(|path| fs::read(path).unwrap());
    fs::remove_file(&backup[0]).unwrap();
    assert_eq!(alone.session("client"), first);
    files(&alone.folder("client"))
        .iter()
        .for_each(|path| fs::remove_file(path).unwrap());
    for (path, bytes) in backup.iter().zip(&bytes) {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(first - alone.session("client"), saved());
}

/// A client that has another's file, under a name of its own.
#[test]
fn anothers_file_is_not_used() {
    let alone = Alone::new(SetUpLimits::server(8, 30));
    let first = alone.session("client");
    // The same server with another key.
    let other = SessionOpener {
        server: HttpClient::new(alone.server.endpoint.clone(), Some("other".into())),
        ..alone.opener("client")
    };
    assert_eq!(alone.run(&other), first);
    // Of one client two files, whose contents change places.
    let paths = files(&alone.folder("client"));
    let contents: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::write(&paths[0], &contents[1]).unwrap();
    fs::write(&paths[1], &contents[0]).unwrap();
    assert_eq!(alone.session("client"), first);
}

#[test]
fn set_ups_beyond_the_limit_go_oldest_first() {
    let alone = Alone::new(SetUpLimits::server(2, 30));
    let first = alone.session("a");
    alone.session("b");
    // It is the last one used now.
    assert_eq!(first - alone.session("a"), saved());
    alone.session("c");
    assert_eq!(files(&alone.folder(SERVER)).len(), 2);
    assert_eq!(alone.session("b"), first);
}

#[test]
fn one_clients_key_has_an_eighth_of_the_places() {
    let mut key = String::new();
    let alone = Alone::of(tiny_spec(), SetUpLimits::server(8, 30), |folder| {
        key = Keys::add(&folder.join("keys"), "alice", Limits::default()).unwrap();
    });
    for name in ["a", "b"] {
        let opener = alone.opener(name);
        let server = HttpClient::new(alone.server.endpoint.clone(), Some(key.clone()));
        alone.run(&SessionOpener { server, ..opener });
    }
    assert_eq!(files(&alone.folder(SERVER)).len(), 1);
}

/// What was made longer ago than the limit is not used.
#[test]
fn an_old_set_up_is_made_anew() {
    let alone = Alone::new(SetUpLimits::server(8, 30));
    let first = alone.session("client");
    let path = files(&alone.folder(SERVER)).remove(0);
    made_in_1970(&path);
    assert_eq!(alone.session("client"), first);
    assert!(!path.exists());
}

/// Of a set-up, with a checksum that fits.
fn made_in_1970(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[16..24].fill(0);
    let sum = header_sum(&bytes[..56]);
    bytes[56..72].copy_from_slice(&sum);
    fs::write(path, bytes).unwrap();
}

fn header_sum(fields: &[u8]) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new_with_prefix("marill owner of a set-up\n")
        .chain_update("header")
        .chain_update((fields.len() as u64).to_le_bytes())
        .chain_update(fields)
        .finalize();
    *digest.first_chunk().unwrap()
}

/// A folder that nobody asks for what is old in it.
#[test]
fn an_old_set_up_goes_behind_another_session() {
    let alone = Alone::new(SetUpLimits::server(8, 30));
    alone.session("a");
    let path = files(&alone.folder(SERVER)).remove(0);
    made_in_1970(&path);
    alone.session("b");
    assert!(!path.exists());
}
