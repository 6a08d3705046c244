//! Commands, flags, values and variables of the version before are read.

use std::process::{Command, Output};

fn marill(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(arguments)
        .envs(variables.iter().copied())
        .env("MARILL_STATE", scratch.path().join("state"))
        .env("MARILL_CACHE", scratch.path().join("cache"))
        .current_dir(scratch.path())
        .output()
        .unwrap()
}

/// Runs a command whose arguments are understood: what it then lacks is another matter.
fn understood(arguments: &[&str]) {
    let output = marill(arguments, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("error:"),
        "{text}"
    );
    for complaint in ["unexpected", "unrecognized", "invalid value", "required"] {
        assert!(!text.contains(complaint), "{arguments:?}: {text}");
    }
}

#[test]
fn commands_and_flags_of_the_version_before_are_read() {
    let far = "http://127.0.0.1:9";
    understood(&["evaluate", "--server", far, "--dealer", far]);
    let serve = ["serve", "DIR", "--e0", "operator", "--digits-only"];
    understood(&[&serve[..], &["--ahead", "FILES", "--order", "FILE"]].concat());
    understood(&["dealer", "--ahead", "FILES", "--order", "FILE", "--dry-run"]);
    let generate = ["generate", far, "--dealer", far, "-p", "x"];
    for former in [
        ["--evaluator", far],
        ["--material", "points"],
        ["--material", "digits"],
        ["--correlations", "ahead"],
    ] {
        understood(&[&generate[..], &former].concat());
    }
}

#[test]
fn a_benchmark_with_former_spellings_is_the_same() {
    let bench = ["bench", "--arch", "smollm2-135m", "--layers", "1", "--json"];
    let figures = |flags: &[&str]| {
        let shape = ["--tokens", "1", "--context", "17"];
        let output = marill(&[&bench[..], &shape, flags].concat(), &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        ["material", "comparison", "source_network", "rounds"].map(|key| report[key].clone())
    };
    let before = figures(&["--material", "points", "--source-network", "none"]);
    let now = figures(&["--comparison", "dcf", "--dealer-network", "none"]);
    assert_eq!(before, now);
    assert_eq!(before[..2], ["points".into(), serde_json::json!("dcf")]);
}

#[test]
fn variables_of_the_version_before_are_read() {
    let cases = [
        ("MARILL_EVALUATOR_PORT", "party", "--port"),
        ("MARILL_EVALUATOR", "gateway", "--party"),
        ("MARILL_MATERIAL", "gateway", "--comparison"),
    ];
    for (variable, command, flag) in cases {
        let output = marill(&[command], &[(variable, "no such value")]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{variable}: {text}");
        assert!(text.contains("'no such value'"), "{variable}: {text}");
        assert!(text.contains(flag), "{variable}: {text}");
    }
}

#[test]
fn a_flag_that_never_was_is_refused() {
    let text = String::from_utf8(marill(&["serve", "DIR", "--no-points"], &[]).stderr).unwrap();
    assert!(text.contains("unexpected"), "{text}");
}
