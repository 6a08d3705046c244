//! The same steps in the setting `2pc`: two threads, no dealer; the result compared with the twin,
//! the traffic with the tally.

use std::{sync::Arc, thread};

use anyhow::anyhow;
use marill_mpc::{
    ClientSession, Extension, Selection, ServerSession, TwoParty,
    two_party::{
        Counted, Phase, Preparation, Products, Traffic, tally_preparations,
        tally_two_party_by_label,
    },
};
use marill_report::{Table, bytes};
use serde_json::{Value, json};

use crate::{
    args::network::link,
    commands::bench::{
        clock::{Spent, alone},
        parties::ends,
        plan::Plan,
        shapes::Model,
    },
    output::failure::BadInput,
};

const PHASES: [(Phase, &str); 4] = [
    (Phase::Setup, "setup"),
    (Phase::Extension, "extension"),
    (Phase::Offline, "offline"),
    (Phase::Online, "online"),
];

/// How the parties talk and make transfers.
pub struct Wiring<'a> {
    pub network: &'a str,
    pub extension: Extension,
    pub products: Products,
}

/// What a run gave.
pub struct Outcome {
    pub tokens: Vec<u32>,
    e0: Spent,
    e1: Spent,
    /// E0's traffic of the measured steps, in the order of [`PHASES`]; the set-up is that of the
    /// whole session.
    traffic: [Traffic; 4],
    factor_bits: [u32; 2],
    products: Products,
    /// All of the session, and how many of them were before the measured steps.
    preparations: Vec<Preparation>,
    before: usize,
}

/// Runs both parties over random activations.
///
/// # Errors
/// What a session reports.
pub fn run(
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    wiring: &Wiring<'_>,
) -> anyhow::Result<Outcome> {
    TwoParty::check(&model.public.spec, None).map_err(|error| BadInput(error.into()))?;
    let [own, other] = ends(link(wiring.network)?);
    let extension = wiring.extension;
    let products = wiring.products;
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            alone(move || {
                let weights = Arc::clone(&model.public);
                let private = Arc::clone(&model.private);
                let session = ServerSession::without_dealer(weights, private, other, extension)?;
                let mut session = session.with_products(products);
                plan.clock(|k| {
                    if k == 0 {
                        session.prefill(plan.prompt)
                    } else {
                        session.decode()
                    }
                })
            })?
        });
        let weights = Arc::clone(&model.public);
        let session = ClientSession::without_dealer(weights, own, extension)?;
        let mut session = session.with_products(products);
        let factor_bits = session.factor_bits();
        let outcome = alone(|| client(&mut session, inputs, plan))?;
        let server = server.join();
        let (tokens, e0, traffic, (preparations, before)) = outcome?;
        let e1 = server.unwrap_or_else(|_| Err(anyhow!("a party panicked")))?;
        Ok(Outcome {
            tokens,
            e0,
            e1,
            traffic,
            factor_bits,
            products,
            preparations,
            before,
        })
    })
}

type Ran = (Vec<u32>, Spent, [Traffic; 4], (Vec<Preparation>, usize));

fn client(
    session: &mut ClientSession<TwoParty>,
    inputs: &[Vec<u64>],
    plan: &Plan,
) -> anyhow::Result<Ran> {
    let of = |session: &ClientSession<TwoParty>| PHASES.map(|(phase, _)| session.traffic_of(phase));
    let mut tokens = Vec::new();
    let mut spent = Spent::default();
    let mut traffic = [Traffic::default(); 4];
    let mut preparations = Vec::new();
    let mut before = 0;
    for (k, input) in inputs.iter().enumerate() {
        let sent = of(session);
        // Steps that are measured are not prepared with others.
        match k {
            // A prompt is prepared by itself.
            0 => {}
            1 => session.expect(if plan.measured(1) {
                plan.tokens
            } else {
                plan.warm
            }),
            _ if plan.measured(k) && !plan.measured(k - 1) => session.expect(plan.tokens),
            _ => {}
        }
        let step = |session: &mut ClientSession<TwoParty>| {
            if k == 0 {
                session.prefill(input)
            } else {
                session.decode(input)
            }
        };
        if !plan.measured(k) {
            tokens.push(step(session)?);
            preparations.extend(session.take_preparations());
            before = preparations.len();
            continue;
        }
        tokens.push(spent.measure(|| step(session))?);
        preparations.extend(session.take_preparations());
        let after = of(session);
        for i in 1..4 {
            traffic[i] += after[i] - sent[i];
        }
    }
    traffic[0] = of(session)[0];
    Ok((tokens, spent, traffic, (preparations, before)))
}

