//! Two parties that keep their set-up: the next session sends less by what it says, and nothing
//! that masks comes twice, whatever comes back from a backup.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex},
    thread,
};

use marill_mpc::{
    ClientSession, Extension, ServerSession, Twin,
    random_model::{gaussian, random_weights, tiny_spec},
    two_party::{GroupBits, Origin, Phase, Products, SetUp, Traffic, Why},
};
use marill_net::{Channel, MemoryChannel, NetError, memory_pair};

const EXTENSION: Extension = Extension::SoftSpoken(GroupBits::Four);

/// Writes down what is sent.
struct Recorded(MemoryChannel, Arc<Mutex<Vec<Vec<u8>>>>);

impl Channel for Recorded {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.1.lock().unwrap().push(frame.clone());
        self.0.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.0.recv()
    }
}

/// What one party has behind a session.
struct End {
    origin: Origin,
    kept: Option<Vec<u8>>,
    set_up: Traffic,
    frames: Vec<Vec<u8>>,
}

/// A pair's first session, and one of another pair over other weights and inputs.
static FIRST: LazyLock<[End; 2]> = LazyLock::new(|| meet([None, None]));
static STRANGERS: LazyLock<[End; 2]> = LazyLock::new(|| meet_over([None, None], 4, 0));

fn read(saved: Option<&Vec<u8>>) -> Option<SetUp> {
    saved.map(|bytes| SetUp::from_bytes(bytes).unwrap())
}

/// A session over a prompt, begun with what each party kept; its token is the twin's.
fn meet(saved: [Option<&Vec<u8>>; 2]) -> [End; 2] {
    meet_over(saved, 3, 0)
}

/// The same over the weights and inputs of a seed, with so many tokens behind the prompt.
fn meet_over(saved: [Option<&Vec<u8>>; 2], seed: u64, tokens: usize) -> [End; 2] {
    let spec = tiny_spec();
    let (public, private) = random_weights(&spec, seed);
    let rows = |rows: usize| {
        let seed = seed * 100 + rows as u64;
        let values = gaussian(seed, "boundary", rows * spec.hidden_size, 1.0);
        spec.encode(&values).unwrap()
    };
    let [prompt, row] = [5, 1].map(rows);
    let mut twin = Twin::new(Arc::clone(&public), Arc::clone(&private));
    let expected = twin.prefill(&prompt).unwrap();
    let more: Vec<u32> = (0..tokens).map(|_| twin.decode(&row).unwrap()).collect();
    let (a, b) = memory_pair();
    let frames: [Arc<Mutex<Vec<Vec<u8>>>>; 2] = Default::default();
    let own = Box::new(Recorded(a, Arc::clone(&frames[0])));
    let other = Box::new(Recorded(b, Arc::clone(&frames[1])));
    let (client, server) = thread::scope(|scope| {
        let weights = Arc::clone(&public);
        let private = Arc::clone(&private);
        let bucket = spec.bucket(5);
        let server = scope.spawn(move || {
            let find = |_: &_| read(saved[1]);
            let (session, origin) =
                ServerSession::with_kept(weights, private, other, EXTENSION, find).unwrap();
            let mut session = session.with_products(Products::Ahead);
            session.prefill(bucket).unwrap();
            let kept = session.take_set_up();
            (0..tokens).for_each(|_| session.decode().unwrap());
            assert!(session.take_set_up().is_none(), "it is taken once");
            (origin, kept)
        });
        let saved = read(saved[0]);
        let (session, origin) =
            ClientSession::with_kept(Arc::clone(&public), own, EXTENSION, saved).unwrap();
        let mut session = session.with_products(Products::Ahead);
        assert_eq!(session.prefill(&prompt).unwrap(), expected);
        let kept = session.take_set_up();
        let found: Vec<u32> = (0..tokens).map(|_| session.decode(&row).unwrap()).collect();
        assert_eq!(found, more);
        let set_up = session.traffic_of(Phase::Setup);
        ((origin, kept, set_up), server.join().unwrap())
    });
    let frames = frames.map(|frames| std::mem::take(&mut *frames.lock().unwrap()));
    let [own, other] = frames;
    let bytes = |kept: Option<SetUp>| kept.map(|kept| kept.to_bytes().to_vec());
    let (origin, kept, set_up) = client;
    let mirrored = Traffic {
        sent: set_up.received,
        received: set_up.sent,
        ..set_up
    };
    [
        End {
            origin,
            kept: bytes(kept),
            set_up,
            frames: own,
        },
        End {
            origin: server.0,
            kept: bytes(server.1),
            set_up: mirrored,
            frames: other,
        },
    ]
}

