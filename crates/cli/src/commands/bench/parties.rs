//! Client, server and dealer on three threads, the evaluators' link shaped in user space.

use std::{sync::Arc, thread};

use anyhow::anyhow;
use marill_mpc::{
    AdapterKey, ClientSession, Comparison, DealerSession, EncryptedAdapter, PrivateProducts, Seed,
    ServerSession, cost::Cost,
};
use marill_net::{Channel, Link, Shaped, memory_pair};

use super::{
    clock::{Spent, alone},
    plan::Plan,
    shapes::Model,
};
use crate::output::failure::BadInput;

/// How the parties talk.
pub struct Wiring {
    pub comparison: Comparison,
    /// How private updates are made.
    pub products: PrivateProducts,
    /// Between the evaluators, and from the dealer to each of them.
    pub link: Option<Link>,
    pub dealer_link: Option<Link>,
}

/// Both ends of a channel in memory, with a link's delay and bandwidth where one is given.
pub fn ends(link: Option<Link>) -> [Box<dyn Channel>; 2] {
    let (a, b) = memory_pair();
    match link {
        Some(link) => [
            Box::new(Shaped::new(a, link)),
            Box::new(Shaped::new(b, link)),
        ],
        None => [Box::new(a), Box::new(b)],
    }
}

/// What a run gave.
pub struct Outcome {
    pub tokens: Vec<u32>,
    pub e0: Spent,
    /// E0's products of its masks, made before each measured step and not part of it.
    pub e0_precompute: Spent,
    pub e1: Spent,
    pub dealer: Spent,
    pub cost: Cost,
    /// What E0 sent to prepare private products by lattice for all measured steps.
    pub offline_bytes: u64,
}

/// Runs all parties over random activations.
pub fn run_parties(
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    wiring: &Wiring,
) -> anyhow::Result<Outcome> {
    let spec = model.public.spec.clone();
    let adapter_seed = Seed::random();
    let seed0 = Seed::random();
    let seed1 = Seed::random();
    let [client_end, server_end] = ends(wiring.link);
    let [sink, stream] = ends(wiring.dealer_link);
    let [dcf_keys, own_dcf_keys] = ends(wiring.dealer_link);
    let comparison = wiring.comparison;
    let products = wiring.products;
    let (key, encrypted) = encrypted(model, products)?.unzip();
    let adapter = model.private.mask(&spec, &adapter_seed);
    thread::scope(|scope| {
        let dealer = {
            let seeds = [adapter_seed, seed0.clone(), seed1.clone()];
            scope.spawn(move || {
                alone(move || {
                    let [adapter_seed, seed0, seed1] = seeds;
                    let session = match products {
                        PrivateProducts::Masks => {
                            DealerSession::new(spec, adapter_seed, seed0, seed1, sink)
                        }
                        PrivateProducts::Lattice => {
                            DealerSession::without_adapter(spec, [seed0, seed1], sink)
                        }
                    };
                    match comparison {
                        Comparison::Dcf => dealer(session.with_dcf(dcf_keys), plan),
                        Comparison::OneHot => dealer(session, plan),
                    }
                })?
            })
        };
        let server = scope.spawn(move || {
            alone(move || {
                let public = Arc::clone(&model.public);
                let private = &model.private;
                let session = ServerSession::new(public, private, seed1, server_end, stream)?;
                let session = match key {
                    Some(key) => session.with_adapter_key(key),
                    None => session,
                };
                server(session.with_comparison(comparison), plan)
            })?
        });
        let public = Arc::clone(&model.public);
        let mut session = match encrypted {
            Some(encrypted) => ClientSession::with_encrypted(public, encrypted, seed0, client_end),
            None => ClientSession::new(public, &adapter, seed0, client_end)?,
        };
        if comparison == Comparison::Dcf {
            session = session.with_dcf(own_dcf_keys);
        }
        let (tokens, e0, e0_precompute, mut cost, offline_bytes) =
            alone(|| client(&mut session, inputs, plan))??;
        fn joined<T>(party: thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
            party.unwrap_or_else(|_| Err(anyhow!("a party panicked")))
        }
        let (e1, received) = joined(server.join())?;
        let dealer = joined(dealer.join())?;
        cost.dealer_to_e1_bytes = received;
        Ok(Outcome {
            tokens,
            e0,
            e0_precompute,
            e1,
            dealer,
            cost,
            offline_bytes,
        })
    })
}

