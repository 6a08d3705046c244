//! One suite for every source of transfers: what transfers give, and what they cost.

use marill_crypto::{Prg, Seed};
use marill_ot::{
    BaseOts, Bits, Extension, Kind, Link, LpnSet, Needs, OtError, Party, Phase, Plan, Session,
    Source,
    insecure::InsecureIdeal,
    softspoken::GroupBits,
    transfer::{And, Cot, OneOf, Side, and, cots, one_of, one_of_two},
    world::{MemoryEnd, run},
};

type Result<T> = std::result::Result<T, OtError>;

fn prg(domain: &str) -> Prg {
    Prg::new(&Seed::from_bytes([9; 32]), domain)
}

fn real<P: Plan>(plan: P) -> impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, P::Source> + Copy {
    move |mut link| {
        let base = BaseOts::establish(&mut link).unwrap();
        Session::begin(link, &base, plan).unwrap()
    }
}

fn ideal(link: Link<MemoryEnd>) -> Session<MemoryEnd, InsecureIdeal> {
    let source = InsecureIdeal::new(link.party(), &Seed::from_bytes([1; 32]));
    Session::new(link, source, &[2; 16])
}

/// The same test with each source.
macro_rules! suite {
    ($($test:ident),*) => {
        mod ideal_source { $(#[test] fn $test() { super::$test(super::ideal) })* }
        mod softspoken_2 {
            $(#[test] fn $test() { super::$test(super::real(super::GroupBits::Two)) })*
        }
        mod softspoken_4 {
            $(#[test] fn $test() { super::$test(super::real(super::GroupBits::Four)) })*
        }
        mod softspoken_8 {
            $(#[test] fn $test() { super::$test(super::real(super::GroupBits::Eight)) })*
        }
        mod silent_b10 {
            $(#[test] fn $test() { super::$test(super::real(super::LpnSet::B10)) })*
        }
        mod silent_b11 {
            $(#[test] fn $test() { super::$test(super::real(super::LpnSet::B11)) })*
        }
        mod chosen_at_run_time {
            $(#[test] fn $test() {
                super::$test(super::real(super::Extension::Silent(super::LpnSet::B10)))
            })*
        }
    };
}

suite!(
    random_pads_are_the_chosen_ones,
    leaf_pads_are_the_chosen_ones,
    word_pads_are_the_chosen_ones,
    correlated_transfers_share_products,
    tables_share_the_chosen_entry,
    a_chooser_learns_its_message,
    triples_share_products,
    material_is_refilled_in_mid_session
);

/// Runs both parties and adds their results.
fn both<S: Source, T: Send>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
    run_party: impl Fn(&mut Session<MemoryEnd, S>) -> Result<T> + Copy + Send + Sync,
) -> (T, T) {
    let party = move |link| {
        let mut session = open(link);
        let result = run_party(&mut session).unwrap();
        session.confirm().unwrap();
        result
    };
    run(party, party)
}

fn random_pads_are_the_chosen_ones<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    for (choices, width) in [(1u8, 1u8), (1, 2), (2, 1), (3, 2), (4, 2)] {
        // More than a piece, and no multiple of a word.
        let n = 7001;
        let kind = Kind::OneOf { choices, width };
        let (sent, chosen) = run(
            |link| open(link).sent(kind, n).unwrap(),
            |link| open(link).chosen(kind, n).unwrap(),
        );
        let mut ones = 0;
        for i in 0..n {
            let index = (0..choices as usize)
                .fold(0, |sum, k| sum | (chosen.choices[k].get(i) as usize) << k);
            for bit in 0..width as usize {
                let pad = sent.0[index * width as usize + bit].get(i);
                assert_eq!(chosen.pads[bit].get(i), pad, "{choices} {width} {i}");
                ones += pad;
            }
        }
        // Six deviations of a fair coin.
        let mean = n as f64 * f64::from(width) / 2.0;
        assert!((ones as f64 - mean).abs() < 6.0 * (mean / 2.0).sqrt());
    }
}

fn leaf_pads_are_the_chosen_ones<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let n = 3500;
    let (sent, chosen) = run(
        |link| open(link).sent(Kind::Leaf, n).unwrap().0,
        |link| open(link).chosen(Kind::Leaf, n).unwrap(),
    );
    for i in 0..n {
        let low = chosen.choices[0].get(i) as usize;
        let high = chosen.choices[1].get(i) as usize;
        assert_eq!(chosen.pads[0].get(i), sent[2 * high + low].get(i));
        assert_eq!(chosen.pads[1].get(i), sent[4 + high].get(i));
        assert_eq!(chosen.pads[2].get(i), sent[6 + low].get(i));
    }
}

fn word_pads_are_the_chosen_ones<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    for words in [1u8, 2, 3] {
        let n = 6200;
        let (sent, chosen) = run(
            |link| open(link).sent_words(words, n).unwrap(),
            |link| open(link).chosen_words(words, n).unwrap(),
        );
        let w = words as usize;
        for i in 0..n {
            let known = if chosen.choice.get(i) == 1 {
                &sent.one
            } else {
                &sent.zero
            };
            assert_eq!(chosen.pads[i * w..(i + 1) * w], known[i * w..(i + 1) * w]);
            assert_ne!(sent.zero[i * w], sent.one[i * w]);
        }
    }
}

fn correlated_transfers_share_products<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let n = 130;
    let values = prg("values").reduced(n, 37);
    let narrow = prg("narrow").reduced(n, 5);
    let choice = Bits::random(n, &mut prg("choice"));
    let (a, b) = both(open, |session| {
        let (wide, small) = if session.party() == Party::E0 {
            (Side::Send(&values[..]), Side::Choose(&choice))
        } else {
            (Side::Choose(&choice), Side::Send(&narrow[..]))
        };
        let list = [
            Cot {
                bits: 37,
                side: wide,
            },
            Cot {
                bits: 5,
                side: small,
            },
        ];
        let before = session.traffic(Phase::Online);
        let shares = cots(session, "test", &list)?;
        let spent = session.traffic(Phase::Online) - before;
        // 37 bits and a correction one way, 5 and a correction the other, packed.
        let bits = [n * 37 + n, n + n * 5];
        let mine = bits[session.party() as usize].div_ceil(8) as u64;
        assert_eq!((spent.sent, spent.rounds), (mine, 1));
        Ok(shares)
    });
    for i in 0..n {
        let sum = |k: usize, bits: u32| a[k][i].wrapping_add(b[k][i]) & ((1 << bits) - 1);
        assert_eq!(sum(0, 37), choice.get(i) * values[i]);
        assert_eq!(sum(1, 5), choice.get(i) * narrow[i]);
    }
}

fn tables_share_the_chosen_entry<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let n = 200;
    let mut prg = prg("tables");
    for (choices, width) in [(1u8, 1u8), (2, 1), (4, 2)] {
        let mut planes =
            |count: usize| -> Vec<Bits> { (0..count).map(|_| Bits::random(n, &mut prg)).collect() };
        let table = planes((1 << choices) * width as usize);
        let index = planes(choices.into());
        let (a, b) = both(open, |session| {
            let side = if session.party() == Party::E0 {
                Side::Send(&table[..])
            } else {
                Side::Choose(&index[..])
            };
            let operation = OneOf {
                choices,
                width,
                side,
            };
            one_of(session, "test", &[operation])
        });
        for i in 0..n {
            let at = Bits::values(&index)[i] as usize;
            for bit in 0..width as usize {
                let share = a[0][bit].get(i) ^ b[0][bit].get(i);
                assert_eq!(share, table[at * width as usize + bit].get(i));
            }
        }
    }
}

