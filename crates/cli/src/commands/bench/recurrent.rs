//! A recurrent network between two parties, and the integer program beside it: bytes, rounds and
//! CPU time, and whether every state of every step equals the program's. Both parties in this
//! process, each on one thread.

mod weights;

use std::{path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use marill_numeric::{
    fixed::{low_mask, sign_extend},
    integer::{FastGrnn, FastGrnnWeights, RealFastGrnn, VALUE_BITS},
};
use marill_ot::{
    BaseOts, Extension, Link, LpnSet, OtError, Phase, Session, Traffic,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_report::Table;
use marill_two_party::{Half, Party, Radix, Recurrent};
use serde_json::{Value, json};

use self::weights::{Loaded, loaded, random};
use super::clock::{Spent, alone};
use crate::output::failure::{BadInput, INPUT_FAILED};

#[derive(clap::Args)]
pub struct Args {
    /// The server's weights: a safetensors file with `W1`, `W2`, `U1`, `U2`, `Bg`, `Bh`, `FC`,
    /// `FCbias`, `zeta`, `nu` in F32, matrices as inputs by outputs, and an `example_input` if the
    /// client is to have it [default: random ones of Google-30's shape]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Steps of a sequence
    #[arg(
        long,
        value_name = "N",
        default_value_t = 99,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    steps: u32,
    /// Sequences at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024),
    )]
    batch: u32,
    /// Radix of comparisons: 4 (fewer bytes) or 16 (fewer rounds)
    #[arg(long, value_name = "RADIX", default_value = "4", value_parser = ["4", "16"])]
    radix: String,
    /// Parameters of silent transfers: fewer bytes for a larger cache
    #[arg(
        long,
        value_name = "SET",
        default_value = "b11",
        value_parser = ["b10", "b11", "b12", "b13"],
    )]
    lpn_set: String,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// No input is larger in magnitude: what Google-30's inputs are scaled to.
const INPUT_BOUND: f64 = 16.0;

const PHASES: [(Phase, &str); 4] = [
    (Phase::Setup, "set-up"),
    (Phase::Extension, "extension"),
    (Phase::Offline, "offline"),
    (Phase::Online, "online"),
];

/// Published for the network of Google-30, 99 steps: sequences at once, seconds, GB. SIRNN (S&P
/// '21, arXiv 2105.04236), section VI; two machines of four cores at 377 MB/s and 0.8 ms.
const SIRNN: [(u32, f64, f64); 2] = [(1, 49.6, 0.45), (128, 140.0, 25.2)];

/// What one party saw.
struct Seen {
    traffic: [Traffic; 4],
    spent: Spent,
    /// Shares of the states after each step.
    states: Vec<Vec<u64>>,
    /// The scores, at the client.
    scores: Option<Vec<u64>>,
}

/// A run at both parties, and what it is held against.
struct Measured {
    seen: [Seen; 2],
    /// Steps of a sequence whose state is not the program's, and scores that are not.
    mismatches: [usize; 2],
    /// The largest score of each sequence by the program, and in real numbers.
    classes: Vec<[usize; 2]>,
}

fn party(
    mut link: Link<MemoryEnd>,
    network: &Recurrent,
    half: Half<'_>,
    set: LpnSet,
) -> Result<Seen, OtError> {
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, Extension::Silent(set))?;
    let mut spent = Spent::default();
    let mut states = Vec::new();
    let scores = spent.measure(|| {
        session.set_up(&network.needs())?;
        let watch = |_, state: &[u64]| states.push(state.to_vec());
        let shares = network.run(&mut session, half, watch)?;
        session.confirm()?;
        network.reveal(&mut session, &shares)
    })?;
    Ok(Seen {
        traffic: PHASES.map(|(phase, _)| session.traffic(phase)),
        spent,
        states,
        scores,
    })
}

/// The place of the largest, the first of equals.
fn largest(scores: &[f64]) -> usize {
    let places = scores.iter().enumerate();
    let best = places.fold((0, f64::NEG_INFINITY), |best, (i, score)| {
        if *score > best.1 { (i, *score) } else { best }
    });
    best.0
}

