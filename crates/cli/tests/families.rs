//! Families of decoders from a checkpoint to a private answer, with processes of the real binary.

use std::{path::PathBuf, process::Output};

use marill_testkit::{
    models::tiny_family,
    processes::{Service, World, marill},
};
use serde_json::{Value, json};

/// Two layers are the client's, two are private; two steps.
const TUNE: &str = r#"
[model]
base_model = "base"
[[dataset]]
path = "rows.jsonl"
format = "classify"
labels = ["even", "odd"]
[freeze]
layers = 2
[lora]
rank = 2
[train]
max_steps = 2
[output]
dir = "tuned"
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(keys: &Value) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let line = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        let rows: String = (100..120).map(line).collect();
        std::fs::write(place.path("rows.jsonl"), rows).unwrap();
        std::fs::write(place.path("tune.toml"), TUNE).unwrap();
        tiny_family(&place.path("base"), keys, 1).unwrap();
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

    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Trains two steps, which ends with an export.
    fn partition(&self, sets: &[&str]) -> PathBuf {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        self.done(&[&["train", "tune.toml", "--no-progress"], sets.as_slice()].concat());
        self.path("tuned/export")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Four tokens of a secure session, compared with the twin.
fn is_the_twins(world: &World, server: &Service, flags: &[&str]) {
    let mut command = marill();
    command.args(["generate", &server.url, "--prompt", "number 123", "--json"]);
    command.args(["--max-tokens", "4", "--ignore-eos", "--check-twin"]);
    command.arg(&world.partition).args(flags);
    let output = world.client_folders(&mut command).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert_eq!(answer["twin_equal"], true, "{answer}");
    assert_eq!(answer["completion_tokens"], 4);
}

fn is_served(keys: &Value) {
    let place = Place::new(keys);
    let world = World::with_partition(place.partition(&[]));
    let (dealer, server) = world.parties();
    is_the_twins(&world, &server, &["--dealer", &dealer.url]);
}

#[test]
fn llama_with_a_scaled_rotation_is_served() {
    let scaling = json!({ "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    is_served(&json!({ "model_type": "llama", "rope_parameters": scaling }));
}

#[test]
fn mistral_is_served() {
    is_served(&json!({ "model_type": "mistral", "sliding_window": 64 }));
}

#[test]
fn qwen2_is_served() {
    is_served(&json!({ "model_type": "qwen2", "head_dim": null }));
}

#[test]
fn qwen3_is_served() {
    is_served(&json!({ "model_type": "qwen3", "head_dim": 16 }));
}

#[test]
fn smollm3_is_served() {
    is_served(&json!({ "model_type": "smollm3", "no_rope_layers": [1, 0, 1, 0] }));
}

#[test]
fn phi3_is_served() {
    is_served(&json!({ "model_type": "phi3" }));
}

#[test]
fn granite_is_served() {
    is_served(
        &json!({ "model_type": "granite", "embedding_multiplier": 2.5,
        "residual_multiplier": 0.6, "attention_multiplier": 0.1, "logits_scaling": 2.0 }),
    );
}