fn a_chooser_learns_its_message<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let n = 77;
    let messages = [prg("m0").reduced(n, 11), prg("m1").reduced(n, 11)];
    let choice = Bits::random(n, &mut prg("choice"));
    let (a, b) = both(open, |session| {
        let side = if session.party() == Party::E1 {
            Side::Send([&messages[0][..], &messages[1][..]])
        } else {
            Side::Choose(&choice)
        };
        one_of_two(session, "test", 11, side)
    });
    assert!(b.is_empty());
    assert!((0..n).all(|i| a[i] == messages[choice.get(i) as usize][i]));
}

fn triples_share_products<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let n = 1000;
    let mut prg = prg("and");
    let shares: Vec<[Bits; 2]> = (0..4)
        .map(|_| [Bits::random(n, &mut prg), Bits::random(n, &mut prg)])
        .collect();
    let (a, b) = both(open, |session| {
        let own: Vec<&Bits> = shares
            .iter()
            .map(|s| &s[session.party() as usize])
            .collect();
        let list = [
            And {
                bit: own[0],
                string: vec![own[1], own[2]],
            },
            And {
                bit: own[3],
                string: vec![own[1]],
            },
        ];
        let before = session.traffic(Phase::Online);
        let products = and(session, "test", &list)?;
        let spent = session.traffic(Phase::Online) - before;
        assert_eq!((spent.sent, spent.rounds), ((5 * n as u64).div_ceil(8), 1));
        Ok(products)
    });
    let clear: Vec<Bits> = shares.iter().map(|[a, b]| a ^ b).collect();
    assert_eq!(&a[0][0] ^ &b[0][0], &clear[0] & &clear[1]);
    assert_eq!(&a[0][1] ^ &b[0][1], &clear[0] & &clear[2]);
    assert_eq!(&a[1][0] ^ &b[1][0], &clear[3] & &clear[1]);
}