impl Outcome {
    /// What the tally says of the measured steps, by label.
    ///
    /// # Errors
    /// What the tally reports.
    pub fn tallied(
        &self,
        model: &Model,
        plan: &Plan,
    ) -> anyhow::Result<Vec<(&'static str, Counted)>> {
        let (first, rows) = plan.first_measured();
        let mut sum: Vec<(&'static str, Counted)> = Vec::new();
        for k in 0..plan.tokens.max(1) {
            let spec = &model.public.spec;
            let bits = Some(self.factor_bits);
            let greedy = Selection::Greedy;
            let parts =
                tally_two_party_by_label(spec, greedy, first + k, rows, bits, self.products)?;
            for (label, part) in parts {
                match sum.iter_mut().find(|(known, _)| *known == label) {
                    Some((_, sum)) => *sum += &part,
                    None => sum.push((label, part)),
                }
            }
        }
        let spec = &model.public.spec;
        let bits = Some(self.factor_bits);
        let made = tally_preparations(spec, Selection::Greedy, &self.preparations, bits)?;
        for offline in made.into_iter().skip(self.before) {
            let part = Counted {
                offline,
                ..Counted::default()
            };
            sum.push(("preparation", part));
        }
        Ok(sum)
    }

    /// E0's wall time, per token or for the prompt.
    #[must_use]
    pub fn seconds(&self, plan: &Plan) -> f64 {
        self.e0.wall / plan.tokens.max(1) as f64
    }

    /// Whether online and offline messages are those that were counted.
    #[must_use]
    pub fn equals(&self, parts: &[(&'static str, Counted)]) -> bool {
        let mut sum = Counted::default();
        parts.iter().for_each(|(_, part)| sum += part);
        let sent = |traffic: Traffic| [traffic.sent, traffic.received];
        sent(self.traffic[3]) == sum.online.sent
            && self.traffic[3].rounds == sum.online.rounds
            && sent(self.traffic[2]) == sum.offline.sent
    }

    /// Bytes, rounds and seconds per token or for the prompt.
    #[must_use]
    pub fn report(&self, plan: &Plan, parts: &[(&'static str, Counted)]) -> Value {
        let per = plan.tokens.max(1) as u64;
        let mut value = json!({});
        for ((_, name), traffic) in PHASES.iter().zip(&self.traffic) {
            let per = if *name == "setup" { 1 } else { per };
            value[format!("{name}_bytes")] = json!({
                "e0_to_e1": traffic.sent / per, "e1_to_e0": traffic.received / per,
            });
            value[format!("{name}_rounds")] = json!(traffic.rounds / per);
        }
        let mut sum = Counted::default();
        parts.iter().for_each(|(_, part)| sum += part);
        let transfers = sum.transfers.cots();
        value["transfers"] = json!({
            "e0_sends": transfers[0] as u64 / per, "e1_sends": transfers[1] as u64 / per,
        });
        value["cpu_seconds"] = json!({
            "e0": self.e0.cpu / per as f64, "e1": self.e1.cpu / per as f64,
        });
        value["seconds"] = json!(self.seconds(plan));
        value
    }
}

/// Messages of the measured steps by label, the most bytes first.
pub fn explain(parts: &[(&'static str, Counted)]) {
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.online.bytes() + part.offline.bytes()));
    let mut table = Table::new([
        "all layers, at",
        "rounds",
        "E0 sends",
        "E1 sends",
        "offline",
        "transfers",
    ])
    .right(&[1, 2, 3, 4, 5]);
    for (label, part) in parts {
        let transfers: usize = part.transfers.cots().iter().sum();
        table.row([
            (*label).to_string(),
            part.online.rounds.to_string(),
            bytes(part.online.sent[0]),
            bytes(part.online.sent[1]),
            bytes(part.offline.bytes()),
            marill_report::count(transfers as u64),
        ]);
    }
    eprintln!("{}", table.markdown());
}
