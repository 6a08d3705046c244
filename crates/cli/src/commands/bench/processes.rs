//! The parties as processes of this very program: client here, server and dealer as children, over
//! WebSockets on loopback as services use them, their links shaped in user space if asked for.
//!
//! In setting `dealer` the dealer is done before the first step: what it sent lies in a file at the
//! server, as preprocessed sessions do. In `3pc` it sends while the steps run, and no further ahead
//! than the connection's buffers.

mod connections;
pub mod party;
mod spool;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, ensure};
use marill_mpc::{ClientSession, Comparison, PrivateProducts, Seed};
use marill_net::{Channel, SharedChannel};
use serde::{Deserialize, Serialize};

use self::{connections::connect, spool::Spool};
use super::{
    clock::{Spent, alone},
    parties::{Outcome, Wiring, client},
    plan::Plan,
    reopened::{self, Dealt, Operands, Stage},
    shapes::{Form, Model},
};
use crate::{args::network::link, process::Service};

/// Longest wait for a frame: the dealer of a large step is done after minutes.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What a child is to do, on its standard input.
#[derive(Serialize, Deserialize)]
struct Task {
    party: Party,
    arch: String,
    form: Form,
    plan: Plan,
    comparison: Comparison,
    /// Links as `--network` and `--dealer-network` name them.
    network: String,
    dealer_network: String,
    /// Whether all correlations are there before the first step.
    ahead: bool,
    /// Where the dealer listens, for the server.
    dealer: Option<String>,
    /// The server's own; at the dealer the adapter's, E0's and E1's.
    seeds: Vec<[u8; 32]>,
    /// Products behind the steps, for the baseline that opens its weights.
    stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Party {
    Server,
    Dealer,
}

/// What a child took, on its standard output.
#[derive(Serialize, Deserialize)]
struct Took {
    steps: Spent,
    /// Bytes that the dealer sent for the measured steps.
    received: u64,
    products: Spent,
}

/// What is run, beside model and inputs.
pub struct Run<'a> {
    pub arch: &'a str,
    pub form: Form,
    pub plan: Plan,
    pub comparison: Comparison,
    pub network: &'a str,
    pub dealer_network: &'a str,
    /// Setting `dealer`; otherwise `3pc`.
    pub ahead: bool,
    pub stages: &'a [Stage],
}

/// What the products of the baseline took, by party.
#[derive(Clone, Copy, Default)]
pub struct Products {
    pub e0: Spent,
    pub e1: Spent,
    pub dealer: Spent,
}

/// Runs the steps over random activations, then the products.
///
/// # Errors
/// What a party reports.
pub fn run(
    model: &Model,
    inputs: &[Vec<u64>],
    run: &Run<'_>,
) -> anyhow::Result<(Outcome, Products)> {
    let seeds = [(); 3].map(|()| Seed::random());
    let [adapter_seed, seed0, seed1] = &seeds;
    let dealer = start("dealer", &run.task(Party::Dealer, None, &seeds.each_ref()))?;
    let address = dealer.url.clone();
    let server = start("server", &run.task(Party::Server, Some(address), &[seed1]))?;
    let found = evaluate(model, inputs, run, [adapter_seed, seed0], &server, &dealer);
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            // A party that failed says more than the connection that it left.
            let why = [dealer, server].into_iter().map(Service::finish);
            let why = why.filter_map(Result::err).map(|error| error.to_string());
            let why: Vec<String> = why.collect();
            return Err(if why.is_empty() {
                error
            } else {
                anyhow!(why.join("; "))
            });
        }
    };
    let (mut outcome, e0_products) = found;
    let dealer: Took = serde_json::from_slice(&dealer.finish()?)?;
    let server: Took = serde_json::from_slice(&server.finish()?)?;
    outcome.e1 = server.steps;
    outcome.dealer = dealer.steps;
    outcome.cost.dealer_to_e1_bytes = server.received;
    let products = Products {
        e0: e0_products,
        e1: server.products,
        dealer: dealer.products,
    };
    Ok((outcome, products))
}

