//! What must never repeat, depend or be shown.

use marill_crypto::{Prg, Seed};
use marill_net::{Channel, NetError};
use marill_ot::{
    BaseOts, Bits, Kind, Link, LpnSet, Party, Plan, Session, SoftSpoken,
    softspoken::GroupBits,
    stock::SentWords,
    transfer::{Cot, OneOf, Side, cots, one_of},
    world::{MemoryEnd, run},
};

/// Base transfers of both parties, as both keep them.
fn bases() -> (Vec<u8>, Vec<u8>) {
    let party = |mut link: Link<MemoryEnd>| {
        let base = BaseOts::establish(&mut link).unwrap();
        base.to_bytes().to_vec()
    };
    run(party, party)
}

fn begin<P: Plan>(link: Link<MemoryEnd>, saved: &[u8], plan: P) -> Session<MemoryEnd, P::Source> {
    let base = BaseOts::from_bytes(saved).unwrap();
    Session::begin(link, &base, plan).unwrap()
}

/// The same test with each source.
macro_rules! suite {
    ($($test:ident),*) => {
        mod softspoken { $(#[test] fn $test() { super::$test(super::GroupBits::Four) })* }
        mod silent { $(#[test] fn $test() { super::$test(super::LpnSet::B10) })* }
    };
}

suite!(
    sessions_of_the_same_base_share_no_pads,
    pads_of_one_session_do_not_repeat,
    pads_of_one_of_four_are_independent,
    messages_of_the_same_inputs_look_random
);

fn words_of_session(
    saved: &(Vec<u8>, Vec<u8>),
    plan: impl Plan + Send + Sync,
) -> (SentWords, Bits) {
    let (sent, chosen) = run(
        |link| begin(link, &saved.0, plan).sent_words(1, 500).unwrap(),
        |link| begin(link, &saved.1, plan).chosen_words(1, 500).unwrap(),
    );
    (sent, chosen.choice.clone())
}

fn sessions_of_the_same_base_share_no_pads(plan: impl Plan + Send + Sync) {
    let saved = bases();
    let (first, first_choice) = words_of_session(&saved, plan);
    let (second, second_choice) = words_of_session(&saved, plan);
    let pads = |words: &SentWords| [words.zero.clone(), words.one.clone()].concat();
    let mut all = [pads(&first), pads(&second)].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 2000, "a pad came twice");
    // Restored from a backup, a session's random choices are still new.
    assert_ne!(first_choice, second_choice);
}

fn pads_of_one_session_do_not_repeat(plan: impl Plan + Send + Sync) {
    let saved = bases();
    let (sent, _) = run(
        |link| {
            let mut session = begin(link, &saved.0, plan);
            // In pieces of different sizes, with other kinds between them.
            let mut pads = Vec::new();
            for n in [1, 127, 6144, 6145, 3] {
                let words = session.sent_words(1, n).unwrap();
                pads.extend([&words.zero[..], &words.one[..]].concat());
                session.sent(Kind::Leaf, 5).unwrap();
            }
            pads
        },
        |link| {
            let mut session = begin(link, &saved.1, plan);
            for n in [1, 127, 6144, 6145, 3] {
                session.chosen_words(1, n).unwrap();
                session.chosen(Kind::Leaf, 5).unwrap();
            }
        },
    );
    let mut sorted = sent.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), sent.len());
}

/// Of four pads made by XOR of two one-of-two pads each, the fourth is the sum of the others.
fn pads_of_one_of_four_are_independent(plan: impl Plan + Send + Sync) {
    let saved = bases();
    let n = 40_000;
    let kind = Kind::OneOf {
        choices: 2,
        width: 1,
    };
    let (pads, _) = run(
        |link| begin(link, &saved.0, plan).sent(kind, n).unwrap().0,
        |link| {
            let mut session = begin(link, &saved.1, plan);
            session.chosen(kind, n).map(|_| ()).unwrap();
        },
    );
    for subset in 1..16usize {
        let chosen = (0..4).filter(|c| subset >> c & 1 == 1);
        let sum = chosen.fold(Bits::zeros(n), |sum, c| &sum ^ &pads[c]);
        let ones: u32 = sum.words().iter().map(|word| word.count_ones()).sum();
        // Six deviations of a fair coin, sqrt(n)/2 = 100.
        let off = (f64::from(ones) - n as f64 / 2.0).abs();
        assert!(off < 600.0, "subset {subset:04b}: {ones} ones of {n}");
    }
}

/// Records what an end sends.
struct Recorded<C> {
    inner: C,
    sent: std::sync::mpsc::Sender<Vec<u8>>,
}

impl<C: Channel> Channel for Recorded<C> {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        let _ = self.sent.send(frame.clone());
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.inner.recv()
    }
}

