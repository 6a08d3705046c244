//! Transfers per second of processor time, party by party; measured, not asserted. Run one
//! at a time: `cargo test -p marill-ot --test speed -- --ignored --nocapture`.

use marill_ot::{
    BaseOts, Extension, Link, LpnSet, Party, Phase, Plan, Source,
    softspoken::GroupBits,
    source::{ChosenCots, Segments, SentCots, Sink},
    world::{MemoryEnd, run},
};

/// Takes transfers and does nothing with them.
struct Unused;

impl Sink for Unused {
    fn sent(&mut self, _segment: usize, cots: SentCots<'_>) {
        std::hint::black_box(cots.blocks);
    }

    fn chosen(&mut self, _segment: usize, cots: ChosenCots<'_>) {
        std::hint::black_box((cots.blocks, cots.choices));
    }
}

/// Seconds that this thread has worked.
fn worked() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat");
    let statistics = statistics.expect("Linux counts the time of threads");
    let nanoseconds = statistics
        .split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok());
    nanoseconds.expect("nanoseconds come first") / 1e9
}

/// Millions a second and bits each, E0 sends.
fn rate(mut link: Link<MemoryEnd>, set: impl Plan) -> (f64, f64, f64) {
    let n = 1 << 24;
    let own = link.party() == Party::E0;
    let base = BaseOts::establish(&mut link).unwrap();
    let mut source = set.expand(&mut link, &base, &[7; 64]).unwrap();
    let segments = Segments {
        send: vec![n; usize::from(own)],
        choose: vec![n; usize::from(!own)],
    };
    let began = worked();
    source.set_up(&mut link, [own, !own]).unwrap();
    let set_up = worked() - began;
    link.enter(Phase::Extension);
    let began = worked();
    source.extend(&mut link, &segments, &mut Unused).unwrap();
    let spent = worked() - began;
    let bits = 8.0 * link.traffic(Phase::Extension).bytes() as f64 / n as f64;
    (n as f64 / spent / 1e6, bits, set_up * 1e3)
}

#[test]
#[ignore = "measures; takes seconds"]
fn transfers_per_second_of_a_processor() {
    let groups = [GroupBits::Two, GroupBits::Four, GroupBits::Eight];
    let all = groups.map(Extension::SoftSpoken).into_iter();
    for set in all.chain(LpnSet::ALL.map(Extension::Silent)) {
        for _ in 0..3 {
            let (sender, chooser) = run(|link| rate(link, set), |link| rate(link, set));
            println!(
                "{}: sender {:.1} M/s, chooser {:.1} M/s, {:.3} bits; set-up {:.0} and {:.0} ms",
                set, sender.0, chooser.0, sender.1, sender.2, chooser.2
            );
        }
    }
}
