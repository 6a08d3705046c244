//! Messages that are changed, cut, repeated, moved or never sent: an error within the time limit at
//! the client, whatever the message; never a panic, never a wait without an end, never a class.

use std::time::{Duration, Instant};

use marill_crypto::Seed;
use marill_image_networks::{Format, Input, Plan, Size, Weights, resnet50, run};
use marill_ot::{
    BaseOts, Extension, Link, Session,
    softspoken::GroupBits,
    world::{LIMIT as LONG, MemoryEnd, memory_ends, run_on},
};
use marill_testkit::faults::{Fault, FaultyEnd};
use marill_two_party::Radix;

/// What a party waits where a fault is expected; a step of the network takes some milliseconds.
const LIMIT: Duration = Duration::from_secs(1);

/// A silent peer costs the limit once at each party; the rest is the run.
const MOST: Duration = Duration::from_secs(60);

/// A network that takes few messages, and every kind of them.
struct World {
    plan: Plan,
    weights: Weights,
}

/// What the client got, and how many frames each party sent.
struct Ran {
    client: Result<Option<Vec<u64>>, String>,
    sent: [usize; 2],
}

impl World {
    fn new() -> Self {
        let size = Size {
            image: 32,
            classes: 3,
            width: 1.0 / 64.0,
            blocks: Some([1, 0, 0, 0]),
        };
        let network = resnet50(Format::CRYPTFLOW2, size).unwrap();
        let weights = Weights::random(&network, &Seed::from_bytes([2; 32]));
        let plan = Plan::new(network, Radix::Four).unwrap();
        Self { plan, weights }
    }

    fn party(&self, mut link: Link<FaultyEnd<MemoryEnd>>) -> Result<Option<Vec<u64>>, String> {
        let pixels = vec![100; self.plan.network().input_count()];
        let input = match link.party() {
            marill_ot::Party::E0 => Input::Client(&pixels),
            marill_ot::Party::E1 => Input::Server(&self.weights),
        };
        let text = |error: marill_ot::OtError| error.to_string();
        let base = BaseOts::establish(&mut link).map_err(text)?;
        let extension = Extension::SoftSpoken(GroupBits::Four);
        let mut session = Session::begin(link, &base, extension).map_err(text)?;
        let output = run(&mut session, &self.plan, &input, |_, _, _| Ok(()));
        output.map_err(|error| error.to_string())
    }

    /// With a fault of a party, at one of its frames.
    fn run(&self, fault: Option<(usize, usize, Fault)>) -> Ran {
        let (own, other) = memory_ends(fault.map_or(LONG, |_| LIMIT));
        let of = |party| {
            let (of, at, fault) = fault?;
            (of == party).then_some((at, fault))
        };
        let own = FaultyEnd::new(own, of(0));
        let other = FaultyEnd::new(other, of(1));
        let sent = [own.frames(), other.frames()];
        let started = Instant::now();
        let (client, _) = run_on(own, other, |link| self.party(link), |link| self.party(link));
        assert!(started.elapsed() < MOST, "{fault:?}");
        Ran {
            client,
            sent: sent.map(|frames| frames.take().len()),
        }
    }
}

#[test]
fn faulty_messages_end_in_errors_at_the_client() {
    let world = World::new();
    let clean = world.run(None);
    assert!(
        clean
            .client
            .is_ok_and(|class| class.is_some_and(|class| class[0] < 3))
    );
    for (party, frames) in clean.sent.into_iter().enumerate() {
        // Beginning and end, and some between; the class itself, the server's last frame, is
        // behind the comparison of transcripts.
        let last = frames - 1 - party;
        let places = [0, 1, 2, last / 2, last];
        for fault in [Fault::Flip, Fault::Cut, Fault::Repeat, Fault::Move] {
            for place in places {
                let ran = world.run(Some((party, place, fault)));
                // Repeating or holding the last frame of all changes nothing that is read.
                let unread = party == 0 && place == last && fault == Fault::Repeat;
                assert!(
                    unread || ran.client.is_err(),
                    "{fault:?} at {place} of party {party}"
                );
            }
        }
    }
}

#[test]
fn a_silent_peer_is_an_error_within_the_limit() {
    let world = World::new();
    let frames = world.run(None).sent;
    for (party, frames) in frames.into_iter().enumerate() {
        for place in [0, frames / 2, frames - 1] {
            let ran = world.run(Some((party, place, Fault::Silence)));
            // Whoever waits for the silent party says so.
            match ran.client {
                Ok(class) => panic!("{class:?} from a silent peer at {place}"),
                Err(text) => assert!(text.contains("lost the peer"), "{text}"),
            }
        }
    }
}