/// All steps of one sequence of a batch that lies step by step.
fn sequence<T: Copy>(all: &[T], batch: usize, inputs: usize, which: usize) -> Vec<T> {
    let steps = all.chunks(batch * inputs);
    let own = steps.flat_map(|step| &step[which * inputs..(which + 1) * inputs]);
    own.copied().collect()
}

/// Holds states and scores of every sequence against the program and against real numbers.
fn compared(
    args: &Args,
    real: &RealFastGrnn,
    program: (&FastGrnn, &FastGrnnWeights),
    inputs: (&[f32], &[u64]),
    seen: &[Seen; 2],
) -> ([usize; 2], Vec<[usize; 2]>) {
    let (program, weights) = program;
    let [width, hidden, count] = [program.inputs(), program.hidden(), program.classes()];
    let batch = args.batch as usize;
    let mut mismatches = [0; 2];
    let mut classes = Vec::with_capacity(batch);
    let scores = seen[1].scores.as_deref().unwrap_or_default();
    for i in 0..batch {
        let own = sequence(inputs.1, batch, width, i);
        let (states, expected) = program.run(weights, &own);
        for (step, state) in states.iter().enumerate() {
            let place = i * hidden..(i + 1) * hidden;
            let halves = [0, 1].map(|p: usize| &seen[p].states[step][place.clone()]);
            let sums = halves[0].iter().zip(halves[1]);
            let sums = sums.map(|(a, b)| a.wrapping_add(*b) & low_mask(VALUE_BITS));
            mismatches[0] += usize::from(!sums.eq(state.iter().copied()));
        }
        let secure = &scores[i * count..(i + 1) * count];
        mismatches[1] += usize::from(secure != expected);
        let number = |score: &u64| sign_extend(*score, VALUE_BITS) as f64;
        let own = sequence(inputs.0, batch, width, i);
        let program = secure.iter().map(number).collect::<Vec<f64>>();
        classes.push([largest(&program), largest(&real.run(&own))]);
    }
    (mismatches, classes)
}

impl Measured {
    fn sound(&self) -> bool {
        self.mismatches == [0, 0]
    }

    fn bytes(&self, phase: usize) -> [u64; 2] {
        [0, 1].map(|party: usize| self.seen[party].traffic[phase].sent)
    }

    /// Of all phases, in both directions.
    fn total(&self) -> u64 {
        (0..PHASES.len())
            .map(|i| self.bytes(i).iter().sum::<u64>())
            .sum()
    }

    fn rounds(&self) -> u64 {
        self.seen[0]
            .traffic
            .iter()
            .map(|traffic| traffic.rounds)
            .sum()
    }

    fn agreeing(&self) -> usize {
        self.classes
            .iter()
            .filter(|[own, real]| own == real)
            .count()
    }

    fn json(&self, args: &Args, program: &FastGrnn) -> Value {
        let phase = |i: usize| {
            let [server, client] = self.bytes(i);
            let rounds = self.seen[0].traffic[i].rounds;
            json!({ "server_sends": server, "client_sends": client, "rounds": rounds })
        };
        let cpu = [0, 1].map(|party: usize| self.seen[party].spent.cpu);
        json!({
            "network": "fastgrnn", "steps": args.steps, "batch": args.batch,
            "inputs": program.inputs(), "hidden": program.hidden(), "classes": program.classes(),
            "ranks": [program.linear[0].outputs, program.linear[2].outputs],
            "set_up": phase(0), "extension": phase(1), "offline": phase(2), "online": phase(3),
            "bytes": self.total(), "rounds": self.rounds(),
            "cpu_seconds": { "server": cpu[0], "client": cpu[1] },
            "wall_seconds": self.seen[0].spent.wall,
            "lpn_set": args.lpn_set, "radix": args.radix.parse::<u32>().ok(),
            "mismatched_states": self.mismatches[0], "mismatched_scores": self.mismatches[1],
            "classes": self.classes.iter().map(|class| class[0]).collect::<Vec<_>>(),
            "classes_as_in_real_numbers": args.weights.as_ref().map(|_| self.agreeing()),
            "sirnn": published(args).map(|(_, seconds, gigabytes)| {
                json!({ "seconds": seconds, "bytes": gigabytes * 1e9 })
            }),
        })
    }

