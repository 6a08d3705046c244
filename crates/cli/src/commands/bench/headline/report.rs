//! The page: what the cells that are there give, beside exact counts.

mod alone;
mod peers;
mod text;
mod time;

use marill_mpc::cost::Cost;
use marill_plan::Setting;
use marill_report::{Table, bytes, count};

use self::time::{Cells, Clock};
use super::{
    cells::Cell,
    counts::Counts,
    forms::{FORMS, ModelForm, Step, Weights},
};

/// What a cell that is not there says.
const NOT_RUN: &str = "not run";

/// The published upper ends: times less time, times fewer bytes.
const GOAL: [f64; 2] = [11.3, 6.9];

/// The page in Markdown.
///
/// # Errors
/// What counting reports.
pub fn page(counts: &Counts, cells: &[Cell]) -> anyhow::Result<String> {
    page_with(counts, cells, alone::table()?)
}

fn page_with(counts: &Counts, cells: &[Cell], two_parties: String) -> anyhow::Result<String> {
    let cells = Cells(cells);
    let mut page = text::BEGINNING.to_string();
    let mut section = |title: &str, body: String| page += &format!("\n## {title}\n\n{body}\n");
    section("Ratios", ratios(counts, cells));
    section("Goals", goals(counts, cells));
    section("By technique", techniques(counts, cells));
    section("Seconds", seconds(cells));
    section("Rounds and bytes", rounds_and_bytes(counts)?);
    section("Two parties", two_parties);
    section("Shaped links", time::shaped_links(cells)?);
    section("Beside other systems", peers::table()?);
    section("What is not in it", text::END.to_string());
    Ok(page.trim_end().to_string() + "\n")
}

/// Bytes that travel while a step runs.
fn online(cost: &Cost, setting: Setting) -> u64 {
    let between = cost.e0_to_e1_bytes + cost.e1_to_e0_bytes;
    match setting {
        Setting::Dealer | Setting::TwoParties => between,
        Setting::ThreeParties => between + cost.dealer_to_e1_bytes,
    }
}

fn full() -> &'static ModelForm {
    &FORMS[0]
}

/// Marill's forms.
fn marill() -> impl Iterator<Item = &'static ModelForm> {
    FORMS.iter().filter(|form| form.name.starts_with("marill"))
}

/// Weights and settings, in the order of every table.
fn sides() -> impl Iterator<Item = (Weights, Setting)> {
    Weights::ALL
        .into_iter()
        .flat_map(|weights| Setting::DEALT.map(|setting| (weights, setting)))
}

fn byte_ratio(counts: &Counts, form: &ModelForm, side: (Weights, Setting), step: Step) -> f64 {
    let (weights, setting) = side;
    let of = |form: &ModelForm| online(&counts.of(weights, form.name, step), setting) as f64;
    of(full()) / of(form)
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| NOT_RUN.into(), |value| format!("{value:.1}"))
}

/// How many times more an ordinary fine-tune takes.
fn ratios(counts: &Counts, cells: Cells<'_>) -> String {
    let mut table = Table::new([
        "weights",
        "setting",
        "step",
        "against",
        "bytes online",
        "rounds",
        "time, loopback",
        "time, LAN",
        "time, WAN",
    ])
    .right(&[4, 5, 6, 7, 8]);
    for side in sides() {
        for step in Step::ALL {
            for form in marill() {
                let rounds = |form: &ModelForm| counts.of(side.0, form.name, step).rounds as f64;
                let [loopback, lan, wan] = Clock::ALL.map(|clock| {
                    let seconds = |form| cells.seconds(side, form, step, clock);
                    Some(seconds(full())? / seconds(form)?)
                });
                table.row([
                    side.0.to_string(),
                    side.1.name().to_string(),
                    step.to_string(),
                    form.title.to_string(),
                    ratio(Some(byte_ratio(counts, form, side, step))),
                    ratio(Some(rounds(full()) / rounds(form))),
                    ratio(loopback),
                    ratio(lan),
                    ratio(wan),
                ]);
            }
        }
    }
    format!("{}\n\n{}", text::RATIOS, table.markdown())
}

/// Where the published upper ends are reached at 15 of 30 layers.
fn goals(counts: &Counts, cells: Cells<'_>) -> String {
    let form = &FORMS[4];
    let mut table = Table::new([
        "step",
        "setting",
        "bytes, 6.9",
        "time, loopback, 11.3",
        "time, LAN, 11.3",
        "time, WAN, 11.3",
    ]);
    let verdict = |value: Option<f64>, goal: f64| match value {
        None => NOT_RUN.to_string(),
        Some(value) if value >= goal => format!("{value:.1}, reached"),
        Some(value) => format!("{value:.1}, missed"),
    };
    for step in Step::ALL {
        for setting in Setting::DEALT {
            let side = (Weights::OpenedEachCall, setting);
            let [loopback, lan, wan] = Clock::ALL.map(|clock| {
                let seconds = |form| cells.seconds(side, form, step, clock);
                verdict(
                    seconds(full()).zip(seconds(form)).map(|(a, b)| a / b),
                    GOAL[0],
                )
            });
            table.row([
                step.to_string(),
                setting.name().to_string(),
                verdict(Some(byte_ratio(counts, form, side, step)), GOAL[1]),
                loopback,
                lan,
                wan,
            ]);
        }
    }
    format!("{}\n\n{}", text::GOALS, table.markdown())
}

