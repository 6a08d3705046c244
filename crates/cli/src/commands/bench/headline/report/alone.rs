//! What the setting `2pc` takes: counted, with its share of what is made ahead.

use std::sync::{Mutex, PoisonError};

use marill_plan::{Network, Side, Work};
use marill_report::{Table, bytes};

use crate::commands::bench::{
    headline::forms::{FORMS, ModelForm, SHAPE, Step, Weights},
    shapes,
};

const ABOUT: &str = "\
Client and server alone, in both directions: what a step sends, its share of what is made ahead for
32 tokens, and its transfers, but for the rounds in which those are extended (some 35 a layer and
token); set-up is not in it (8.4 MB each way a session). Embedding and output
head are public here. Seconds are the waiting alone, as counted. Nothing was timed for this table;
processor times are in [two parties](../two-party.md). What a private layer costs is its gates, so
low rank saves nothing here and freezing all that it freezes.";

/// Every form at every step. Counting takes seconds, and shapes do not change.
///
/// # Errors
/// What counting reports.
pub fn table() -> anyhow::Result<String> {
    static TABLE: Mutex<Option<String>> = Mutex::new(None);
    // Whoever comes meanwhile waits rather than counting it too.
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(table) = &*table {
        return Ok(table.clone());
    }
    Ok(table.insert(count()?).clone())
}

fn count() -> anyhow::Result<String> {
    let mut table = Table::new([
        "step",
        "form",
        "rounds",
        "bytes",
        "full fine-tune, times",
        "waiting, LAN, s",
        "waiting, WAN, s",
    ])
    .right(&[2, 3, 4, 5, 6]);
    for step in Step::ALL {
        let full = sent(&FORMS[0], step)?;
        for form in &FORMS {
            let cost = sent(form, step)?;
            let both = |cost: &marill_mpc::cost::Cost| cost.e0_to_e1_bytes + cost.e1_to_e0_bytes;
            let waiting = |name| -> anyhow::Result<String> {
                let network = Network::named(name)?;
                let seconds = network.map_or(0.0, |network| network.waiting(&cost, Side::ALONE));
                Ok(format!("{seconds:.2}"))
            };
            table.row([
                step.to_string(),
                form.title.to_string(),
                cost.rounds.to_string(),
                bytes(both(&cost)),
                format!("{:.1}", both(&full) as f64 / both(&cost) as f64),
                waiting("lan")?,
                waiting("wan")?,
            ]);
        }
    }
    Ok(format!("{ABOUT}\n\n{}", table.markdown()))
}

fn sent(form: &ModelForm, step: Step) -> anyhow::Result<marill_mpc::cost::Cost> {
    let (cached, rows) = step.shape();
    let shape = form.session_shape(Weights::MaskedOnce, cached + rows + 48);
    let spec = shapes::spec(SHAPE, shape)?;
    Ok(Work::of(&spec, Side::ALONE, cached, rows)?.1)
}
