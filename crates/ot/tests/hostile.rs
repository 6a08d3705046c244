//! A link that changes, cuts, repeats or moves messages, and a peer that falls silent: an error
//! within a time limit, never a panic, never a hang.

use std::time::{Duration, Instant};

use marill_net::NetError;
use marill_ot::{
    BaseOts, Bits, Extension, Link, LpnSet, OtError, Party, Phase, Plan, Session,
    softspoken::GroupBits,
    transfer::{And, and},
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_testkit::faults::{Fault, FaultyEnd};

/// A whole small session; both confirm before they believe a result.
fn session(mut link: Link<FaultyEnd<MemoryEnd>>, plan: impl Plan) -> Result<u64, OtError> {
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, plan)?;
    let bits = Bits::ones(64);
    for _ in 0..2 {
        let list = [And {
            bit: &bits,
            string: vec![&bits],
        }];
        and(&mut session, "and", &list)?;
    }
    session.confirm()?;
    Ok(session.traffic(Phase::Online).rounds)
}

fn run_with(
    plan: impl Plan + Send + Sync,
    fault: Option<(usize, Fault)>,
) -> (Result<u64, OtError>, Result<u64, OtError>) {
    // An honest session takes milliseconds, but perhaps not on a busy machine.
    let limit = fault.map_or(LIMIT, |_| Duration::from_millis(300));
    let (own, other) = memory_ends(limit);
    let party = |link| session(link, plan);
    let own = FaultyEnd::new(own, fault);
    let other = FaultyEnd::new(other, None);
    run_on(own, other, party, party)
}

/// Frames of an honest session: A, B, hello, seeds, twice extension and AND, confirm.
const FRAMES: usize = 9;
/// A, B, hello, seeds, two of the set-up, extension, two ANDs, confirm.
const SILENT_FRAMES: usize = 10;

#[test]
fn an_honest_session_succeeds() {
    let (own, peer) = run_with(GroupBits::Four, None);
    assert_eq!((own.unwrap(), peer.unwrap()), (3, 3));
    let (own, peer) = run_with(LpnSet::B11, None);
    assert_eq!((own.unwrap(), peer.unwrap()), (3, 3));
}

#[test]
fn no_fault_of_any_message_passes() {
    no_fault_passes(GroupBits::Four, FRAMES);
}

#[test]
fn no_fault_of_a_silent_message_passes() {
    no_fault_passes(LpnSet::B11, SILENT_FRAMES);
}

fn no_fault_passes(plan: impl Plan + Send + Sync, frames: usize) {
    let began = Instant::now();
    for at in 0..frames {
        for fault in Fault::ALL {
            let (own, peer) = run_with(plan, Some((at, fault)));
            // A frame after the last one is read by nobody.
            let unread = at == frames - 1 && matches!(fault, Fault::Repeat);
            assert!(
                unread || own.is_err() || peer.is_err(),
                "{fault:?} of message {at} passed"
            );
        }
    }
    // Ten messages, seven faults, two waits of 0.3 s at most; the rest is room for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(90));
}

#[test]
fn a_silent_peer_is_an_error_in_time() {
    let (own, other) = memory_ends(Duration::from_millis(100));
    let began = Instant::now();
    let error = BaseOts::establish(&mut Link::new(own, Party::E0)).unwrap_err();
    assert!(matches!(
        error,
        OtError::Peer {
            source: NetError::TimedOut { .. },
            ..
        }
    ));
    assert!(began.elapsed() < Duration::from_secs(30));
    drop(other);
}

/// What each party says when they begin with different plans.
fn refusals(plans: [impl Plan + Send + Sync; 2]) -> (String, String) {
    let (own, other) = memory_ends(Duration::from_secs(30));
    let with = |plan| {
        move |mut link: Link<MemoryEnd>| {
            let base = BaseOts::establish(&mut link).unwrap();
            let error = Session::begin(link, &base, plan).err();
            error.expect("the parties differ").to_string()
        }
    };
    run_on(own, other, with(plans[0]), with(plans[1]))
}

#[test]
fn parties_with_other_parameters_refuse_each_other() {
    let (a, b) = refusals([GroupBits::Four, GroupBits::Two]);
    assert!(a.contains("bits of a seed tree: 4 here, 2 at"));
    assert!(b.contains("bits of a seed tree: 2 here, 4 at"));
}

#[test]
fn parties_with_other_sources_name_both() {
    let silent = Extension::Silent(LpnSet::B11);
    let (a, b) = refusals([silent, Extension::SoftSpoken(GroupBits::Four)]);
    assert!(a.contains("silent transfers of set b11 here, SoftSpoken with k = 4 at the peer"));
    assert!(b.contains("SoftSpoken with k = 4 here, silent transfers of set b11 at the peer"));
    let (a, b) = refusals([LpnSet::B11, LpnSet::B13]);
    assert!(a.contains("of set b11 here, silent transfers of set b13 at the peer"));
    assert!(b.contains("hint: "));
}

#[test]
fn a_peer_that_falls_silent_in_the_set_up_is_an_error() {
    let (own, other) = memory_ends(Duration::from_millis(300));
    let (answer, ()) = run_on(
        own,
        other,
        |mut link| {
            let base = BaseOts::establish(&mut link).unwrap();
            let mut session = Session::begin(link, &base, LpnSet::B10).unwrap();
            session
                .sent_words(1, 10)
                .err()
                .map(|error| error.to_string())
        },
        |mut link| {
            let base = BaseOts::establish(&mut link).unwrap();
            let session = Session::begin(link, &base, LpnSet::B10).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            drop(session);
        },
    );
    assert!(answer.unwrap().contains("did not answer within"));
}