#[test]
fn a_second_session_sends_less_by_what_is_declared() {
    let first = &*FIRST;
    assert_eq!(first[0].origin, Origin::Made(Why::NothingOffered));
    let kept = first.each_ref().map(|end| end.kept.as_ref());
    // What a token takes is made from the kept keys too.
    let second = meet_over(kept, 3, 1);
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(second.origin, Origin::Kept);
        assert!(second.kept.is_none(), "nothing of it is new");
        let saved = first.set_up.sent - second.set_up.sent;
        assert_eq!(saved, SetUp::saved_bytes() as u64);
    }
    // Two rounds of base transfers, one of public keys, one of packing keys.
    assert_eq!(first[0].set_up.rounds - second[0].set_up.rounds, 4);
}

/// All that a party sends in pieces of 16 bytes, but for names, digests and headers.
fn pieces(end: &End) -> HashSet<[u8; 16]> {
    let secret = end.frames.iter().filter(|frame| frame.len() > 130);
    let pieces = secret.flat_map(|frame| frame[64..].as_chunks::<16>().0);
    pieces.copied().collect()
}

/// Tags of the shapes of messages, 16 bytes of a hash: what a session of other parties, over other
/// weights and other inputs, sends as well.
const TAGS: usize = 5;

#[test]
fn a_backup_of_both_parties_repeats_nothing() {
    let backup = FIRST.each_ref().map(|end| end.kept.as_ref());
    let [second, third] = [(); 2].map(|()| meet(backup));
    for party in 0..2 {
        assert_eq!(third[party].origin, Origin::Kept);
        // The same inputs: what is sent differs by masks and choice bits alone.
        let [second, third, strangers] =
            [&second, &third, &*STRANGERS].map(|ends| pieces(&ends[party]));
        assert!(second.len() > 1000, "{}", second.len());
        let repeated: HashSet<_> = second.intersection(&third).collect();
        assert!(
            repeated.iter().all(|piece| strangers.contains(*piece)),
            "party {party}"
        );
        assert!(repeated.len() <= TAGS, "party {party}: {}", repeated.len());
    }
}

#[test]
fn a_party_that_lost_its_part_begins_anew() {
    let [own, other] = FIRST.each_ref().map(|end| end.kept.as_ref());
    let mut ends = Vec::new();
    for saved in [
        [own, None],
        [None, other],
        [own, STRANGERS[1].kept.as_ref()],
    ] {
        ends = meet(saved).into();
        for end in &ends {
            assert!(end.origin.is_new(), "{}", end.origin);
            assert!(end.kept.is_some());
        }
    }
    let again = meet([0, 1].map(|party: usize| ends[party].kept.as_ref()));
    assert_eq!(again[0].origin, Origin::Kept);
}

#[test]
fn a_set_up_that_was_changed_is_refused() {
    let kept = FIRST[0].kept.clone().unwrap();
    assert!(kept.len() <= SetUp::most_bytes(), "{}", kept.len());
    let read = |bytes: &[u8]| SetUp::from_bytes(bytes).map(|set_up| set_up.to_bytes().to_vec());
    assert_eq!(read(&kept).unwrap(), kept);
    for at in [0, 20, 90, 5000, 9000, 100_000, kept.len() - 1] {
        let mut changed = kept.clone();
        changed[at] ^= 4;
        let error = read(&changed).unwrap_err().to_string();
        assert!(error.contains("base transfers"), "{error}");
    }
    for length in [0, 10, 100, kept.len() - 1] {
        assert!(read(&kept[..length]).is_err());
    }
    assert!(read(&[&kept[..], &[0]].concat()).is_err());
}
