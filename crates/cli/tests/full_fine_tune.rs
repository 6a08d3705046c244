//! An ordinary full fine-tune from recipe to private answer, with processes of the real binary.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use marill_testkit::{
    processes::{World, marill},
    recipes::BASE,
    tune_recipe,
};
use serde_json::{Value, json};

const TUNE: &str = tune_recipe!(
    "",
    r#"[train]
max_steps = 3
"#
);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let line = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        std::fs::write(
            place.path("rows.jsonl"),
            (100..160).map(line).collect::<String>(),
        )
        .unwrap();
        std::fs::write(place.path("base.toml"), BASE).unwrap();
        std::fs::write(place.path("tune.toml"), TUNE).unwrap();
        place.done(&["train", "base.toml", "--no-progress"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = marill();
        command
            .args(args)
            .current_dir(self.0.path())
            .env("MARILL_CACHE", self.path("cache"));
        command.output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Trains without low-rank factors and exports what came of it.
    fn partition(&self, freeze: &[&str]) -> PathBuf {
        let sets: Vec<&str> = freeze.iter().flat_map(|set| ["--set", set]).collect();
        self.done(&[&["train", "tune.toml", "--no-progress"], sets.as_slice()].concat());
        self.done(&["export", "tuned"]);
        self.path("tuned/export")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A private answer of three processes, compared with the twin and with what the gateway says.
fn answer(partition: &Path) -> Value {
    let world = World::with_partition(partition.into());
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let asked = json!({ "prompt": "number 123", "max_tokens": 4, "ignore_eos": true });
    let (status, told) = gateway.post("/v1/completions", &asked);
    assert_eq!(status, 200, "{told}");
    let mut command = marill();
    command.args([
        "generate",
        &server.url,
        "--dealer",
        &dealer.url,
        "--prompt",
        "number 123",
        "--json",
    ]);
    command
        .args(["--max-tokens", "4", "--ignore-eos", "--check-twin"])
        .arg(partition);
    let output = world.client_folders(&mut command).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert_eq!(answer["text"], told["choices"][0]["text"]);
    answer
}

#[test]
fn a_full_fine_tune_is_served_with_the_twins_answer() {
    let place = Place::new();
    let partition = place.partition(&["freeze.layers=1"]);
    let found: Value =
        serde_json::from_str(&place.done(&["inspect", "tuned/export", "--json"])).unwrap();
    assert_eq!(found["manifest"]["decoder"]["private"], "full");
    assert_eq!(found["private_tensors"].as_array().unwrap().len(), 2 * 9);
    // Of 32 by 64 queries, keys and values at 8 bytes, of the other maps at 7.
    let layer = 32 * 64 * 8 + (32 * 32 + 3 * 32 * 48) * 7;
    assert_eq!(found["masked_bytes"], 2 * layer);
    let answer = answer(&partition);
    assert_eq!(answer["twin_equal"], true, "{answer}");
    assert_eq!(answer["completion_tokens"], 4);
    let report = place.done(&[
        "export",
        "tuned/model",
        "--base",
        "base/model",
        "--out",
        "again",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        report["private_bytes"].as_u64(),
        Some(
            std::fs::metadata(partition.join("private/layers.safetensors"))
                .unwrap()
                .len()
        )
    );
}

#[test]
fn all_layers_are_private_where_the_embedding_stays_the_bases() {
    let place = Place::new();
    place.done(&["train", "tune.toml", "--no-progress"]);
    let refused = place.run(&["export", "tuned"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("`model.embed_tokens.weight` would be published"),
        "{}",
        said(&refused)
    );
    assert!(
        said(&refused).contains("freeze.embedding = true"),
        "{}",
        said(&refused)
    );
    let partition = place.partition(&["freeze.embedding=true"]);
    assert_eq!(answer(&partition)["twin_equal"], true);
}