fn material_is_refilled_in_mid_session<S: Source>(
    open: impl Fn(Link<MemoryEnd>) -> Session<MemoryEnd, S> + Copy + Send + Sync,
) {
    let bits = Bits::random(640, &mut prg("refill"));
    let party = |session: &mut Session<MemoryEnd, S>| {
        let mut needs = Needs::none();
        needs.add_triples(1, 1000);
        session.prepare(&needs)?;
        let prepared = session.traffic(Phase::Extension);
        let mut products = Vec::new();
        let mut declared = (0, 0);
        for missing in [0, 280, 640] {
            let mut needs = Needs::none();
            needs.add_triples(1, missing);
            let bytes = session.extension_bytes(&needs);
            declared = (declared.0 + bytes, declared.1 + u64::from(bytes > 0));
            let list = [And {
                bit: &bits,
                string: vec![&bits],
            }];
            products.extend(and(session, "test", &list)?.remove(0));
        }
        assert!(session.is_spent());
        // 1,920 are used: what was missing was made, in a round each time that it took a message.
        let refilled = session.traffic(Phase::Extension) - prepared;
        assert_eq!((refilled.bytes(), refilled.rounds), declared);
        Ok(products)
    };
    let (a, b) = both(open, party);
    // Both hold the same share, so the shared value is zero.
    assert!(a.iter().zip(&b).all(|(a, b)| a == b));
}

#[test]
fn extension_costs_what_the_group_size_says() {
    for (k, bits) in [
        (GroupBits::Two, 63),
        (GroupBits::Four, 31),
        (GroupBits::Eight, 15),
    ] {
        let n = 128 * 60;
        let (sent, received) = run(
            |link| {
                let mut session = real(k)(link);
                session.sent_words(1, n).unwrap();
                session.traffic(Phase::Extension)
            },
            |link| {
                let mut session = real(k)(link);
                session.chosen_words(1, n).unwrap();
                session.traffic(Phase::Extension)
            },
        );
        assert_eq!(sent.received, received.sent);
        assert_eq!((received.sent * 8, sent.sent), (bits * n as u64, 0));
    }
}

#[test]
fn set_up_is_four_rounds_and_a_few_kilobytes() {
    let party = |link| real(GroupBits::Four)(link).traffic(Phase::Setup);
    let (own, peer) = run(party, party);
    assert_eq!(own, peer);
    // Base transfers: 33 points in two rounds; hello; 128 pairs of seeds.
    assert_eq!((own.rounds, own.sent), (4, 32 * 129 + 51 + 128 * 32));
}

#[test]
fn a_link_is_any_channel() {
    let (own, other) = marill_net::memory_pair();
    let base = marill_ot::world::run_on(
        own,
        other,
        |mut link| BaseOts::establish(&mut link).unwrap(),
        |mut link| BaseOts::establish(&mut link).unwrap(),
    );
    assert_ne!(base.0.to_bytes(), base.1.to_bytes());
}