impl Run<'_> {
    fn task(&self, party: Party, dealer: Option<String>, seeds: &[&Seed]) -> Task {
        Task {
            party,
            arch: self.arch.to_string(),
            form: self.form,
            plan: self.plan,
            comparison: self.comparison,
            network: self.network.to_string(),
            dealer_network: self.dealer_network.to_string(),
            ahead: self.ahead,
            dealer,
            seeds: seeds.iter().map(|seed| seed.to_bytes()).collect(),
            stages: self.stages.to_vec(),
        }
    }

    fn wiring(&self) -> anyhow::Result<Wiring> {
        Ok(Wiring {
            comparison: self.comparison,
            products: PrivateProducts::Masks,
            link: link(self.network)?,
            dealer_link: link(self.dealer_network)?,
        })
    }
}

fn start(name: &'static str, task: &Task) -> anyhow::Result<Service> {
    Service::start_with(name, &["bench", "party"], &serde_json::to_vec(task)?)
}

/// E0's side: its steps, then its products.
fn evaluate(
    model: &Model,
    inputs: &[Vec<u64>],
    run: &Run<'_>,
    [adapter_seed, seed]: [&Seed; 2],
    server: &Service,
    dealer: &Service,
) -> anyhow::Result<(Outcome, Spent)> {
    let wiring = run.wiring()?;
    let adapter = model.private.mask(&model.public.spec, adapter_seed);
    let mut peer = SharedChannel::new(connect(&server.url, b'c', wiring.link)?);
    let dcf_keys: Option<Box<dyn Channel>> = match run.comparison {
        Comparison::OneHot => None,
        Comparison::Dcf => {
            let mut keys = connect(&dealer.url, b'c', wiring.dealer_link)?;
            Some(if run.ahead {
                Box::new(Spool::fill(keys)?)
            } else {
                ready(&mut keys)?;
                keys
            })
        }
    };
    let operands = Operands::expand(&seed.derive("operands"), run.stages);
    // The server is there, and in setting `dealer` all that the dealer sends it.
    ready(&mut peer)?;
    let end = Box::new(peer.clone());
    let mut session = ClientSession::new(Arc::clone(&model.public), &adapter, seed.clone(), end)?;
    if let Some(keys) = dcf_keys {
        session = session.with_dcf(keys);
    }
    let (tokens, e0, e0_precompute, cost, offline_bytes) =
        alone(|| client(&mut session, inputs, &run.plan))??;
    drop(session);
    let products = alone(|| multiply(run.stages, seed, &operands, &mut peer))??;
    let outcome = Outcome {
        tokens,
        e0,
        e0_precompute,
        e1: Spent::default(),
        dealer: Spent::default(),
        cost,
        offline_bytes,
    };
    Ok((outcome, products))
}

/// Waits until the other side is.
fn ready(channel: &mut dyn Channel) -> anyhow::Result<()> {
    let frame = channel.recv().context("a party did not become ready")?;
    ensure!(frame.is_empty(), "a party spoke before it was ready");
    Ok(())
}

/// E0's side of the baseline's products, and a check of the smallest against its operands, which
/// E1 sends at the end.
fn multiply(
    stages: &[Stage],
    seed: &Seed,
    operands: &[Vec<Operands>],
    peer: &mut dyn Channel,
) -> anyhow::Result<Spent> {
    let mut spent = Spent::default();
    let Some(place) = smallest(stages) else {
        return Ok(spent);
    };
    let product = stages[place.0][place.1];
    let mut half = Vec::new();
    spent.measure(|| {
        let keep = |stage, number, z| {
            if (stage, number) == place {
                half = z;
            }
        };
        reopened::evaluate(stages, seed, operands, peer, Dealt::Seed, keep)
    })?;
    let theirs = Operands {
        x: reopened::receive(peer, product.rows * product.inner)?,
        weights: reopened::receive(peer, product.outer * product.inner)?,
    };
    let their_half = reopened::receive(peer, product.dealt())?;
    let expected = operands[place.0][place.1]
        .plus(&theirs)
        .product(product.inner);
    ensure!(
        reopened::sum(&half, &their_half) == expected,
        "the halves of a product do not add up to it"
    );
    Ok(spent)
}

/// Stage and place of the product with the fewest words.
fn smallest(stages: &[Stage]) -> Option<(usize, usize)> {
    let places = stages.iter().enumerate();
    let places = places.flat_map(|(s, stage)| (0..stage.len()).map(move |p| (s, p)));
    places.min_by_key(|&(s, p)| stages[s][p].opened())
}
