//! Every protocol on a link that changes, cuts, repeats, moves or loses messages and beside a peer
//! that falls silent: an error within a time limit, never a panic, never a hang. And what every
//! protocol sends: uniform whatever the inputs are, and no mask twice.

mod protocols;

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use marill_ot::{
    BaseOts, Link, OtError, Session,
    softspoken::GroupBits,
    world::{LIMIT, MemoryEnd, memory_ends, run, run_on},
};
use marill_testkit::faults::{Fault, FaultyEnd};

use self::protocols::{PROTOCOLS, Protocol};

/// Base transfers of both parties, as both keep them.
fn bases() -> [Vec<u8>; 2] {
    let party = |mut link| BaseOts::establish(&mut link).unwrap().to_bytes().to_vec();
    let (a, b) = run(party, party);
    [a, b]
}

/// Results of both parties, and all frames that each of them sent.
type Ran = ([Result<(), OtError>; 2], [Vec<Vec<u8>>; 2]);

/// A session with one protocol; both confirm before they believe a result.
fn ran(
    bases: &[Vec<u8>; 2],
    protocol: Protocol,
    n: usize,
    limit: Duration,
    faults: [Option<(usize, Fault)>; 2],
) -> Ran {
    let (own, other) = memory_ends(limit);
    let own = FaultyEnd::new(own, faults[0]);
    let other = FaultyEnd::new(other, faults[1]);
    let frames = [own.frames(), other.frames()];
    let party = |link: Link<FaultyEnd<MemoryEnd>>| {
        let base = BaseOts::from_bytes(&bases[link.party() as usize]).unwrap();
        let mut session = Session::begin(link, &base, GroupBits::Four)?;
        protocol(&mut session, n)?;
        session.confirm()
    };
    let (a, b) = run_on(own, other, party, party);
    ([a, b], frames.map(|frames| frames.take()))
}

/// All of them, or so many spread over all.
fn some(frames: usize, most: usize) -> Vec<usize> {
    let count = frames.min(most);
    (0..count).map(|i| i * frames / count).collect()
}

/// Instances of which the shortest message has 40 bits: two that change places are not equal.
const FEW: usize = 40;

/// Each fault at messages of both parties.
fn survives(bases: &[Vec<u8>; 2], name: &str, protocol: Protocol) {
    let (results, sent) = ran(bases, protocol, FEW, LIMIT, [None, None]);
    for result in results {
        result.unwrap_or_else(|error| panic!("{name} without a fault: {error}"));
    }
    for party in 0..2 {
        let frames = sent[party].len();
        for at in some(frames, 8) {
            for fault in Fault::ALL {
                let mut faults = [None, None];
                faults[party] = Some((at, fault));
                let began = Instant::now();
                let limit = Duration::from_millis(100);
                let (results, _) = ran(bases, protocol, FEW, limit, faults);
                // A wait at each party, and room for a busy machine.
                assert!(began.elapsed() < Duration::from_secs(30), "{name} hangs");
                // A frame behind the last one is read by nobody.
                let unread = at == frames - 1 && fault == Fault::Repeat;
                let noticed = results.iter().any(Result::is_err);
                assert!(unread || noticed, "{name}: {fault:?} of message {at}");
            }
        }
    }
}

#[test]
fn no_protocol_survives_a_fault_unnoticed() {
    let bases = bases();
    thread::scope(|scope| {
        for (name, protocol) in PROTOCOLS {
            let bases = &bases;
            scope.spawn(move || survives(bases, name, *protocol));
        }
    });
}

/// Instances for which every message is whole bytes, and long enough to judge.
const MANY: usize = 512;

/// Ones of a message are a fair coin's within six deviations.
fn fair(what: &str, ones: u32, bits: usize) {
    let off = (f64::from(ones) - bits as f64 / 2.0).abs();
    assert!(
        off < 3.0 * (bits as f64).sqrt(),
        "{what}: {ones} ones of {bits}"
    );
}

/// An uninitialized mask would leave a constant, or the input itself, in a message; inputs are the
/// same in both sessions.
fn looks_random(bases: &[Vec<u8>; 2], name: &str, protocol: Protocol) {
    let [first, second] = [(); 2].map(|()| ran(bases, protocol, MANY, LIMIT, [None, None]).1);
    for party in 0..2 {
        // The first two frames are nonces and trees, the last one is compared with the peer.
        let frames = first[party].iter().zip(&second[party]).skip(2);
        for (i, (a, b)) in frames.enumerate() {
            assert_eq!(a.len(), b.len(), "{name}: lengths are public");
            let bits = 8 * a.len();
            if bits < 1000 {
                continue;
            }
            let what = format!("message {i} of party {party} in {name}");
            fair(&what, a.iter().map(|byte| byte.count_ones()).sum(), bits);
            let same = a.iter().zip(b).map(|(a, b)| (a ^ b).count_zeros()).sum();
            fair(&format!("{what} in two sessions"), same, bits);
        }
    }
}

/// A mask that is used twice on equal values shows as the same bytes twice.
fn repeats_nothing(bases: &[Vec<u8>; 2], name: &str, protocol: Protocol) {
    let (_, sent) = ran(bases, protocol, MANY, LIMIT, [None, None]);
    let mut seen = HashSet::new();
    for frame in sent.iter().flat_map(|frames| frames.iter().skip(2)) {
        for window in frame.windows(8) {
            assert!(seen.insert(window.to_vec()), "{name} sends bytes twice");
        }
    }
}

/// The reference code fills masks of digits above the first from memory that nobody wrote.
#[test]
fn every_message_of_every_protocol_looks_random() {
    let bases = bases();
    for (name, protocol) in PROTOCOLS {
        looks_random(&bases, name, *protocol);
    }
}

#[test]
fn no_protocol_uses_a_mask_twice() {
    let bases = bases();
    for (name, protocol) in PROTOCOLS {
        repeats_nothing(&bases, name, *protocol);
    }
}

/// The reference code puts whole batches on the stack.
#[test]
fn a_large_batch_fits_a_small_stack() {
    let bases = bases();
    let (_, protocol) = PROTOCOLS.iter().find(|(name, _)| *name == "relu").unwrap();
    let small = thread::Builder::new().stack_size(256 << 10);
    let party = move || ran(&bases, *protocol, 1 << 16, LIMIT, [None, None]).0;
    let results = small.spawn(party).unwrap().join().unwrap();
    assert!(results.iter().all(Result::is_ok));
}
