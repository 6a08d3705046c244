//! Adapters that the `peft` package wrote, with processes of the real binary: to a partition and a
//! private answer, to a merged checkpoint, and as the beginning of a run.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use marill_testkit::processes::{World, marill};
use serde_json::Value;

/// One step of a rate that changes nothing.
const TUNE: &str = r#"
[model]
base_model = "BASE"
[[dataset]]
path = "rows.jsonl"
format = "instruct"
style = "plain"
[freeze]
layers = 2
[lora]
rank = 5
alpha = 3
rslora = true
init_from = "ADAPTER"
[train]
max_steps = 1
[optimizer]
learning_rate = 1e-12
[output]
dir = "tuned"
"#;

fn fixture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/peft");
    tests.canonicalize().unwrap().join(name)
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let row = "{\"instruction\": \"number\", \"output\": \"one\"}\n";
        std::fs::write(place.path("rows.jsonl"), row.repeat(4)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = marill();
        let command = command.args(args).current_dir(self.0.path());
        command
            .env("MARILL_CACHE", self.path("cache"))
            .output()
            .unwrap()
    }

    /// What a command that works says: data, and the rest.
    fn done(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        (text(&output.stdout), text(&output.stderr))
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?} is no bad input");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn train(&self, adapter: &str, sets: &[&str]) -> Output {
        let text = TUNE.replace("BASE", fixture("llama").to_str().unwrap());
        let text = text.replace("ADAPTER", fixture(adapter).to_str().unwrap());
        std::fs::write(self.path("tune.toml"), text).unwrap();
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        self.run(&[&["train", "tune.toml", "--no-progress"], sets.as_slice()].concat())
    }

    fn digest(&self, merged: &[&str]) -> Value {
        let (json, said) = self.done(&[&["merge", "--json"], merged].concat());
        assert!(said.contains("holds the private adapter"), "{said}");
        let json: Value = serde_json::from_str(&json).unwrap();
        json["tensor_digest"].clone()
    }
}

#[test]
fn an_adapter_of_peft_answers_privately() {
    let place = Place::new();
    let base = fixture("llama");
    let [adapter, base] = [fixture("layers"), base].map(|path| path.display().to_string());
    let export = ["export", &adapter, "--base", &base, "-o", "whole", "--json"];
    let (json, said) = place.done(&export);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["private_layers"], 3, "{json}");
    assert!(said.contains("changes nothing in layers 0 to 1"), "{said}");
    let export = [
        "export",
        &adapter,
        "--base",
        &base,
        "-o",
        "partition",
        "--public-prefix",
    ];
    let (_, said) = place.done(&export);
    assert!(
        said.contains("on the client: layers 0 to 1;") && said.contains("private: layer 2\n"),
        "{said}"
    );

    let world = World::with_partition(place.path("partition"));
    let (dealer, server) = world.parties();
    let mut command = marill();
    command.args([
        "generate",
        &server.url,
        "--dealer",
        &dealer.url,
        "--prompt",
        "number 123",
    ]);
    command.args([
        "--json",
        "--max-tokens",
        "4",
        "--ignore-eos",
        "--check-twin",
    ]);
    let output = world
        .client_folders(command.arg(&world.partition))
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(answer["twin_equal"], true, "{answer}");
}

#[test]
fn a_run_that_begins_with_an_adapter_begins_there() {
    let place = Place::new();
    let base = fixture("llama").display().to_string();
    let output = place.train("layers", &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    place.done(&["merge", "tuned", "-o", "ours", "--json"]);
    let adapter = fixture("layers").display().to_string();
    place.done(&["merge", &adapter, "--base", &base, "-o", "theirs", "--json"]);
    // A rank that is larger and another scale: sums of other terms, so not the same bits.
    let score = |model: &str| {
        std::fs::write(place.path("text.txt"), "The ferry lay at the quay.\n").unwrap();
        let args = [
            "eval",
            model,
            "--tasks",
            "wikitext-2",
            "--data",
            "text.txt",
            "--json",
        ];
        let json: Value = serde_json::from_str(&place.done(&args).0).unwrap();
        json["score"].as_f64().unwrap()
    };
    let [ours, theirs, plain] = ["ours", "theirs", base.as_str()].map(score);
    assert!(
        (ours - theirs).abs() < 1e-3 * theirs.abs(),
        "{ours} and {theirs}"
    );
    assert!(
        (ours - plain).abs() > 1e-2 * theirs.abs(),
        "{ours} and {plain}"
    );
    // Another beginning is another run, and the same one goes on.
    let more = ["train.max_steps=2"];
    let resume = [
        "train",
        "tune.toml",
        "--no-progress",
        "--resume",
        "--set",
        more[0],
    ];
    place.done(&resume);
    let other = format!("lora.init_from={}", fixture("plain").display());
    let said = place.refused(&[&resume[..], &["--set", &other]].concat());
    assert!(
        said.contains("lora.init_from") && said.contains("leaves that as it is"),
        "{said}"
    );
}

#[test]
fn what_a_beginning_would_lose_is_refused() {
    let place = Place::new();
    for (adapter, set, said) in [
        ("layers", "freeze.layers=3", "freeze.layers"),
        (
            "layers",
            "lora.rank=1",
            "its rank for `q_proj` of layer 2 is 2",
        ),
        (
            "layers",
            "lora.target_modules=[\"q_proj\"]",
            "among `lora.target_modules`",
        ),
        ("llama", "lora.rank=5", "neither a finished run"),
        (
            "layers",
            "lora.init=data",
            "both say what the factors begin with",
        ),
    ] {
        let output = place.train(adapter, &[set]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(said),
            "{set}: {text}"
        );
    }
}

#[test]
fn what_no_checkpoint_can_say_is_not_merged() {
    let place = Place::new();
    for (set, said) in [
        ("heads.merge=2", "merged or pruned heads"),
        ("approx.softmax=clipped", "approximate functions"),
    ] {
        let output = place.train("layers", &[set]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let refused = place.refused(&["merge", "tuned", "-o", "merged"]);
        assert!(
            refused.contains(said) && !place.path("merged").exists(),
            "{refused}"
        );
    }
}

#[test]
fn merging_writes_the_same_weights_again() {
    let place = Place::new();
    let [adapter, base] = [fixture("rslora"), fixture("llama")].map(|p| p.display().to_string());
    let merge = [&adapter, "--base", &base];
    let first = place.digest(&[&merge[..], &["-o", "one"]].concat());
    assert_eq!(first, place.digest(&[&merge[..], &["-o", "two"]].concat()));
    // An export's private part is an adapter of PEFT, of the same model.
    place.done(&["export", &adapter, "--base", &base, "-o", "partition"]);
    let again = place.digest(&["partition/private", "--base", &base, "-o", "three"]);
    assert_eq!(first, again);
    let said = place.refused(&["merge", &adapter, "--base", &base, "-o", "one"]);
    assert!(said.contains("`one` is there already"), "{said}");
    let said = place.refused(&["merge", &adapter, "-o", "four"]);
    assert!(said.contains("says nothing without its base"), "{said}");
    let said = place.refused(&["merge", &base, "--base", &base, "-o", "four"]);
    assert!(said.contains("whole checkpoint already"), "{said}");
    let halves = [
        "merge", &adapter, "--base", &base, "-o", "half", "--dtype", "bf16",
    ];
    place.done(&halves);
    let size = |name: &str| {
        let path = place.path(name).join("model.safetensors");
        std::fs::metadata(path).unwrap().len()
    };
    assert!(size("half") * 2 < size("one") + 8192);
}
