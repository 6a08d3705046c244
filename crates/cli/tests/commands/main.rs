//! The binary as a user meets it: commands, exit codes, messages.

mod bench;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use marill_partition::{ExportOptions, export};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

fn marill(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(args)
        .current_dir(dir)
        .output()
        .expect("the binary starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// A folder with `base/` and its partition `out/`.
fn with_partition() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = tiny_base(&dir.path().join("base"), 5).unwrap();
    let transforms = tiny_transforms(&base.config, true);
    let adapter = tiny_adapter(&base.config, &transforms, 6).unwrap();
    export(
        &base,
        &transforms,
        &adapter,
        &dir.path().join("out"),
        &ExportOptions::default(),
    )
    .unwrap();
    dir
}

#[test]
fn inspect_says_what_each_party_learns() {
    let dir = with_partition();
    let output = marill(dir.path(), &["inspect", "out"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "Semi-honest",
        "{0,2} {1,3}",
        "lora_A",
        "client, in clear",
        "the tokens of its own answer",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    let found = json(&marill(dir.path(), &["inspect", "out", "--json"]));
    assert_eq!(found["private_tensors"].as_array().unwrap().len(), 28);
    assert_eq!(found["parties"].as_array().unwrap().len(), 3);

    assert!(
        found.get("range").is_none(),
        "the analysis takes time and is asked for"
    );
    let found = json(&marill(
        dir.path(),
        &["inspect", "out", "--json", "--range"],
    ));
    assert!(
        found["range"]
            .as_str()
            .unwrap()
            .starts_with("no value overflows for boundary rows of norm up to")
    );

    std::fs::write(dir.path().join("out/public/extra"), "x").unwrap();
    let output = marill(dir.path(), &["inspect", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("hint: a partition holds what its manifest lists"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn eval_runs_the_three_engines_on_the_users_own_rows() {
    let dir = with_partition();
    std::fs::write(
        dir.path().join("rows.tsv"),
        "Markets fell\t2\nThe striker scored\t1\n",
    )
    .unwrap();
    let mut asked = Vec::new();
    for engine in ["float", "twin", "secure"] {
        let args = [
            "eval",
            "out",
            "--tasks",
            "agnews",
            "--data",
            "rows.tsv",
            "--engine",
            engine,
            "--json",
            "--log-samples",
            "log.jsonl",
        ];
        let output = marill(dir.path(), &args);
        assert!(output.status.success(), "{engine}: {}", stderr(&output));
        let found = json(&output);
        assert_eq!((&found["n"], &found["engine"]), (&2.into(), &engine.into()));
        assert!(found["score"].is_number() && found["stderr"].is_number());
        asked.push(found["samples_sha256"].clone());
        let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 2);
    }
    assert!(asked[0] == asked[1] && asked[1] == asked[2] && asked[0].is_string());
    let output = marill(
        dir.path(),
        &[
            "eval", "out", "--tasks", "agnews", "--data", "rows.tsv", "--min", "1.01",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("| Tasks  | Version |"));
}

#[test]
fn wrong_words_end_with_a_message_a_hint_and_a_code() {
    let dir = with_partition();
    let path = dir.path();
    std::fs::write(
        path.join("bad.toml"),
        "[model]\nbase_model = \"x\"\n[lora]\nrank = 0\nlora_r = 3\n",
    )
    .unwrap();
    std::fs::write(path.join("empty.tsv"), "").unwrap();
    std::fs::write(path.join("cut.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
        (
            &["demo", "--set", "export.rounding=stochastic"],
            2,
            "leave out `export.rounding`",
        ),
        (
            &["eval", "out", "--tasks", "agnew"],
            1,
            "hint: the tasks are `agnews`",
        ),
        (
            &["eval", "out", "--tasks", "agnews", "--data", "empty.tsv"],
            1,
            "empty",
        ),
        (
            &["eval", "base", "--tasks", "agnews", "--engine", "twin"],
            1,
            "hint: `marill export` writes one",
        ),
        (&["eval", "cut.gguf", "--tasks", "agnews"], 1, "cut.gguf"),
        (&["recipes", "validate", "bad.toml"], 1, "bad.toml:"),
        (&["train", "none.toml"], 1, "none.toml"),
        (&["inspect", "base"], 1, "hint: `marill export` writes one"),
        (&["eval"], 2, "Usage"),
    ];
    for (args, code, part) in cases {
        let output = marill(path, args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            output.stdout.is_empty(),
            "{args:?}: standard output is for data"
        );
    }
}

/// Needs `base/` and `rows.tsv` beside it.
const RECIPE: &str = r#"
[model]
base_model = "base"
[[dataset]]
path = "rows.tsv"
format = "classify"
template = "Topic?\n\n{0}"
label = "1"
labels = ["World", "Sports", "Business", "Technology"]
[freeze]
layers = 2
[lora]
rank = 2
alpha = 4
[heads]
merge = 2
[train]
epochs = 1
micro_batch_size = 2
[output]
dir = "run"
"#;

const STOCHASTIC: [&str; 2] = ["--set", "export.rounding=stochastic"];

fn with_recipe() -> tempfile::TempDir {
    let dir = with_partition();
    let path = dir.path();
    std::fs::write(path.join("recipe.toml"), RECIPE).unwrap();
    std::fs::write(
        path.join("rows.tsv"),
        "Markets fell\t2\nThe striker scored\t1\nA probe left\t3\n",
    )
    .unwrap();
    dir
}

/// A run whose program rounds stochastically, and the id of its partition.
fn with_run() -> (tempfile::TempDir, serde_json::Value) {
    let dir = with_recipe();
    let train = &["train", "recipe.toml", "--json", "--no-progress"][..];
    let output = marill(dir.path(), &[train, &STOCHASTIC].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let id = json(&output)["partition_id"].clone();
    (dir, id)
}

/// The same run, exported with exact rounding into the folder `exact`.
fn export_exact(path: &Path) -> Output {
    let exact = [
        "export",
        "run",
        "--out",
        "exact",
        "--base",
        "base",
        "--rounding",
        "exact",
        "--json",
    ];
    let exact = marill(path, &exact);
    assert!(exact.status.success(), "{}", stderr(&exact));
    exact
}

#[test]
fn a_dry_run_plans_by_the_rounding_and_writes_nothing() {
    let dir = with_recipe();
    let path = dir.path();
    let output = marill(path, &["train", "recipe.toml", "--dry-run", "--json"]);
    let plan = json(&output);
    assert_eq!(
        (&plan["private_layers"], &plan["softmaxes_a_layer"]),
        (&2.into(), &2.into())
    );
    let rounds = |plan: &serde_json::Value| plan["decode"]["rounds"].as_u64().unwrap();
    assert!(rounds(&plan) > 0 && !path.join("run").exists());
    let output = marill(
        path,
        &[
            &["train", "recipe.toml", "--dry-run", "--json"][..],
            &STOCHASTIC,
        ]
        .concat(),
    );
    assert!(
        rounds(&json(&output)) < rounds(&plan),
        "stochastic rounding takes fewer rounds"
    );
}

#[test]
fn train_exports_and_export_repeats_it() {
    let (dir, id) = with_run();
    let path = dir.path();
    let again = marill(
        path,
        &[
            "export", "run", "--out", "again", "--name", "run", "--base", "base", "--json",
        ],
    );
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(
        json(&again)["partition_id"],
        id,
        "the same run exports the same partition"
    );
    assert_ne!(
        json(&export_exact(path))["partition_id"],
        id,
        "how a program rounds is part of it"
    );
    let output = marill(path, &["export", "run", "--base", "base"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("exists and is not empty"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_partition_says_how_it_rounds() {
    let (dir, _) = with_run();
    let path = dir.path();
    export_exact(path);
    for (folder, rounding, stochastic) in [
        ("run/export", "stochastic", true),
        ("exact", "exact", false),
    ] {
        let text = String::from_utf8(marill(path, &["inspect", folder]).stdout).unwrap();
        let card = std::fs::read_to_string(path.join(folder).join("README.md")).unwrap();
        for said in [text, card] {
            assert!(
                said.contains(&format!("rounding {rounding}")) && said.contains("--greedy-only"),
                "{said}"
            );
            assert_eq!(
                said.contains("rounded stochastically"),
                stochastic,
                "{said}"
            );
        }
    }
    // Agreement is told and not asked for.
    let eval = [
        "eval",
        "run/export",
        "--tasks",
        "agnews",
        "--data",
        "rows.tsv",
        "--engine",
        "secure",
        "--no-progress",
    ];
    let eval = marill(path, &[&eval[..], &["--limit", "1"]].concat());
    assert!(eval.status.success(), "{}", stderr(&eval));
    assert!(String::from_utf8_lossy(&eval.stdout).contains("agreement with twin"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut list = Command::new(env!("CARGO_BIN_EXE_marill"));
    list.args(["recipes", "ls"])
        .current_dir(dir.path())
        .stdout(writer)
        .stderr(Stdio::piped());
    let output = list.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_a_checkpoint_and_can_go_on() {
    let dir = with_partition();
    let path = dir.path();
    std::fs::write(path.join("recipe.toml"), RECIPE).unwrap();
    std::fs::write(
        path.join("rows.tsv"),
        "Markets fell\t2\nThe striker scored\t1\nA probe left\t3\n",
    )
    .unwrap();
    let train = [
        "train",
        "recipe.toml",
        "--set",
        "train.epochs=20000",
        "--no-progress",
    ];
    let mut run = Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(train)
        .current_dir(path)
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    while !path.join("run/recipe.toml").exists() && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let sent = Command::new("kill")
        .args(["-INT", &run.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let kept = std::fs::read_dir(path.join("run/checkpoints"))
        .unwrap()
        .count();
    assert!(kept > 0 && !path.join("run/export").exists());
}

#[test]
fn the_demo_checks_what_it_claims() {
    let dir = with_partition();
    // An untrained base: everything private must hold, and the score must not.
    let mut args = vec![
        "demo",
        "--base",
        "base",
        "--json",
        "--no-progress",
        "--prompt",
        "Sort these animals by size",
    ];
    for set in [
        "freeze.layers=2",
        "train.max_steps=2",
        "train.micro_batch_size=2",
    ] {
        args.extend(["--set", set]);
    }
    let output = marill(dir.path(), &args);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found = json(&output);
    assert_eq!(
        (&found["twin_equal"], &found["setting"], &found["rounding"]),
        (&true.into(), &"dealer".into(), &"exact".into())
    );
    assert!(
        found["rounds_per_token"].as_f64().unwrap() > 1.0
            && found["seconds_per_token"].as_f64().unwrap() > 0.0
    );
    assert!(found["client_bytes_sent_per_token"].as_f64().unwrap() > 0.0);
    assert_eq!(found["n"], 480);
    let pids: std::collections::BTreeSet<_> = ["client", "server", "dealer"]
        .map(|role| found["pids"][role].as_u64().unwrap())
        .into();
    assert_eq!(pids.len(), 3, "three processes");
    assert!(stderr(&output).contains("is needed"), "{}", stderr(&output));
}
