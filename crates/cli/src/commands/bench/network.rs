//! An image network between two parties, and the integer program beside it: bytes, rounds and CPU
//! time by kind of layer, and whether every layer equals the program's. Both parties in this
//! process, each on one thread.

mod compare;
mod report;

use std::{fs, path::PathBuf, process::ExitCode, sync::mpsc, thread};

use anyhow::{Context, anyhow};
use marill_crypto::{Prg, Seed};
use marill_image_networks::{
    Format, Input, Network, NetworkError, Plan, Size, Weights, densenet121, from_safetensors,
    resnet50, run as evaluate,
};
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BaseOts, Extension, Link, LpnSet, Phase, Session, Traffic,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_two_party::Radix;

use self::compare::{Compared, Shown};
use super::{
    clock::{Lap, Spent, alone},
    recurrent,
};
use crate::output::failure::{BadInput, INPUT_FAILED};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    recurrent: Option<Recurrent>,
    /// The network, as torchvision has it
    #[arg(value_name = "NAME", required = true, value_parser = ["resnet50", "densenet121"])]
    name: Option<String>,
    /// Rows and columns of the image, whose pixels are random
    #[arg(long, value_name = "PIXELS", default_value_t = 224)]
    image: usize,
    /// Channels, as a multiple of the published network's
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    width: f64,
    #[arg(long, value_name = "N", default_value_t = 1000)]
    classes: usize,
    /// The server's weights: a safetensors file with the names of torchvision's `state_dict`, in
    /// F32 [default: random ones, for costs]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
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

#[derive(clap::Subcommand)]
enum Recurrent {
    /// FastGRNN with low-rank matrices, SIRNN's network for Google-30
    Fastgrnn(recurrent::Args),
}

impl Args {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

/// A layer at one party.
#[derive(Clone, Copy, Default)]
struct Step {
    /// Making transfers, and the layer's own messages.
    traffic: [Traffic; 2],
    spent: Spent,
}

/// What one party saw.
struct Seen {
    setup: Traffic,
    steps: Vec<Step>,
    /// Comparing transcripts and revealing the class.
    end: Traffic,
    /// The class, at the client.
    class: Option<u64>,
}

/// Both parties and the program in clear.
struct Measured {
    seen: [Seen; 2],
    compared: Compared,
}

const PHASES: [Phase; 2] = [Phase::Extension, Phase::Online];

fn network(args: &Args) -> anyhow::Result<Network> {
    let size = Size {
        image: args.image,
        classes: args.classes,
        width: args.width,
        blocks: None,
    };
    let make = match args.name() {
        "resnet50" => resnet50,
        _ => densenet121,
    };
    make(Format::CRYPTFLOW2, size).map_err(|error| BadInput(error.into()).into())
}

fn weights(args: &Args, network: &Network) -> anyhow::Result<Weights> {
    let Some(path) = &args.weights else {
        return Ok(Weights::random(network, &Seed::from_bytes([0; 32])));
    };
    let place = || format!("`{}`", path.display());
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", place()));
    let read = bytes.and_then(|bytes| {
        from_safetensors(network, &bytes).with_context(|| format!("cannot use {}", place()))
    });
    read.map_err(|error| BadInput(error).into())
}

/// Pixels as normalization leaves them: between -2 and 2, the same in every run.
fn image(network: &Network) -> Vec<u64> {
    let Format { bits, scale, .. } = network.format();
    let mut random = Prg::new(&Seed::from_bytes([0; 32]), "image of `bench network`");
    let words = random.reduced(network.input_count(), scale + 2);
    let signed = words.iter().map(|word| word.wrapping_sub(2 << scale));
    signed.map(|x| x & low_mask(bits)).collect()
}

fn party(
    mut link: Link<MemoryEnd>,
    plan: &Plan,
    input: &Input<'_>,
    set: LpnSet,
    shown: &mpsc::SyncSender<Shown>,
) -> anyhow::Result<Seen> {
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, Extension::Silent(set))?;
    let mut steps = Vec::new();
    let mut before = [Traffic::default(); 2];
    let mut lap = Lap::start();
    let output = evaluate(&mut session, plan, input, |at, shares, session| {
        let spent = lap.next();
        let now = PHASES.map(|phase| session.traffic(phase));
        let traffic = [now[0] - before[0], now[1] - before[1]];
        before = now;
        steps.push(Step { traffic, spent });
        let sent = shown.send(Shown::new(at, shares));
        // What is compared is not the layer's time.
        lap = Lap::start();
        sent.map_err(|_| NetworkError::Stopped)
    })?;
    Ok(Seen {
        setup: session.traffic(Phase::Setup),
        steps,
        end: session.traffic(Phase::Online) - before[1],
        class: output.map(|output| output[0]),
    })
}

fn measure(plan: &Plan, weights: &Weights, set: LpnSet) -> anyhow::Result<Measured> {
    let pixels = image(plan.network());
    let (own, other) = memory_ends(LIMIT);
    // Few layers ahead of the program in clear, so that few are held.
    let (to_first, first) = mpsc::sync_channel(2);
    let (to_second, second) = mpsc::sync_channel(2);
    let client = Input::Client(&pixels);
    let server = Input::Server(weights);
    let (seen, compared) = thread::scope(|scope| {
        let parties = scope.spawn(|| {
            run_on(
                own,
                other,
                |link| {
                    let shown = to_first;
                    alone(|| party(link, plan, &client, set, &shown))
                },
                |link| {
                    let shown = to_second;
                    alone(|| party(link, plan, &server, set, &shown))
                },
            )
        });
        let compared = compare::run(plan.network(), weights, &pixels, [first, second]);
        (parties.join().expect("a party panicked"), compared)
    });
    let compared = match compared {
        Ok(Some(compared)) => compared,
        // A party ended, and says why.
        Ok(None) => {
            seen.0??;
            seen.1??;
            return Err(anyhow!("a party ended before its last layer"));
        }
        Err(error) => return Err(BadInput(error.into()).into()),
    };
    Ok(Measured {
        seen: [seen.0??, seen.1??],
        compared,
    })
}

/// Prints what a run takes, by kind of layer.
///
/// # Errors
/// [`BadInput`] for sizes that do not fit, or a file of weights that does not; whatever a session
/// reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Recurrent::Fastgrnn(recurrent)) = &args.recurrent {
        return recurrent::run(recurrent);
    }
    let radix = match args.radix.as_str() {
        "16" => Radix::Sixteen,
        _ => Radix::Four,
    };
    let network = network(args)?;
    let weights = weights(args, &network)?;
    let plan = Plan::new(network, radix).map_err(|error| BadInput(error.into()))?;
    let set = LpnSet::named(&args.lpn_set).expect("one of the possible values");
    let measured = measure(&plan, &weights, set)?;
    let report = report::Report::new(args, &plan, &measured);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(if report.sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

#[cfg(test)]
mod tests;
