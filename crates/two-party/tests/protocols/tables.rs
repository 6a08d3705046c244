//! Tables: every entry at every width, offline and online apart.

use marill_crypto::{Prg, Seed};
use marill_ot::Phase;
use marill_two_party::{
    Cost, Needs,
    lookup::{OneHots, SharedBits, Table, cost, lookup},
};

use crate::world::{World, split, sum};

/// Looks up every index in tables of these output widths, `copies` times.
fn all_entries(world: &World, bits: u32, out: &[u32], copies: usize, together: bool) -> [Cost; 2] {
    let mut prg = Prg::new(&Seed::from_bytes([6; 32]), "tables");
    let size = 1usize << bits;
    let entries: Vec<Vec<u64>> = out.iter().map(|out| prg.reduced(size, *out)).collect();
    let indices: Vec<u64> = (0..copies * size).map(|i| (i % size) as u64).collect();
    let n = indices.len();
    let shares = split(&indices, bits);
    let mut needs = OneHots::needs(bits, n);
    for out in out {
        needs.merge(&SharedBits::needs(*out, n));
    }
    let mut offline = Cost::none();
    let outcome = world.run(&needs, |session| {
        let (one_hots, outputs) = if together {
            OneHots::make_with(session, bits, out, n)?
        } else {
            let outputs = out.iter().map(|out| SharedBits::make(session, *out, n));
            let outputs = outputs.collect::<Result<_, _>>()?;
            (OneHots::make(session, bits, n)?, outputs)
        };
        let tables = entries.iter().zip(out);
        let tables: Vec<Table<'_>> = tables
            .map(|(entries, out_bits)| Table {
                entries,
                out_bits: *out_bits,
            })
            .collect();
        let own = &shares[session.party() as usize];
        let values = lookup(session, &tables, own, one_hots, outputs)?;
        Ok((values, session.traffic(Phase::Offline)))
    });
    for (t, out) in out.iter().enumerate() {
        let halves = [0, 1].map(|party| outcome.shares[party].0[t].clone());
        for (index, value) in indices.iter().zip(sum(&halves, *out)) {
            assert_eq!(value, entries[t][*index as usize], "{index} of {bits} bits");
        }
    }
    for (party, share) in outcome.shares.iter().enumerate() {
        let traffic = share.1;
        offline.sent[party] = traffic.sent;
        offline.rounds = offline.rounds.max(traffic.rounds);
    }
    let online = cost(bits, out, n);
    assert_eq!(outcome.online(), (online.sent, online.rounds));
    let mut declared = OneHots::cost(bits, n);
    for out in out {
        declared += SharedBits::cost(*out, n);
    }
    if together {
        declared = OneHots::cost_with(bits, out, n);
        assert_eq!(declared.rounds, OneHots::cost(bits, n).rounds);
    }
    assert_eq!(offline.sent, declared.sent, "{bits} bits");
    assert!(offline.rounds <= declared.rounds);
    [declared, online]
}

#[test]
fn every_entry_is_found_at_every_width() {
    let world = World::new();
    for (bits, out) in [(2, 1), (3, 8), (4, 16), (5, 64), (6, 14), (7, 16), (9, 24)] {
        all_entries(&world, bits, &[out], 3, false);
    }
}

#[test]
fn one_index_serves_several_tables() {
    let world = World::new();
    all_entries(&world, 6, &[24, 10], 4, false);
}

#[test]
fn shared_bits_are_made_in_the_rounds_of_the_vectors() {
    let world = World::new();
    for (bits, out) in [(2, &[9, 1][..]), (5, &[64, 64]), (9, &[24])] {
        all_entries(&world, bits, out, 3, true);
    }
}

#[test]
fn a_table_of_8_to_16_costs_what_it_says() {
    let world = World::new();
    let n = 16 * 256;
    let [offline, online] = all_entries(&world, 8, &[16], 16, false);
    // 494 bits of doubling, 28 of the index, 120 of the output; then 16 and 32.
    assert_eq!(offline.bytes() * 8, n * (494 + 28 + 120));
    assert_eq!((online.bytes(), online.rounds), (n * 6, 2));
    let mut needs: Needs = OneHots::needs(8, 1);
    needs.merge(&SharedBits::needs(16, 1));
    assert_eq!(needs.cots(), [23, 7]);
}
