//! What the setting `2pc` takes: counted, with its share of what is made ahead.

use marill_mpc::cost::Cost;
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

/// What a table about it says first.
const HEADER: [&str; 7] = [
    "step",
    "form",
    "rounds",
    "bytes",
    "full fine-tune, times",
    "waiting, LAN, s",
    "waiting, WAN, s",
];

/// Every form at every step. Counting takes minutes.
///
/// # Errors
/// What counting reports.
pub fn table() -> anyhow::Result<String> {
    let mut table = Table::new(HEADER).right(&[2, 3, 4, 5, 6]);
    for step in Step::ALL {
        rows(step)?.into_iter().for_each(|row| table.row(row));
    }
    Ok(format!("{ABOUT}\n\n{}", table.markdown()))
}

/// Every form at one step.
fn rows(step: Step) -> anyhow::Result<Vec<[String; 7]>> {
    let full = sent(&FORMS[0], step)?;
    let row = |form: &ModelForm| {
        let cost = sent(form, step)?;
        let waiting = |name| -> anyhow::Result<String> {
            let network = Network::named(name)?;
            let seconds = network.map_or(0.0, |network| network.waiting(&cost, Side::ALONE));
            Ok(format!("{seconds:.2}"))
        };
        let [step, title, rounds, sent] = counted(form, step, &cost);
        let ratio = format!("{:.1}", both(&full) as f64 / both(&cost) as f64);
        Ok([
            step,
            title,
            rounds,
            sent,
            ratio,
            waiting("lan")?,
            waiting("wan")?,
        ])
    };
    FORMS.iter().map(row).collect()
}

/// What is counted of a form: the beginning of its row.
fn counted(form: &ModelForm, step: Step, cost: &Cost) -> [String; 4] {
    [
        step.to_string(),
        form.title.to_string(),
        cost.rounds.to_string(),
        bytes(both(cost)),
    ]
}

fn both(cost: &Cost) -> u64 {
    cost.e0_to_e1_bytes + cost.e1_to_e0_bytes
}

fn sent(form: &ModelForm, step: Step) -> anyhow::Result<Cost> {
    let (cached, rows) = step.shape();
    let shape = form.session_shape(Weights::MaskedOnce, cached + rows + 48);
    let spec = shapes::spec(SHAPE, shape)?;
    Ok(Work::of(&spec, Side::ALONE, cached, rows)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the committed table the token of the fewest private layers: others take minutes.
    #[test]
    fn a_committed_token_is_what_is_counted() {
        let committed = include_str!("../../../../../../../docs/reports/headline-cost.md");
        let cells = |line: &str| -> Vec<String> {
            let cells = line.trim_matches('|').split('|').take(4);
            cells.map(|cell| cell.trim().to_string()).collect()
        };
        let (_, section) = committed.split_once("## Two parties").unwrap();
        let lines: Vec<_> = section.lines().map(cells).collect();
        let form = FORMS.iter().max_by_key(|form| form.frozen).unwrap();
        let step = Step::ALL[2];
        let row = counted(form, step, &sent(form, step).unwrap());
        assert!(lines.contains(&row.to_vec()), "stale: {row:?}");
    }

    #[test]
    #[ignore = "counts prompts of 256 rows between two parties: minutes"]
    fn all_that_is_committed_is_what_is_counted() {
        let committed = include_str!("../../../../../../../docs/reports/headline-cost.md");
        assert!(committed.contains(table().unwrap().trim_end()));
    }
}