/// E1's key and E0's adapter under it, where private products are made by lattice.
fn encrypted(
    model: &Model,
    products: PrivateProducts,
) -> anyhow::Result<Option<(Arc<AdapterKey>, Arc<EncryptedAdapter>)>> {
    if products.is_masks() {
        return Ok(None);
    }
    let spec = &model.public.spec;
    let (key, bytes) =
        AdapterKey::encrypt(spec, &model.private).map_err(|error| BadInput(error.into()))?;
    let adapter = EncryptedAdapter::from_bytes(spec, &bytes)?;
    Ok(Some((key, Arc::new(adapter))))
}

/// The dealer's steps: what the measured ones take.
///
/// # Errors
/// What the session reports.
pub fn dealer(mut session: DealerSession, plan: &Plan) -> anyhow::Result<Spent> {
    plan.clock(|k| {
        if k == 0 {
            session.prefill(plan.prompt)
        } else {
            session.decode()
        }
    })
}

/// E1's steps: what the measured ones take, and the bytes that the dealer sent for them.
///
/// # Errors
/// What the session reports.
pub fn server(mut session: ServerSession, plan: &Plan) -> anyhow::Result<(Spent, u64)> {
    let mut received = 0;
    let spent = plan.clock(|k| {
        let before = session.traffic().dealer_bytes;
        if k == 0 {
            session.prefill(plan.prompt)
        } else {
            session.decode()
        }?;
        received += if plan.measured(k) {
            session.traffic().dealer_bytes - before
        } else {
            0
        };
        Ok(())
    })?;
    Ok((spent, received))
}

/// E0's steps: tokens, what the measured steps take, what was precomputed for them, their cost, and
/// what was sent to prepare them.
///
/// # Errors
/// What the session reports.
pub fn client(
    session: &mut ClientSession,
    inputs: &[Vec<u64>],
    plan: &Plan,
) -> anyhow::Result<(Vec<u32>, Spent, Spent, Cost, u64)> {
    let mut tokens = Vec::new();
    let mut spent = Spent::default();
    let mut precompute = Spent::default();
    let mut cost = Cost::default();
    let mut offline = 0;
    let mut precomputer = session.precomputer();
    // Steps that are not measured prepare themselves alone.
    session.expect(1);
    for (k, input) in inputs.iter().enumerate() {
        let step = |session: &mut ClientSession| {
            if k == 0 {
                session.prefill(input)
            } else {
                session.decode(input)
            }
        };
        if !plan.measured(k) {
            tokens.push(step(session)?);
            offline = session.traffic().offline_bytes;
            continue;
        }
        if let Some(precomputer) = &mut precomputer {
            session.accept(precompute.measure(|| precomputer.precompute(k as u64, plan.rows(k)))?);
        }
        session.expect(plan.tokens);
        let before = session.traffic();
        tokens.push(spent.measure(|| step(session))?);
        let after = session.traffic();
        cost.rounds += after.rounds - before.rounds;
        cost.e0_to_e1_bytes += after.bytes_sent - before.bytes_sent;
        cost.e1_to_e0_bytes += after.bytes_received - before.bytes_received;
        cost.dealer_to_e0_bytes += after.dealer_bytes - before.dealer_bytes;
    }
    let offline = session.traffic().offline_bytes - offline;
    Ok((tokens, spent, precompute, cost, offline))
}
