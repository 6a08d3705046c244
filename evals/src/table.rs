//! Results as people know them from lm-evaluation-harness, and a second table for fidelity and
//! cost.

use marill_report::{Table, bytes};

use crate::{
    compare::Difference,
    engine::{SecureCost, TWO_PARTY},
    harness::Report,
};

/// `|Tasks|Version|Filter|n-shot|Metric| |Value| |Stderr|`, one row a metric.
pub fn scores(reports: &[Report]) -> String {
    let mut table = Table::new([
        "Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr",
    ])
    .right(&[1, 3, 6, 8]);
    let several = reports
        .iter()
        .any(|report| report.engine != reports[0].engine);
    for report in reports {
        let name = if several {
            format!("{} ({})", report.task, report.engine)
        } else {
            report.task.clone()
        };
        for (i, metric) in report.metrics.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            table.row([
                first(name.clone()),
                first(report.version.to_string()),
                "none".into(),
                report.few_shot.to_string(),
                metric.name.into(),
                if metric.higher_is_better {
                    "↑"
                } else {
                    "↓"
                }
                .into(),
                format!("{:.4}", metric.value),
                "±".into(),
                format!("{:.4}", metric.stderr),
            ]);
        }
    }
    table.markdown()
}

/// `|Task|Metric|n|A|B|B - A|Stderr|95% interval|same answers|`.
pub fn differences(differences: &[Difference]) -> String {
    let columns = [
        "Task",
        "Metric",
        "n",
        "A",
        "B",
        "B - A",
        "Stderr",
        "95% interval",
        "same answers",
    ];
    let mut table = Table::new(columns).right(&[2, 3, 4, 5, 6, 7, 8]);
    for d in differences {
        table.row([
            d.task.clone(),
            d.metric.into(),
            d.n.to_string(),
            format!("{:.4}", d.a),
            format!("{:.4}", d.b),
            format!("{:+.4}", d.difference),
            format!("{:.4}", d.stderr),
            format!("[{:+.4}, {:+.4}]", d.interval[0], d.interval[1]),
            format!("{}/{}", d.same_answers, d.n),
        ]);
    }
    table.markdown()
}

/// A line for each task whose runs have different examples; empty when they have the same ones.
pub fn left_out(differences: &[Difference]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for d in differences.iter().filter(|d| d.alone != [0, 0]) {
        let [a, b] = d.alone;
        let line = format!(
            "note: `{}`: {} examples in both; {a} of A and {b} of B are left out\n",
            d.task, d.n
        );
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

/// `|Engine|Setting|Network|agreement with twin|Metric|value -
/// twin's|s/token|MiB/token|rounds/token|`; the agreement is of greedy answers, and the difference
/// of a metric that both engines have. Empty where one engine without a protocol answered.
pub fn fidelity_and_cost(reports: &[Report]) -> String {
    if reports
        .iter()
        .all(|report| report.cost.is_none() && report.engine == reports[0].engine)
    {
        return String::new();
    }
    let columns = [
        "Task",
        "Engine",
        "Setting",
        "Network",
        "agreement with twin",
        "Metric",
        "value - twin's",
    ];
    let costs = [
        "s/example",
        "prefill s",
        "prefill sent",
        "s/token",
        "MiB/token",
        "rounds/token",
    ];
    let mut table =
        Table::new(columns.into_iter().chain(costs)).right(&[4, 6, 7, 8, 9, 10, 11, 12]);
    for report in reports {
        let twin = reports
            .iter()
            .find(|r| r.engine == "twin" && r.task == report.task && report.engine != "twin");
        table.row(fidelity_row(report, twin));
    }
    table.markdown()
}

/// The cells of one report beside the `twin`'s on the same task.
fn fidelity_row(report: &Report, twin: Option<&Report>) -> Vec<String> {
    let dash = || "-".to_string();
    let same = |twin: &Report| {
        let pairs = report.examples.iter().zip(&twin.examples);
        format!(
            "{}/{}",
            pairs
                .filter(|(a, b)| a.answer_sha256 == b.answer_sha256)
                .count(),
            report.n
        )
    };
    let agreement = match (report.twin_equal, twin) {
        (Some(equal), _) => format!("{equal}/{}", report.n),
        (None, Some(twin)) if report.writes() => same(twin),
        _ => dash(),
    };
    // Every engine has `exact_match`, so a classification is compared by that one, and never by
    // two in one column.
    let named =
        |name: &str, report: &'_ Report| report.metrics.iter().find(|m| m.name == name).cloned();
    let shared = twin.and_then(|twin| {
        let names = ["exact_match"]
            .into_iter()
            .chain(report.metrics.iter().map(|m| m.name));
        names
            .into_iter()
            .find_map(|name| Some((named(name, report)?, named(name, twin)?)))
    });
    let metric = shared
        .as_ref()
        .map_or_else(dash, |(mine, _)| mine.name.into());
    let difference = shared.map_or_else(dash, |(mine, twin)| {
        format!("{:+.4}", mine.value - twin.value)
    });
    let mut row = vec![report.task.clone(), report.engine.to_string()];
    match &report.cost {
        Some(_) => {
            let two_party = report.engine == TWO_PARTY;
            let setting = if two_party { "2pc" } else { "dealer" };
            row.extend([setting.into(), "in-process".into()]);
        }
        None => row.extend([dash(), dash()]),
    }
    row.extend([
        agreement,
        metric,
        difference,
        format!("{:.3}", report.seconds / report.n.max(1) as f64),
    ]);
    row.extend(
        report
            .cost
            .as_ref()
            .map_or_else(|| vec![dash(); 5], cost_cells),
    );
    row
}

fn cost_cells(cost: &SecureCost) -> Vec<String> {
    let per = |total: f64, count: u64| total / count.max(1) as f64;
    let decode = |text: String| {
        if cost.decode_steps == 0 {
            "-".into()
        } else {
            text
        }
    };
    let sent_and_received = (cost.decode_bytes_sent + cost.decode_bytes_received) as f64;
    vec![
        format!("{:.3}", per(cost.prefill_seconds, cost.prompts)),
        bytes(cost.prefill_bytes_sent / cost.prompts.max(1)),
        decode(format!(
            "{:.3}",
            per(cost.decode_seconds, cost.decode_steps)
        )),
        decode(format!(
            "{:.3}",
            per(sent_and_received, cost.decode_steps) / (1024.0 * 1024.0)
        )),
        decode(format!(
            "{:.1}",
            per(cost.decode_rounds as f64, cost.decode_steps)
        )),
    ]
}
