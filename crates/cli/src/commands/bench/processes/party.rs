//! `marill bench party`: server or dealer of a benchmark, started by it.

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use marill_mpc::{Comparison, DealerSession, Seed, ServerSession};
use marill_net::{Channel, SharedChannel};

use super::{
    Party, Task, Took,
    connections::{accept, connect, listen},
    ready, smallest,
    spool::Spool,
};
use crate::{
    args::network::link,
    commands::bench::{
        clock::{Spent, alone},
        parties::{dealer, server},
        reopened::{self, Dealt, Operands},
        shapes::{model, spec_of},
    },
};

/// Runs the party that standard input describes.
///
/// # Errors
/// What the party reports.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let task: Task = serde_json::from_str(&text).context("`bench party` is for `marill bench`")?;
    let took = match task.party {
        Party::Dealer => alone(|| deal(&task))??,
        Party::Server => alone(|| serve(&task))??,
    };
    println!("{}", serde_json::to_string(&took)?);
    Ok(ExitCode::SUCCESS)
}

impl Task {
    fn seed(&self, k: usize) -> anyhow::Result<Seed> {
        let bytes = self.seeds.get(k).context("the task lacks a seed")?;
        Ok(Seed::from_bytes(*bytes))
    }
}

fn deal(task: &Task) -> anyhow::Result<Took> {
    let listener = listen()?;
    let shape = link(&task.dealer_network)?;
    let spec = spec_of(&task.arch, task.form)?;
    let (sink, keys) = match task.comparison {
        Comparison::OneHot => {
            let [sink] = accept(&listener, [b's'], shape)?;
            (sink, None)
        }
        Comparison::Dcf => {
            let [sink, keys] = accept(&listener, [b's', b'c'], shape)?;
            (sink, Some(SharedChannel::new(keys)))
        }
    };
    let mut sink = SharedChannel::new(sink);
    let seed0 = task.seed(1)?;
    let seed1 = task.seed(2)?;
    let end = Box::new(sink.clone());
    let mut session = DealerSession::new(spec, task.seed(0)?, seed0.clone(), seed1.clone(), end);
    if let Some(keys) = &keys {
        session = session.with_dcf(Box::new(keys.clone()));
    }
    // An empty frame: the dealer is ready, or, ahead, done.
    let ends = [Some(sink.clone()), keys];
    let mark = || {
        let ends = ends.iter().flatten();
        ends.into_iter()
            .try_for_each(|end| end.lock().send(Vec::new()))
    };
    if !task.ahead {
        mark()?;
    }
    let steps = dealer(session, &task.plan)?;
    let mut products = Spent::default();
    products.measure(|| reopened::deal(&task.stages, [&seed0, &seed1], &mut sink))?;
    if task.ahead {
        mark()?;
    }
    Ok(Took {
        steps,
        received: 0,
        products,
    })
}

fn serve(task: &Task) -> anyhow::Result<Took> {
    let listener = listen()?;
    let address = task.dealer.as_deref().context("the task names no dealer")?;
    let mut dealer = connect(address, b's', link(&task.dealer_network)?)?;
    let [peer] = accept(&listener, [b'c'], link(&task.network)?)?;
    let mut peer = SharedChannel::new(peer);
    let model = model(&task.arch, task.form)?;
    let seed = task.seed(0)?;
    let operands = Operands::expand(&seed.derive("operands"), &task.stages);
    let mut dealer: SharedChannel<Box<dyn Channel>> = SharedChannel::new(if task.ahead {
        Box::new(Spool::fill(dealer)?)
    } else {
        ready(&mut dealer)?;
        dealer
    });
    let peer_end = Box::new(peer.clone());
    let dealer_end = Box::new(dealer.clone());
    let private = model.private;
    let session = ServerSession::new(model.public, &private, seed.clone(), peer_end, dealer_end)?;
    peer.send(Vec::new())?;
    let (steps, received) = server(session.with_comparison(task.comparison), &task.plan)?;
    let products = multiply(task, &seed, &operands, &mut peer, &mut dealer)?;
    Ok(Took {
        steps,
        received,
        products,
    })
}

/// E1's side of the baseline's products; then E0 is told all of the smallest, to check it.
fn multiply(
    task: &Task,
    seed: &Seed,
    operands: &[Vec<Operands>],
    peer: &mut dyn Channel,
    dealer: &mut dyn Channel,
) -> anyhow::Result<Spent> {
    let mut spent = Spent::default();
    let Some(place) = smallest(&task.stages) else {
        return Ok(spent);
    };
    let mut half = Vec::new();
    spent.measure(|| {
        let keep = |stage, number, z| {
            if (stage, number) == place {
                half = z;
            }
        };
        let dealt = Dealt::Stream(dealer);
        reopened::evaluate(&task.stages, seed, operands, peer, dealt, keep)
    })?;
    let own = &operands[place.0][place.1];
    for words in [&own.x, &own.weights, &half] {
        reopened::send(peer, words)?;
    }
    Ok(spent)
}