    fn text(&self, args: &Args, program: &FastGrnn) -> String {
        let mut table =
            Table::new(["", "server sends", "client sends", "rounds"]).right(&[1, 2, 3]);
        for (i, (_, name)) in PHASES.iter().enumerate() {
            let [server, client] = self.bytes(i).map(|bytes| bytes.to_string());
            let rounds = self.seen[0].traffic[i].rounds.to_string();
            table.row(vec![(*name).to_string(), server, client, rounds]);
        }
        let cpu = [0, 1].map(|party: usize| self.seen[party].spent.cpu);
        let equal = if self.sound() { "equal" } else { "DIFFERENT" };
        let published = published(args).map_or(String::new(), |(_, seconds, gigabytes)| {
            format!("SIRNN publishes {gigabytes} GB and {seconds} s for the same network\n")
        });
        // Random weights say nothing about numbers.
        let classes = args.weights.as_ref().map_or(String::new(), |_| {
            let [same, all] = [self.agreeing(), self.classes.len()];
            format!("the same class as in real numbers: {same} of {all}\n")
        });
        format!(
            "FastGRNN of {} inputs, {} hidden, {} classes; {} steps, {} at once\n\n{}\n\n{:.2} MB \
             in {} rounds; {:.2} and {:.2} CPU seconds of server and client\n{published}{classes}\
             states of all steps, scores, and the integer program's: {equal}\n",
            program.inputs(),
            program.hidden(),
            program.classes(),
            args.steps,
            args.batch,
            table.markdown(),
            self.total() as f64 / 1e6,
            self.rounds(),
            cpu[0],
            cpu[1],
        )
    }
}

/// The published figures of such a run.
fn published(args: &Args) -> Option<(u32, f64, f64)> {
    let same = |row: &&(u32, f64, f64)| row.0 == args.batch && args.steps == 99;
    SIRNN.iter().find(same).copied()
}

fn measure(
    args: &Args,
    loaded: &Loaded,
    program: &FastGrnn,
    weights: &FastGrnnWeights,
) -> anyhow::Result<Measured> {
    let batch = args.batch as usize;
    let steps = args.steps as usize;
    let radix = match args.radix.as_str() {
        "16" => Radix::Sixteen,
        _ => Radix::Four,
    };
    let set = LpnSet::named(&args.lpn_set).expect("one of the possible values");
    let reals = loaded.inputs(steps, batch);
    let inputs: Vec<u64> = reals.iter().map(|x| program.input(*x)).collect();
    let network = Recurrent::new(program.clone(), batch, steps, radix);
    let (own, other) = memory_ends(LIMIT);
    let run = |link: Link<MemoryEnd>| {
        let half = match link.party() {
            Party::E0 => Half::Weights(weights),
            Party::E1 => Half::Sequences(&inputs),
        };
        alone(|| party(link, &network, half, set))
    };
    let (first, second) = run_on(own, other, run, run);
    let seen = [first??, second??];
    let whole = (program, weights);
    let (mismatches, classes) = compared(args, &loaded.real, whole, (&reals, &inputs), &seen);
    Ok(Measured {
        seen,
        mismatches,
        classes,
    })
}

/// Prints what a run takes, by phase.
///
/// # Errors
/// [`BadInput`] for a file of weights that does not fit; whatever a session reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = match &args.weights {
        Some(path) => loaded(path)?,
        None => random(),
    };
    let quantized = FastGrnn::quantize(&loaded.real, INPUT_BOUND);
    let (program, weights) = quantized.map_err(|error| {
        let hint = "hint: the program has weights of 8 bits; scale the matrix down";
        BadInput(anyhow!("{error}\n{hint}"))
    })?;
    let measured = measure(args, &loaded, &program, &weights)?;
    if args.json {
        println!("{}", measured.json(args, &program));
    } else {
        print!("{}", measured.text(args, &program));
    }
    Ok(if measured.sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}
