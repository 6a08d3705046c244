//! A recurrent network: every state and score is the integer program's, at the declared cost.

use marill_numeric::{
    fixed::low_mask,
    integer::{FastGrnn, FastGrnnWeights, RealFastGrnn},
};
use marill_ot::{OtError, Phase, Session, SoftSpoken, world::MemoryEnd};
use marill_two_party::{Half, Party, Radix, Recurrent};

use crate::world::{Values, World, sum};

/// A network of random weights, as wide as a trained one's.
fn network(input: usize, ranks: [usize; 2], hidden: usize) -> (FastGrnn, FastGrnnWeights) {
    let mut draw = 0;
    let mut of = |n: usize, most: f32| -> Vec<f32> {
        draw += n;
        let words = Values::of(16, draw).into_iter().skip(draw - n);
        words.map(|w| most * (w as f32 / 32_768.0 - 1.0)).collect()
    };
    let classes = 3;
    let real = RealFastGrnn {
        linear: [
            (of(input * ranks[0], 1.5), ranks[0]),
            (of(ranks[0] * hidden, 0.7), hidden),
            (of(hidden * ranks[1], 20.0), ranks[1]),
            (of(ranks[1] * hidden, 0.2), hidden),
            (of(hidden * classes, 9.0), classes),
        ],
        biases: [of(hidden, 4.0), of(hidden, 2.0), of(classes, 9.0)],
        zeta: 0.93,
        nu: 0.02,
    };
    FastGrnn::quantize(&real, 8.0).unwrap()
}

type Shares = (Vec<Vec<u64>>, Vec<u64>, u64);

fn equals(sizes: (usize, [usize; 2], usize), batch: usize, steps: usize) {
    let world = World::new();
    let (program, weights) = network(sizes.0, sizes.1, sizes.2);
    let inputs = program.inputs();
    // Step by step, and all values that 16 bits have among them.
    let sequences = Values::of(16, steps * batch * inputs);
    let protocol = Recurrent::new(program.clone(), batch, steps, Radix::Four);
    let run = |session: &mut Session<MemoryEnd, SoftSpoken>| -> Result<Shares, OtError> {
        let half = match session.party() {
            Party::E0 => Half::Weights(&weights),
            Party::E1 => Half::Sequences(&sequences),
        };
        let mut states = Vec::new();
        let watch = |step: usize, state: &[u64]| {
            assert_eq!(step, states.len());
            states.push(state.to_vec());
        };
        let scores = protocol.run(session, half, watch)?;
        Ok((states, scores, session.traffic(Phase::Offline).sent))
    };
    let outcome = world.run(&protocol.needs(), run);
    let name = format!("{batch} sequences of {steps} steps");
    let offline = protocol.offline_cost();
    let before = [0, 1].map(|party: usize| outcome.shares[party].2);
    assert_eq!(before, offline.sent, "{name}: bytes before");
    outcome.costs_after(offline.rounds, protocol.cost(), &name);
    let [first, second] = outcome.shares;
    for i in 0..batch {
        let own = (0..steps).flat_map(|step| {
            let from = (step * batch + i) * inputs;
            sequences[from..from + inputs].to_vec()
        });
        let (states, scores) = program.run(&weights, &own.collect::<Vec<_>>());
        let part = |shares: &[u64], size: usize| shares[i * size..(i + 1) * size].to_vec();
        for (step, expected) in states.iter().enumerate() {
            let halves = [&first.0[step], &second.0[step]].map(|s| part(s, program.hidden()));
            assert_eq!(sum(&halves, 16), *expected, "{name}: step {step} of {i}");
        }
        let halves = [&first.1, &second.1].map(|s| part(s, program.classes()));
        assert_eq!(sum(&halves, 16), scores, "{name}: scores of {i}");
    }
}

#[test]
fn a_network_equals_its_program_at_every_step() {
    equals((4, [3, 2], 6), 1, 5);
    equals((3, [2, 5], 8), 3, 4);
}

/// More rows than one transfer has words for.
#[test]
fn many_sequences_go_in_parts() {
    equals((2, [2, 2], 3), 130, 2);
}

#[test]
fn the_client_alone_learns_the_scores() {
    let world = World::new();
    let (program, weights) = network(4, [3, 2], 6);
    let sequence = Values::of(16, 2 * 4);
    let protocol = Recurrent::new(program.clone(), 1, 2, Radix::Sixteen);
    let outcome = world.run(&protocol.needs(), |session| {
        let half = match session.party() {
            Party::E0 => Half::Weights(&weights),
            Party::E1 => Half::Sequences(&sequence),
        };
        let scores = protocol.run(session, half, |_, _| {})?;
        protocol.reveal(session, &scores)
    });
    let (_, expected) = program.run(&weights, &sequence);
    assert_eq!(outcome.shares, [None, Some(expected)]);
    assert!(sequence.iter().all(|x| *x <= low_mask(16)));
}
