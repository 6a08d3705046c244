//! Results as people know them from lm-evaluation-harness, and a second table for fidelity and cost.

use marill_report::{Table, bytes};

use crate::harness::Report;

/// `|Tasks|Version|Filter|n-shot|Metric| |Value| |Stderr|`, one row a metric.
pub fn scores(reports: &[Report]) -> String {
    let mut table =
        Table::new(["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]).right(&[1, 3, 6, 8]);
    for report in reports {
        for (i, metric) in report.metrics.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            table.row([
                first(report.task.clone()),
                first(report.version.to_string()),
                "none".into(),
                report.few_shot.to_string(),
                metric.name.into(),
                if metric.higher_is_better { "↑" } else { "↓" }.into(),
                format!("{:.4}", metric.value),
                "±".into(),
                format!("{:.4}", metric.stderr),
            ]);
        }
    }
    table.markdown()
}

/// `|Engine|Setting|Network|agreement with twin|s/token|MiB/token|rounds/token|`; empty where nothing was secure.
pub fn fidelity_and_cost(reports: &[Report]) -> String {
    let mut table = Table::new([
        "Engine",
        "Setting",
        "Network",
        "agreement with twin",
        "prefill s",
        "prefill sent",
        "s/token",
        "MiB/token",
        "rounds/token",
    ])
    .right(&[3, 4, 5, 6, 7, 8]);
    for report in reports {
        let Some(cost) = &report.cost else { continue };
        let per = |total: f64, count: u64| total / count.max(1) as f64;
        let decode = |text: String| if cost.decode_steps == 0 { "-".into() } else { text };
        let sent_and_received = (cost.decode_bytes_sent + cost.decode_bytes_received) as f64;
        table.row([
            report.engine.to_string(),
            "dealer".into(),
            "in-process".into(),
            report.twin_equal.map_or_else(|| "-".into(), |equal| format!("{equal}/{}", report.n)),
            format!("{:.3}", per(cost.prefill_seconds, cost.prompts)),
            bytes(cost.prefill_bytes_sent / cost.prompts.max(1)),
            decode(format!("{:.3}", per(cost.decode_seconds, cost.decode_steps))),
            decode(format!("{:.3}", per(sent_and_received, cost.decode_steps) / (1024.0 * 1024.0))),
            decode(format!("{:.1}", per(cost.decode_rounds as f64, cost.decode_steps))),
        ]);
    }
    if reports.iter().all(|report| report.cost.is_none()) { String::new() } else { table.markdown() }
}
