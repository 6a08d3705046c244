//! How transfers are made: chosen by both parties' conditions, or by name.

use marill_ot::{
    BaseOts, Choice, Chosen, Conditions, Extension, Kind, Link, LpnSet, Needs, OtError, Party,
    Phase, Session,
    softspoken::GroupBits,
    world::{MemoryEnd, run},
};

const B12: Extension = Extension::Silent(LpnSet::B12);
const SOFTSPOKEN: Extension = Extension::SoftSpoken(GroupBits::Four);

fn both(choices: [Choice; 2]) -> [Result<Chosen, OtError>; 2] {
    let agree = |choice: Choice| move |mut link: Link<MemoryEnd>| choice.agree(&mut link);
    let (a, b) = run(agree(choices[0]), agree(choices[1]));
    [a, b]
}

#[test]
fn parties_with_other_conditions_choose_the_same() {
    let large = Conditions {
        bits_per_second: 20_000_000,
        cache_bytes: 64 << 20,
        transfers: 50_000_000,
        ..Conditions::default()
    };
    let small = Conditions {
        bits_per_second: 50_000_000_000,
        round_trip_micros: 100,
        cache_bytes: 8 << 20,
        transfers: 10,
    };
    let [a, b] = both([Choice::Auto(large), Choice::Auto(small)]).map(Result::unwrap);
    assert_eq!(a, b);
    assert_eq!(a.extension, B12);
    let said = a.to_string();
    assert!(
        said.starts_with("silent transfers of set b12, for 20000000 bits/s, 100 µs"),
        "{said}"
    );
    // Alone each would choose otherwise.
    assert_eq!(large.best(), Extension::Silent(LpnSet::B13));
    assert_eq!(small.best(), SOFTSPOKEN);
}

#[test]
fn a_name_binds_the_party_that_lets_choose() {
    let auto = Choice::Auto(Conditions::of_machine());
    for choices in [[Choice::Exactly(B12), auto], [auto, Choice::Exactly(B12)]] {
        for chosen in both(choices).map(Result::unwrap) {
            assert_eq!((chosen.extension, chosen.conditions), (B12, None));
            assert_eq!(
                chosen.to_string(),
                "silent transfers of set b12, as it was asked for"
            );
        }
    }
}

#[test]
fn two_names_that_differ_are_refused() {
    let [a, b] = both([Choice::Exactly(B12), Choice::Exactly(SOFTSPOKEN)]);
    let said = [a, b].map(|refused| refused.unwrap_err().to_string());
    assert!(
        said[0].contains("set b12 here, SoftSpoken with k = 4 at the peer"),
        "{}",
        said[0]
    );
    assert!(
        said[1].contains("SoftSpoken with k = 4 here, silent"),
        "{}",
        said[1]
    );
}

/// A measured link, the choice, and a session by it, as a program does all three.
#[test]
fn a_session_runs_as_it_was_chosen() {
    let party = |mut link: Link<MemoryEnd>| {
        let conditions = Conditions::of_machine().measured(&mut link).unwrap();
        assert!(conditions.bits_per_second > 0);
        let wanted = Conditions {
            transfers: 1000,
            ..conditions
        };
        let chosen = Choice::Auto(wanted).agree(&mut link).unwrap();
        let base = BaseOts::establish(&mut link).unwrap();
        let mut session = Session::begin(link, &base, chosen.extension).unwrap();
        session
            .prepare(&Needs::of(Kind::Leaf, Party::E0, 100))
            .unwrap();
        session.confirm().unwrap();
        chosen
    };
    let (a, b) = run(party, party);
    assert_eq!(a, b);
    // 1,000 transfers: no set-up of 300 kB, however slow a busy machine's memory was measured.
    assert!(matches!(a.extension, Extension::SoftSpoken(_)), "{a:?}");
}

/// What the choice reckons with is what a session sends.
#[test]
fn large_sessions_send_fewer_bytes_by_the_choice() {
    let n = 400_000;
    let slow = Conditions {
        bits_per_second: 1_000_000,
        transfers: n as u64,
        cache_bytes: 64 << 20,
        ..Conditions::default()
    };
    let chosen = slow.best();
    assert!(matches!(chosen, Extension::Silent(_)));
    let sent = |extension: Extension| {
        let party = move |mut link: Link<MemoryEnd>| {
            let base = BaseOts::establish(&mut link).unwrap();
            let mut session = Session::begin(link, &base, extension).unwrap();
            let mut needs = Needs::none();
            for sender in [Party::E0, Party::E1] {
                needs.add(Kind::Pads { words: 1 }, sender, n);
            }
            session.prepare(&needs).unwrap();
            let phases = [Phase::Setup, Phase::Extension];
            phases
                .map(|phase| session.traffic(phase).bytes())
                .iter()
                .sum::<u64>()
        };
        run(party, party).0
    };
    let all = LpnSet::ALL.map(Extension::Silent).into_iter();
    let all = all.chain([SOFTSPOKEN]).map(sent);
    // Sets that are nearly as good as the best differ by less than a hundredth.
    let least = all.min().unwrap() as f64;
    assert!(sent(chosen) as f64 <= 1.01 * least, "{chosen}: {least}");
}
