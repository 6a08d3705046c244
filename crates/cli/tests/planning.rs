//! Planning on the embedded base: a budget, a curve, a calibration, an ablation that makes one.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use marill_testkit::processes::marill;
use serde_json::{Value, json};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

fn run(dir: &Path, args: &[&str]) -> Output {
    marill()
        .current_dir(dir)
        .env("MARILL_SHARED", recipes())
        .env("MARILL_CACHE", dir.join("cache"))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .args(args)
        .output()
        .unwrap()
}

fn plan(dir: &Path, more: &[&str]) -> Output {
    let recipe = recipes().join("demo.toml").display().to_string();
    let mut args = vec!["plan", &recipe, "--json"];
    args.extend(more);
    run(dir, &args)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn frozen(found: &Value) -> u64 {
    found["choice"]["frozen"].as_u64().unwrap()
}

/// What the client sends and receives for a token of a choice, in MiB.
fn mebibytes(found: &Value) -> f64 {
    found["choice"]["chosen"]["client_bytes"].as_f64().unwrap() / 1_048_576.0
}

#[test]
fn a_smaller_budget_freezes_more() {
    let dir = folder();
    let of = |budget: f64| {
        let output = plan(dir.path(), &["--budget", &format!("{budget}MiB/token")]);
        assert!(output.status.success(), "{}", said(&output));
        json_of(&output)
    };
    let large = of(100.0);
    assert_eq!(frozen(&large), 0);
    // No budget calls for merged heads where everything fits.
    assert_eq!(large["choice"]["softmaxes"], json!([6, 6, 6, 6, 6, 6]));
    let notes = large["notes"].to_string();
    assert!(notes.contains("the cost alone decides"), "{notes}");
    // A form costs just what it says, so a budget of that keeps it, and less does not.
    let same = of(mebibytes(&large));
    assert_eq!(same["choice"]["softmaxes"], large["choice"]["softmaxes"]);
    let less = of(mebibytes(&large) * 0.999);
    assert_ne!(less["choice"]["softmaxes"], large["choice"]["softmaxes"]);
    let half = of(mebibytes(&large) / 2.0);
    assert!(frozen(&half) > 0, "{half:#}");
    assert!(mebibytes(&half) <= mebibytes(&large) / 2.0);
}

#[test]
fn an_impossible_budget_is_refused_with_the_nearest() {
    let dir = folder();
    let output = plan(dir.path(), &["--budget", "0.0001MiB/token"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("hint: nearest is 5 of 6 layers frozen"),
        "{text}"
    );
    let found = json_of(&output);
    assert_eq!(found["fits"], json!(false));
    assert_eq!(found["reason"], json!("too-dear"));
    assert_eq!(found["nearest_keeps_budget"], json!(false));
    assert_eq!(found["nearest"]["frozen"], json!(5));
}

#[test]
fn seconds_without_a_calibration_say_how_to_make_one() {
    let dir = folder();
    let output = plan(dir.path(), &["--budget", "0.5s/token"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("hint: `marill bench --calibrate`"), "{text}");
}

/// A machine that takes a tenth of a millisecond a round, and nothing else.
fn calibration(dir: &Path) -> String {
    let mut points = Vec::new();
    for setting in ["dealer", "3pc"] {
        for comparison in ["one-hot", "dcf"] {
            points.push(json!({
                "shape": "made up", "setting": setting, "comparison": comparison,
                "work": { "rounds": 100.0, "public_products": 0.0, "private_products": 0.0,
                    "bytes": 0.0 },
                "seconds": 0.01,
            }));
        }
    }
    let file = dir.join("calibration.json");
    let text = json!({
        "version": 1, "machine": "made up", "profile": "release", "load": [null, null],
        "prefix_seconds_per_weight": 0.0, "points": points,
    });
    std::fs::write(&file, text.to_string()).unwrap();
    file.display().to_string()
}

#[test]
fn seconds_are_rounds_and_delay_of_the_network() {
    let dir = folder();
    let calibration = calibration(dir.path());
    let of = |network: &str| {
        let budget = ["--budget", "1000s/token", "--network", network];
        let more = [&budget[..], &["--calibration", &calibration]].concat();
        let output = plan(dir.path(), &more);
        assert!(output.status.success(), "{}", said(&output));
        json_of(&output)["choice"].clone()
    };
    let none = of("none");
    let rounds = none["chosen"]["rounds"].as_f64().unwrap();
    let local = none["chosen"]["seconds"]["local"].as_f64().unwrap();
    // A hundred rounds take ten milliseconds, whatever the last bits.
    assert!((local - rounds * 1e-4).abs() < 1e-9, "{none:#}");
    assert_eq!(none["chosen"]["seconds"]["waiting"], json!(0.0));
    // The quickest protocol over a slow link is the one of fewer rounds.
    let wan = of("wan");
    assert_eq!(wan["chosen"]["comparison"], json!("dcf"));
    let seconds = |setting: &str, comparison: &str| {
        let settings = wan["settings"].as_array().unwrap();
        let mut found = settings.iter();
        let is = |of: &&Value| of["setting"] == setting && of["comparison"] == comparison;
        found.find(is).unwrap()["seconds"].clone()
    };
    // The dealer streams the keys of DCF in both settings.
    assert_eq!(seconds("dealer", "dcf"), seconds("3pc", "dcf"));
}

#[test]
fn preprocessed_correlations_are_said_to_be_assumed() {
    let dir = folder();
    let of = |setting: &str| {
        let more = ["--budget", "100MiB/token", "--setting", setting];
        let output = plan(dir.path(), &[&more[..], &["--out", "p.toml"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let notes = json_of(&output)["notes"].to_string();
        let comment = std::fs::read_to_string(dir.path().join("p.toml")).unwrap();
        [notes, comment].map(|text| text.contains("preprocessed correlations"))
    };
    assert_eq!(of("dealer"), [true, true]);
    assert_eq!(of("3pc"), [false, false]);
}

#[test]
fn an_ablation_has_the_seeds_that_it_is_asked_for() {
    let dir = folder();
    let none = ablate(dir.path(), &["--minutes", "0", "--seeds", "0"]);
    assert_eq!(none.status.code(), Some(2), "{}", said(&none));
    let more = ablate(dir.path(), &["--minutes", "0", "--seeds", "2"]);
    assert_eq!(more.status.code(), Some(1), "{}", said(&more));
    let text = said(&more);
    assert!(
        text.contains("`--seeds 2` is more than the 1 of task `dolly4`"),
        "{text}"
    );
}

/// Points of the demo's base, of heads merged and not.
fn curve(dir: &Path, task: &str) -> String {
    let lora = json!({ "rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] });
    let heads = json!({ "merge": 2, "grouping": "strided", "allow_kv_collapse": false });
    let point = |arm: &str, frozen: usize, tables: Value, value: f64| {
        json!({
            "arm": arm, "frozen": frozen, "tables": tables, "learning_rate": 0.004,
            "tokens": 1000, "cells": [],
            "recovery": { "value": value, "low": value - 0.1, "high": value + 0.1 },
        })
    };
    let merged = json!({ "lora": lora, "heads": heads });
    let points = [
        point("low", 1, json!({ "lora": lora }), 1.0),
        point("high", 5, json!({ "lora": lora }), 0.6),
        point("merged", 3, merged, 0.75),
    ];
    let file = dir.join(format!("{task}.json"));
    let text = json!({
        "version": 1, "task": task, "base_model": "base", "layers": 6, "metric": "acc",
        "rows": 30, "seeds": 1, "points": points,
    });
    std::fs::write(&file, text.to_string()).unwrap();
    file.display().to_string()
}

#[test]
fn a_curve_decides_and_its_interpolation_is_said() {
    let dir = folder();
    let curve = curve(dir.path(), "dolly4");
    let of = |budget: f64, more: &[&str]| {
        let budget = format!("{budget}MiB/token");
        let all = [&["--budget", &budget, "--curve", &curve][..], more].concat();
        plan(dir.path(), &all)
    };
    let best = json_of(&of(100.0, &[]));
    assert_eq!(frozen(&best), 1);
    assert_eq!(
        best["choice"]["quality"]["known"]["measured"]["arm"],
        json!("low")
    );
    // Just below it: the next number of frozen layers, which nobody has trained.
    let output = of(mebibytes(&best) * 0.99, &["--out", "planned.toml"]);
    let next = json_of(&output);
    assert_eq!(frozen(&next), 2);
    let known = &next["choice"]["quality"]["known"]["interpolated"]["between"];
    assert_eq!(known, &json!([1, 5]));
    let value = next["choice"]["quality"]["recovery"]["value"]
        .as_f64()
        .unwrap();
    // A quarter of the way from 1.0 to 0.6, but for the last bits.
    assert!((value - 0.9).abs() < 1e-9, "{next:#}");
    assert!(
        next["notes"].to_string().contains("was not trained"),
        "{next:#}"
    );
    // The recipe is a valid one, with the rate that the curve knows.
    let planned = std::fs::read_to_string(dir.path().join("planned.toml")).unwrap();
    assert!(
        planned.starts_with("# Planned by `marill plan`"),
        "{planned}"
    );
    let table: toml::Table = toml::from_str(&planned).unwrap();
    assert_eq!(table["freeze"]["layers"].as_integer(), Some(2));
    assert_eq!(table["optimizer"]["learning_rate"].as_float(), Some(0.004));
    assert!(!table.contains_key("heads"), "{planned}");
    let valid = run(dir.path(), &["recipes", "validate", "planned.toml"]);
    assert!(valid.status.success(), "{}", said(&valid));
}

#[test]
fn nothing_beyond_the_measured_points_is_planned() {
    let dir = folder();
    let curve = curve(dir.path(), "dolly4");
    let asked = ["--curve", &curve, "--quality", "1.05", "--budget"];
    for (budget, keeps, words) in [
        ("100MiB/token", true, "it keeps 100 MiB/token on"),
        (
            "0.0001MiB/token",
            false,
            "it does not keep 0.0001 MiB/token on",
        ),
    ] {
        let output = plan(dir.path(), &[&asked[..], &[budget]].concat());
        assert_eq!(output.status.code(), Some(1));
        let text = said(&output);
        let problem = "the curve has nothing with a recovery of at least 1.05\n";
        assert!(text.contains(problem) && text.contains(words), "{text}");
        let found = json_of(&output);
        assert_eq!(found["reason"], json!("too-poor"));
        assert_eq!(found["nearest_keeps_budget"], json!(keeps));
        // Fewer frozen layers than one were not measured.
        assert_eq!(found["nearest"]["frozen"], json!(1));
    }
}

#[test]
fn a_quality_is_a_finite_share() {
    let dir = folder();
    let curve = curve(dir.path(), "dolly4");
    let asked = ["--curve", &curve, "--budget", "100MiB/token"];
    for wrong in ["nan", "inf", "-0.1", "much"] {
        let quality = format!("--quality={wrong}");
        let output = plan(dir.path(), &[&asked[..], &[&quality]].concat());
        let text = said(&output);
        assert!(
            text.contains("a share is a finite number from 0 up"),
            "{wrong}: {text}"
        );
        assert!(output.stdout.is_empty(), "{wrong}");
    }
    let output = plan(dir.path(), &[&asked[..], &["--quality", "0"]].concat());
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_planned_recipe_is_without_distillation() {
    let dir = folder();
    let curve = curve(dir.path(), "dolly4");
    let asked = [
        "--set",
        "distill.teacher=fine-tune",
        "--budget",
        "100MiB/token",
    ];
    let planned = |more: &[&str]| {
        let output = plan(
            dir.path(),
            &[&asked[..], more, &["--out", "p.toml"]].concat(),
        );
        assert!(output.status.success(), "{}", said(&output));
        let text = std::fs::read_to_string(dir.path().join("p.toml")).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let notes = json_of(&output)["notes"].to_string();
        let is_said = notes.contains("measured without distillation");
        assert_eq!(text.contains("# curves are measured without"), is_said);
        (table.contains_key("distill"), is_said)
    };
    assert_eq!(planned(&["--curve", &curve]), (false, true));
    // Where the cost alone decides, the recipe keeps what costs nothing.
    assert_eq!(planned(&["--set", "eval.tasks=[]"]), (true, false));
}

/// Two parties send more than either with a dealer, and nobody deals.
#[test]
fn two_parties_are_priced_in_bytes() {
    let dir = folder();
    let budget = ["--budget", "10000MiB/token"];
    let of = |setting: &str| {
        let output = plan(dir.path(), &[&budget[..], &["--setting", setting]].concat());
        assert!(output.status.success(), "{}", said(&output));
        json_of(&output)["choice"]["chosen"].clone()
    };
    let [alone, dealt] = ["2pc", "dealer"].map(of);
    assert_eq!(alone["setting"], "2pc");
    assert!(alone["comparison"].is_null(), "{alone}");
    assert_eq!(alone["dealer_to_server_bytes"], 0);
    let bytes = |of: &serde_json::Value| of["client_bytes"].as_u64().unwrap();
    assert!(bytes(&alone) > 5 * bytes(&dealt), "{alone} {dealt}");
}

#[test]
fn more_keys_than_the_model_has_are_bad_input() {
    let dir = folder();
    let output = plan(dir.path(), &["--budget", "1MiB/token", "--keys", "5000"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("a token at 5000 keys"), "{text}");
}

#[test]
fn a_recipe_inside_the_program_goes_by_its_name() {
    let dir = folder();
    let of = |recipe: &str| {
        run(
            dir.path(),
            &["plan", recipe, "--json", "--budget", "1MiB/token"],
        )
    };
    let by_file = of(&recipes().join("demo.toml").display().to_string());
    let by_name = of("demo");
    assert!(by_name.status.success(), "{}", said(&by_name));
    assert_eq!(json_of(&by_name), json_of(&by_file));
    let unknown = of("demos");
    assert_eq!(unknown.status.code(), Some(1));
    let text = said(&unknown);
    assert!(text.contains("there is no recipe `demos`"), "{text}");
    // A file is one by its name too.
    let missing = said(&of("demos.toml"));
    assert!(missing.contains("cannot read `demos.toml`"), "{missing}");
}

#[test]
fn a_curve_of_another_task_is_used_only_by_name() {
    let dir = folder();
    let other = curve(dir.path(), "another");
    let task = [
        "--set",
        "eval.tasks=[\"dolly4\"]",
        "--budget",
        "100MiB/token",
    ];
    let named = plan(dir.path(), &[&task[..], &["--curve", &other]].concat());
    let notes = json_of(&named)["notes"].to_string();
    assert!(
        notes.contains("the curve is of `another`, not of the task `dolly4`"),
        "{notes}"
    );
    let unnamed = json_of(&plan(dir.path(), &task));
    assert_eq!(unnamed["curve"], Value::Null);
    assert_eq!(unnamed["choice"]["quality"], Value::Null);
    let asked = plan(dir.path(), &[&task[..], &["--quality", "0.9"]].concat());
    assert_eq!(asked.status.code(), Some(1));
    assert!(
        said(&asked).contains("`--quality` needs a curve"),
        "{}",
        said(&asked)
    );
}

const PLAN: &str = r#"
tokens = 4000
rate_tokens = 800
[[task]]
name = "dolly4"
recipe = "demo"
train_rows = 200
rows = 80
shots = [0]
seeds = [1]
expect = { gain = 0.5, stderr = 0.05 }
[[rates]]
name = "full"
arm = "full"
values = [2e-3]
[[rates]]
name = "lora"
arm = "plain"
values = [2e-3]
[[arm]]
name = "full"
about = "every layer"
rates = "full"
remove = ["lora", "heads", "distill"]
set = ["freeze.layers=0", "freeze.embedding=true"]
[[arm]]
name = "plain"
about = "the recipe"
rates = "lora"
"#;

fn ablate(dir: &Path, more: &[&str]) -> Output {
    std::fs::write(dir.join("plan.toml"), PLAN).unwrap();
    let mut args = vec!["ablate", "demo", "--plan", "plan.toml", "--cells", "cells"];
    args.extend(["--runs", "runs", "--no-progress"]);
    args.extend(more);
    run(dir, &args)
}

#[test]
fn an_ablation_that_was_not_run_says_so() {
    let dir = folder();
    let output = ablate(dir.path(), &["--minutes", "0"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        text.contains("Not run: dolly4 full at rate 2e-3;"),
        "{text}"
    );
    assert!(text.contains("not run"), "{text}");
    // Costs need no run: seconds in every setting are there.
    assert!(text.contains("s, 3pc dcf"), "{text}");
    let assumed = "`dealer one-hot` assumes preprocessed correlations";
    assert!(text.contains(assumed), "{text}");
    let refused = ablate(dir.path(), &["--minutes", "0", "--curve", "curve.json"]);
    assert!(
        said(&refused).contains("were not run"),
        "{}",
        said(&refused)
    );
    assert!(!dir.path().join("curve.json").exists());
    let unknown = run(dir.path(), &["ablate", "agnews", "--minutes", "0"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        said(&unknown).contains("agnews-smollm2"),
        "{}",
        said(&unknown)
    );
}

#[test]
fn an_ablation_makes_the_curve_that_a_plan_reads() {
    let dir = folder();
    let first = ablate(dir.path(), &["--curve", "curve.json", "--plot", "plot.svg"]);
    assert!(first.status.success(), "{}", said(&first));
    // Two rates, the base, and 10 arms: the sweep of a base of 6 layers is 2, 3 (the recipe), 4, 5,
    // and one of two heads cannot be left of three.
    assert!(
        said(&first).contains("13 cells run, 0 left"),
        "{}",
        said(&first)
    );
    let note = "note: `freeze+prune` is left out";
    assert!(said(&first).contains(note), "{}", said(&first));
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(!text.contains("not run"), "{text}");
    let curve = std::fs::read_to_string(dir.path().join("curve.json")).unwrap();
    let curve: Value = serde_json::from_str(&curve).unwrap();
    assert_eq!(curve["points"].as_array().unwrap().len(), 10);
    let svg = std::fs::read_to_string(dir.path().join("plot.svg")).unwrap();
    assert!(
        svg.contains("<circle") && svg.contains("dealer, wan"),
        "{svg}"
    );

    // The headline's arms are the same cells, and none is run again.
    let args = [
        "bench",
        "headline",
        "--quality",
        "--plan",
        "plan.toml",
        "--cells",
        "cells",
    ];
    let headline = run(dir.path(), &[&args[..], &["--minutes", "0"]].concat());
    assert!(
        said(&headline).contains("0 cells run, 0 left"),
        "{}",
        said(&headline)
    );

    let budget = ["--budget", "100MiB/token", "--curve", "curve.json"];
    let planned = plan(dir.path(), &budget);
    assert!(planned.status.success(), "{}", said(&planned));
    assert!(json_of(&planned)["choice"]["quality"]["recovery"]["value"].is_number());
}
