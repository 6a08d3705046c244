//! What a dry run foresees, against the run itself.

use std::path::Path;

use crate::{Place, TUNE, json, stderr};

/// Wide enough that the graph is most of what a run needs.
const WIDE: &str = r#"
[model]
init = "random"
[model.architecture]
hidden_size = 128
intermediate_size = 384
num_hidden_layers = 5
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 32
max_position_embeddings = 128
[tokenizer]
vocab_size = 320
[[dataset]]
path = "rows.txt"
format = "text"
[data]
max_seq_len = 128
[train]
max_steps = 2
micro_batch_size = 32
[output]
dir = "wide"
"#;

#[test]
#[cfg(target_os = "linux")]
fn a_dry_run_foresees_memory_and_bytes_within_a_third() {
    let place = Place::new();
    let text: String = (0..3000)
        .map(|n| format!("{n} of many numbered lines\n"))
        .collect();
    place.write("rows.txt", &text);
    place.write("wide.toml", WIDE);
    for more in [&[][..], &["--set", "train.gradient_checkpointing=always"]] {
        let args = |first: &[&'static str]| [first, more].concat();
        let output = place
            .marill(&args(&["train", "wide.toml", "--dry-run", "--json"]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = json(&output)["train"].clone();
        assert!(!place.path("wide").exists(), "a dry run writes nothing");
        let output = place
            .marill(&args(&["train", "wide.toml", "--json", "--no-progress"]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let was = json(&output)["train"].clone();
        let checkpoint =
            std::fs::metadata(place.path("wide/checkpoints/step-000002/state.safetensors"))
                .unwrap()
                .len();
        for (what, said, was) in [
            (
                "memory",
                &said["memory_bytes"],
                was["peak_memory_bytes"].as_f64().unwrap(),
            ),
            (
                "checkpoint",
                &said["estimate"]["checkpoint_bytes"],
                checkpoint as f64,
            ),
        ] {
            let ratio = said.as_f64().unwrap() / was;
            assert!(
                (0.77..1.3).contains(&ratio),
                "{what} with {more:?}: {said} foreseen, {was} measured"
            );
        }
        std::fs::remove_dir_all(place.path("wide")).unwrap();
    }
}

#[test]
fn a_dry_run_foresees_exported_bytes_within_a_third() {
    fn folder_bytes(path: &Path) -> u64 {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        let bytes = entries.map(|entry| match entry.metadata().unwrap() {
            found if found.is_dir() => folder_bytes(&entry.path()),
            found => found.len(),
        });
        bytes.sum()
    }
    let place = Place::new();
    let full = TUNE.replace("[lora]\nrank = 4\ndropout = 0.2\n", "");
    place.write("full.toml", &full);
    for (recipe, set) in [
        ("tune.toml", "lora.rank=4"),
        ("tune.toml", "lora.rank=16"),
        ("tune.toml", "lora.ranks.down_proj=32"),
        ("full.toml", "train.seed=0"),
    ] {
        let args = [
            "train",
            recipe,
            "--set",
            set,
            "--set",
            "train.max_steps=1",
            "--no-progress",
        ];
        let output = place
            .marill(&[&args[..], &["--dry-run", "--json"]].concat())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = json(&output);
        let output = place.marill(&args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        if recipe == "full.toml" {
            assert!(
                !place.path("tuned/export").exists(),
                "what an earlier run exported is not this run's"
            );
            let output = place
                .marill(&["export", "tuned", "--base", "base/model"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
        }
        let form = if recipe == "full.toml" {
            "full"
        } else {
            "lora"
        };
        assert_eq!(said["private"], form);
        assert_eq!(said["lora_rank"].is_null(), form == "full", "{said}");
        if set == "lora.ranks.down_proj=32" {
            assert_eq!(said["lora_ranks"], "4 to 32");
        }
        let said = said["export_bytes"].as_f64().unwrap();
        let was = folder_bytes(&place.path("tuned/export")) as f64;
        assert!(
            (0.77..1.3).contains(&(said / was)),
            "{set}: {said} foreseen, {was} measured"
        );
    }
}

#[test]
fn a_dry_run_without_lora_plans_whole_matrices() {
    let place = Place::new();
    let full = TUNE.replace("[lora]\nrank = 4\ndropout = 0.2\n", "");
    place.write("full.toml", &full);
    let plan = place
        .marill(&["train", "full.toml", "--dry-run"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        said.contains("private            full-rank weights") && said.contains("`marill export`"),
        "{said}"
    );
    let all = [
        "train",
        "full.toml",
        "--dry-run",
        "--set",
        "freeze.layers=0",
    ];
    let plan = place.marill(&all).output().unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        plan.status.success() && said.contains("no partition: embedding, norm and head"),
        "{said}"
    );
    assert!(
        stderr(&plan).contains("hint: `freeze.layers`"),
        "{}",
        stderr(&plan)
    );
    let plan = place
        .marill(&[&all[..], &["--json"]].concat())
        .output()
        .unwrap();
    assert!(json(&plan)["private"].is_null(), "{}", json(&plan));
    let layers_alone = [&all[..], &["--set", "freeze.embedding=true", "--json"]].concat();
    let plan = place.marill(&layers_alone).output().unwrap();
    assert_eq!(json(&plan)["private"], "full");
}
