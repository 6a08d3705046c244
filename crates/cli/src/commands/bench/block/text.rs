//! What a person reads of a block's run: tables with units, of the very values that `--json` has.

use std::time::Duration;

use marill_report::{Table, bytes, count};
use serde_json::Value;

/// Everything measured and counted, as text.
pub(super) fn text(report: &Value) -> String {
    let parts = match report["setting"].as_str() {
        Some("2pc") => [two_party_head(report), phases(report), cpu(report)],
        _ => [head(report), steps(report), cpu(report)],
    };
    format!("{}\n\n{}", parts.join("\n\n"), verdict(report))
}

fn word<'a>(report: &'a Value, name: &str) -> &'a str {
    report[name].as_str().unwrap_or(MISSING)
}

/// What stands for a value that the report does not have.
const MISSING: &str = "-";

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| MISSING.into(), count)
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| MISSING.into(), bytes)
}

/// `3.2 ms`, `12.34 s`.
fn time(value: &Value) -> String {
    let Some(seconds) = value.as_f64() else {
        return MISSING.into();
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time < Duration::from_micros(10) => "0.0 ms".into(),
        Ok(time) if time < Duration::from_secs(1) => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// `1 layer`, `2 layers`.
fn counted(value: &Value, one: &str) -> String {
    match value.as_u64() {
        Some(1) => format!("1 {one}"),
        _ => format!("{} {one}s", number(value)),
    }
}

/// What the model is, and which steps were measured.
fn form(report: &Value) -> String {
    let private = match report["private"].as_str() {
        Some("full") => "private full-rank weights".to_string(),
        Some("none") => "nothing private".to_string(),
        _ => format!("LoRA of rank {}", number(&report["rank"])),
    };
    let merged = match report["merge"].as_u64() {
        Some(heads @ 2..) => format!(", {heads} heads per softmax"),
        _ => String::new(),
    };
    let steps = match word(report, "per") {
        "prompt" => format!("a prompt of {}", counted(&report["tokens"], "token")),
        _ => format!(
            "the mean of {}, the first at {}",
            counted(&report["tokens"], "token"),
            counted(&report["context"], "key")
        ),
    };
    format!(
        "{}: {}, {private}{merged}, rounding {}\n{steps}; setting {}",
        word(report, "arch"),
        counted(&report["layers"], "layer"),
        word(report, "rounding"),
        word(report, "setting"),
    )
}

fn head(report: &Value) -> String {
    format!(
        "{}, comparisons {}, link {} between the evaluators, {} from the dealer",
        form(report),
        word(report, "comparison"),
        word(report, "network"),
        word(report, "source_network")
    )
}

fn two_party_head(report: &Value) -> String {
    format!(
        "{}, transfers {}, link {}",
        form(report),
        word(report, "extension"),
        word(report, "network")
    )
}

/// `per token` or `the prompt`.
fn unit(report: &Value) -> &'static str {
    match report["per"].as_str() {
        Some("prompt") => "the prompt",
        _ => "per token",
    }
}

/// Time, rounds and bytes of a step, with a dealer.
fn steps(report: &Value) -> String {
    let mut table = Table::new([
        "step",
        "time",
        "rounds",
        "E0 sends",
        "E1 sends",
        "dealer to E0",
        "dealer to E1",
    ])
    .right(&[1, 2, 3, 4, 5, 6]);
    let online = &report["online_bytes"];
    let source = &report["source_bytes"];
    table.row([
        unit(report).to_string(),
        time(&report["seconds"]),
        number(&report["rounds"]),
        size(&online["e0_to_e1"]),
        size(&online["e1_to_e0"]),
        size(&source["to_e0"]),
        size(&source["to_e1"]),
    ]);
    let layer = &report["layer"];
    table.row([
        "of it, one layer".to_string(),
        String::new(),
        number(&layer["rounds"]),
        size(&layer["e0_to_e1_bytes"]),
        size(&layer["e1_to_e0_bytes"]),
        size(&layer["source_to_e0_bytes"]),
        size(&layer["source_to_e1_bytes"]),
    ]);
    let setup = size(&report["setup_bytes"]);
    let once = format!("Once for all sessions E0 receives {setup} from E1.");
    format!("{}\n\n{once}", table.markdown())
}

/// Rounds and bytes of two parties, by what they are for.
fn phases(report: &Value) -> String {
    let mut table = Table::new(["phase", "rounds", "E0 sends", "E1 sends"]).right(&[1, 2, 3]);
    for name in ["setup", "extension", "offline", "online"] {
        let sent = &report[format!("{name}_bytes")];
        let unit = match name {
            "setup" => "once",
            _ => unit(report),
        };
        table.row([
            format!("{name}, {unit}"),
            number(&report[format!("{name}_rounds")]),
            size(&sent["e0_to_e1"]),
            size(&sent["e1_to_e0"]),
        ]);
    }
    let transfers = &report["transfers"];
    let told = format!(
        "{} {}; transfers: E0 sends {}, E1 sends {}.",
        time(&report["seconds"]),
        unit(report),
        number(&transfers["e0_sends"]),
        number(&transfers["e1_sends"])
    );
    format!("{}\n\n{told}", table.markdown())
}

fn cpu(report: &Value) -> String {
    let names = [
        ("e0", "E0"),
        ("e0_ahead", "E0, ahead"),
        ("e1", "E1"),
        ("source", "dealer"),
    ];
    let cpu = &report["cpu_seconds"];
    let known: Vec<_> = names.iter().filter(|(key, _)| cpu[key].is_f64()).collect();
    let columns: Vec<usize> = (1..=known.len()).collect();
    let header = known.iter().map(|(_, name)| *name);
    let mut table = Table::new(["CPU time"].into_iter().chain(header)).right(&columns);
    let times = known.iter().map(|(key, _)| time(&cpu[key]));
    table.row([unit(report).to_string()].into_iter().chain(times));
    table.markdown()
}

fn verdict(report: &Value) -> String {
    let equal = |value: &Value| match value.as_bool() {
        Some(true) => "equal",
        Some(false) => "DIFFERENT",
        None => "not compared, the rounding is stochastic",
    };
    let error = report["max_abs_error"].as_f64();
    let error = error.map_or_else(String::new, |error| {
        format!("; largest error against real arithmetic {error:.2e}")
    });
    format!(
        "results and the twin's: {}; traffic and the tally: {}{error}",
        equal(&report["twin_equal"]),
        equal(&report["tally_equal"])
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_units() {
        let of = |seconds: f64| time(&json!(seconds));
        assert_eq!(
            [of(0.0), of(0.0251), of(1.234)],
            ["0.0 ms", "25.1 ms", "1.23 s"]
        );
    }

    #[test]
    fn what_is_missing_is_no_zero() {
        let none = json!({ "per": "token", "setting": "dealer" });
        let told = text(&none);
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains("per token | - | - | - |"), "{told}");
    }

    #[test]
    fn a_difference_is_shouted() {
        let told = verdict(&json!({ "twin_equal": false, "tally_equal": true }));
        assert_eq!(
            told,
            "results and the twin's: DIFFERENT; traffic and the tally: equal"
        );
        let told = verdict(&json!({ "twin_equal": null, "tally_equal": true }));
        assert!(told.contains("not compared"), "{told}");
    }
}
