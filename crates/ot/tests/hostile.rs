//! A link that changes, cuts, repeats or moves messages, and a peer that falls silent: an error
//! within a time limit, never a panic, never a hang.

use std::time::{Duration, Instant};

use marill_net::{Channel, NetError};
use marill_ot::{
    BaseOts, Bits, Link, OtError, Party, Phase, Session,
    softspoken::GroupBits,
    transfer::{And, and},
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};

/// What happens to one frame on its way.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Flip,
    Cut,
    Lengthen,
    Repeat,
    Drop,
    Move,
}

/// An end whose `at`-th frame suffers a fault.
struct Faulty {
    inner: MemoryEnd,
    fault: Option<(usize, Fault)>,
    sent: usize,
    kept: Option<Vec<u8>>,
}

impl Channel for Faulty {
    fn send(&mut self, mut frame: Vec<u8>) -> Result<(), NetError> {
        let now = self.fault.filter(|(at, _)| *at == self.sent);
        self.sent += 1;
        if let Some((_, fault)) = now {
            match fault {
                Fault::Flip => frame[0] ^= 1,
                Fault::Cut => {
                    frame.pop();
                }
                Fault::Lengthen => frame.push(0),
                Fault::Repeat => self.inner.send(frame.clone())?,
                Fault::Drop => return Ok(()),
                Fault::Move => {
                    self.kept = Some(frame);
                    return Ok(());
                }
            }
        }
        self.inner.send(frame)?;
        self.kept
            .take()
            .map_or(Ok(()), |kept| self.inner.send(kept))
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.inner.recv()
    }
}

/// A whole small session; both confirm before they believe a result.
fn session(mut link: Link<Faulty>) -> Result<u64, OtError> {
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, GroupBits::Four)?;
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

fn run_with(fault: Option<(usize, Fault)>) -> (Result<u64, OtError>, Result<u64, OtError>) {
    // An honest session takes milliseconds, but perhaps not on a busy machine.
    let limit = fault.map_or(LIMIT, |_| Duration::from_millis(300));
    let (own, other) = memory_ends(limit);
    let end = |inner, fault| Faulty {
        inner,
        fault,
        sent: 0,
        kept: None,
    };
    run_on(end(own, fault), end(other, None), session, session)
}

/// Frames of an honest session: A, B, hello, seeds, twice extension and AND, confirm.
const FRAMES: usize = 9;

#[test]
fn an_honest_session_succeeds() {
    let (own, peer) = run_with(None);
    assert_eq!((own.unwrap(), peer.unwrap()), (3, 3));
}

#[test]
fn no_fault_of_any_message_passes() {
    let began = Instant::now();
    for at in 0..FRAMES {
        for fault in [
            Fault::Flip,
            Fault::Cut,
            Fault::Lengthen,
            Fault::Repeat,
            Fault::Drop,
            Fault::Move,
        ] {
            let (own, peer) = run_with(Some((at, fault)));
            // A frame after the last one is read by nobody.
            let unread = at == FRAMES - 1 && matches!(fault, Fault::Repeat);
            assert!(
                unread || own.is_err() || peer.is_err(),
                "{fault:?} of message {at} passed"
            );
        }
    }
    // Nine messages, six faults, two waits of 0.3 s at most; the rest is room for a busy machine.
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

#[test]
fn parties_with_other_parameters_refuse_each_other() {
    let (own, other) = memory_ends(Duration::from_secs(30));
    let with = |k| {
        move |mut link: Link<MemoryEnd>| {
            let base = BaseOts::establish(&mut link).unwrap();
            Session::begin(link, &base, k).err().map(|e| e.to_string())
        }
    };
    let (a, b) = run_on(own, other, with(GroupBits::Four), with(GroupBits::Two));
    assert!(a.unwrap().contains("bits of a seed tree: 4 here, 2 at"));
    assert!(b.unwrap().contains("bits of a seed tree: 2 here, 4 at"));
}