/// The messages of two runs of one operation on the same inputs, as (E0's, E1's).
fn transcripts<P: Plan + Send + Sync>(
    plan: P,
    operation: impl Fn(&mut Session<Recorded<marill_net::MemoryChannel>, P::Source>)
    + Copy
    + Send
    + Sync,
) -> [Vec<u8>; 2] {
    let (own, other) = marill_net::memory_pair();
    let recorders = [std::sync::mpsc::channel(), std::sync::mpsc::channel()];
    let [(first, from_first), (second, from_second)] = recorders;
    let party = move |mut link: Link<_>| {
        let base = BaseOts::establish(&mut link).unwrap();
        let mut session = Session::begin(link, &base, plan).unwrap();
        operation(&mut session);
    };
    let own = Recorded {
        inner: own,
        sent: first,
    };
    let other = Recorded {
        inner: other,
        sent: second,
    };
    marill_ot::world::run_on(own, other, party, party);
    [from_first, from_second].map(|frames| frames.iter().last().unwrap_or_default())
}

/// Even on inputs of zeros each message is fresh and balanced: no mask is used twice, none is left
/// out.
fn messages_of_the_same_inputs_look_random<P: Plan + Send + Sync>(plan: P) {
    let n = 8000;
    let zeros = vec![0u64; n];
    let no = Bits::zeros(n);
    let table = vec![Bits::zeros(n); 4];
    let operation = |session: &mut Session<_, P::Source>| {
        let first = session.party() == Party::E0;
        for _ in 0..2 {
            let index = [no.clone(), no.clone()];
            let side = if first {
                Side::Send(&table[..])
            } else {
                Side::Choose(&index[..])
            };
            let list = [OneOf {
                choices: 2,
                width: 1,
                side,
            }];
            one_of(session, "test", &list).unwrap();
            let side = if first {
                Side::Send(&zeros[..])
            } else {
                Side::Choose(&no)
            };
            cots(session, "test", &[Cot { bits: 8, side }]).unwrap();
        }
    };
    let runs = [transcripts(plan, operation), transcripts(plan, operation)];
    for party in 0..2 {
        let [a, b] = [&runs[0][party], &runs[1][party]];
        assert_eq!(a.len(), b.len());
        assert!(a.len() >= n / 8);
        for message in [a, b] {
            let ones: u32 = message.iter().map(|byte| byte.count_ones()).sum();
            let bits = message.len() as f64 * 8.0;
            // Six deviations of a fair coin.
            let off = (f64::from(ones) - bits / 2.0).abs();
            assert!(off < 3.0 * bits.sqrt(), "{ones} ones of {bits}");
        }
        let same: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_zeros()).sum();
        let bits = a.len() as f64 * 8.0;
        assert!((f64::from(same) - bits / 2.0).abs() < 3.0 * bits.sqrt());
    }
}

#[test]
fn secrets_are_not_printed() {
    let saved = bases();
    let base = BaseOts::from_bytes(&saved.0).unwrap();
    assert_eq!(format!("{base:?}"), "BaseOts(E0)");
    let bits = Bits::random(8, &mut Prg::new(&Seed::from_bytes([1; 32]), "a"));
    assert_eq!(format!("{bits:?}"), "Bits(8)");
}

#[test]
fn saved_base_transfers_are_checked() {
    let (saved, _) = bases();
    let again = BaseOts::from_bytes(&saved).unwrap();
    assert_eq!(*again.to_bytes(), saved);
    for at in [0, 16, 20, 40, 500, saved.len() - 1] {
        let mut damaged = saved.clone();
        damaged[at] ^= 0x40;
        assert!(BaseOts::from_bytes(&damaged).is_err(), "byte {at}");
    }
    assert!(BaseOts::from_bytes(&saved[1..]).is_err());
}

#[test]
fn base_transfers_of_another_pair_are_refused() {
    let first = bases();
    let second = bases();
    let refused = |link, saved: &[u8]| {
        let base = BaseOts::from_bytes(saved).unwrap();
        let session = Session::<MemoryEnd, SoftSpoken>::begin(link, &base, GroupBits::Four);
        session.err().map(|error| error.to_string())
    };
    let (own, peer) = run(
        |link| refused(link, &first.0),
        |link| refused(link, &second.1),
    );
    assert!(own.unwrap().contains("the peer has others"));
    assert!(peer.is_some());
}