/// What each technique takes off by itself.
fn techniques(counts: &Counts, cells: Cells<'_>) -> String {
    let mut table = Table::new([
        "weights",
        "step",
        "technique",
        "bytes online",
        "with correlations",
        "rounds",
        "time, LAN, dealer",
        "time, LAN, 3pc",
    ])
    .right(&[3, 4, 5, 6, 7]);
    for weights in Weights::ALL {
        for step in Step::ALL {
            for form in &FORMS[1..5] {
                let rounds = |form: &ModelForm| counts.of(weights, form.name, step).rounds as f64;
                let [dealer, three] = Setting::DEALT.map(|setting| {
                    let side = (weights, setting);
                    let bytes = byte_ratio(counts, form, side, step);
                    let seconds = |form| cells.seconds(side, form, step, Clock::Lan);
                    let time = seconds(full()).zip(seconds(form)).map(|(a, b)| a / b);
                    (bytes, time)
                });
                table.row([
                    weights.to_string(),
                    step.to_string(),
                    form.title.to_string(),
                    format!("{:.2}", dealer.0),
                    format!("{:.2}", three.0),
                    format!("{:.2}", rounds(full()) / rounds(form)),
                    ratio(dealer.1),
                    ratio(three.1),
                ]);
            }
        }
    }
    format!("{}\n\n{}", text::TECHNIQUES, table.markdown())
}

/// Seconds of every cell.
fn seconds(cells: Cells<'_>) -> String {
    let mut table = Table::new([
        "weights, setting",
        "step",
        "form",
        "loopback, measured",
        "LAN, computed",
        "WAN, computed",
        "client CPU, prefix in it",
        "server CPU",
        "dealer CPU",
        "load",
    ])
    .right(&[3, 4, 5, 6, 7, 8, 9]);
    for side in sides() {
        for step in Step::ALL {
            for form in &FORMS {
                let cell = cells.find(side, form, step);
                let of = |clock| {
                    let seconds = cells.seconds(side, form, step, clock);
                    seconds.map_or_else(|| NOT_RUN.into(), |s| format!("{s:.3}"))
                };
                let cpu = |of: fn(&Cell) -> f64| {
                    cell.map_or_else(|| NOT_RUN.into(), |cell| format!("{:.3}", of(cell)))
                };
                let load = cell.and_then(|cell| cell.measured.load[0]);
                let prefix = cell.map_or(String::new(), |cell| {
                    format!(", {:.3}", cell.measured.cpu.prefix)
                });
                table.row([
                    format!("{}, {}", side.0, side.1.name()),
                    step.to_string(),
                    form.title.to_string(),
                    of(Clock::Loopback),
                    of(Clock::Lan),
                    of(Clock::Wan),
                    cpu(|cell| cell.measured.client_seconds()) + &prefix,
                    cpu(|cell| cell.measured.cpu.server),
                    cpu(|cell| cell.measured.cpu.dealer),
                    load.map_or_else(|| "-".into(), |load| format!("{load:.1}")),
                ]);
            }
        }
    }
    let machines = cells.machines();
    format!("{}\n\n{machines}{}", text::SECONDS, table.markdown())
}

/// Exact counts, the same in both settings but for when the dealer's bytes travel.
fn rounds_and_bytes(counts: &Counts) -> anyhow::Result<String> {
    let mut table = Table::new([
        "weights",
        "step",
        "form",
        "rounds",
        "client sends",
        "server sends",
        "dealer to server",
    ])
    .right(&[3, 4, 5, 6]);
    for weights in Weights::ALL {
        for step in Step::ALL {
            for form in &FORMS {
                let cost = counts.of(weights, form.name, step);
                table.row([
                    weights.to_string(),
                    step.to_string(),
                    form.title.to_string(),
                    count(cost.rounds),
                    bytes(cost.e0_to_e1_bytes),
                    bytes(cost.e1_to_e0_bytes),
                    bytes(cost.dealer_to_e1_bytes),
                ]);
            }
        }
    }
    let ends = text::public_ends(counts)?;
    Ok(format!(
        "{}\n\n{}\n\n{ends}",
        text::COUNTS,
        table.markdown()
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::commands::bench::headline::{cells, counts::counts};

    fn docs() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reports")
    }

    fn committed() -> String {
        std::fs::read_to_string(docs().join("headline-cost.md")).unwrap()
    }

    /// The committed page's own section on two parties, which takes minutes to count.
    fn two_parties(page: &str) -> &str {
        let (_, behind) = page.split_once("\n## Two parties\n\n").unwrap();
        behind.split_once("\n\n## ").unwrap().0
    }

    fn committed_cells() -> Vec<Cell> {
        let folder = docs().join("headline/cost-cells");
        let keys = cells::all().unwrap();
        let read = keys.iter().flat_map(|key| key.read(&folder).unwrap());
        read.collect()
    }

    /// After a change on purpose: `marill bench headline --minutes 0 --report FILE`.
    #[test]
    fn the_committed_page_is_what_its_cells_give() {
        let committed = committed();
        let two_parties = two_parties(&committed).to_string();
        let page = page_with(&counts().unwrap(), &committed_cells(), two_parties).unwrap();
        assert!(page == committed, "the page is stale");
    }

    #[test]
    fn a_page_without_cells_says_that_nothing_was_run() {
        let page = page_with(&counts().unwrap(), &[], String::new()).unwrap();
        assert!(page.contains(NOT_RUN) && page.contains("2,241"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
