//! `marill train` as a process: killed, resumed, out of space, planned.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use marill_testkit::{recipes::BASE, tune_recipe};

const TUNE: &str = tune_recipe!(
    "",
    r#"[freeze]
layers = 1
[lora]
rank = 4
dropout = 0.2
[heads]
merge = 2
[train]
epochs = 40
max_steps = 60
micro_batch_size = 8
gradient_accumulation_steps = 4
checkpoint_steps = 3
"#
);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Rows, recipes and a small random base model.
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let line = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        place.write("rows.jsonl", &(100..260).map(line).collect::<String>());
        place.write("base.toml", BASE);
        place.write("tune.toml", TUNE);
        let output = place
            .marill(&["train", "base.toml", "--no-progress"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        place
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn marill(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marill"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("MARILL_CACHE", self.path("cache"));
        command
    }

    fn tune(&self, threads: &str, dir: &str, more: &[&str]) -> Command {
        let mut command =
            self.marill(&["train", "tune.toml", "--no-progress", "--output-dir", dir]);
        // A cache of its own: the killed run must not live on what an uninterrupted one left.
        command
            .args(more)
            .env("RAYON_NUM_THREADS", threads)
            .env("MARILL_CACHE", self.path(&format!("cache-{dir}")))
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        command
    }

    fn adapter(&self, dir: &str) -> Vec<u8> {
        std::fs::read(self.path(dir).join("adapter.safetensors")).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// The step of the newest whole checkpoint.
fn newest_step(run: &Path) -> usize {
    let entries = std::fs::read_dir(run.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
        .max()
        .unwrap_or(0)
}

/// Ends a run as `kill -9` does, some time after a checkpoint of `step` or a later one is there.
fn kill_after(mut child: Child, run: &Path, step: usize, delay: Duration) -> usize {
    let patience = Instant::now() + Duration::from_secs(120);
    while newest_step(run) < step {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
        assert!(Instant::now() < patience, "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    newest_step(run)
}

#[test]
fn a_run_killed_five_times_leaves_what_a_whole_one_leaves() {
    let place = Place::new();
    for threads in ["1", "2"] {
        let output = place
            .tune(threads, &format!("whole{threads}"), &[])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(
        place.adapter("whole1"),
        place.adapter("whole2"),
        "threads change nothing"
    );

    // Steps and delays from a fixed sequence; killed at other moments of a step, and of writing a
    // checkpoint.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut kills = Vec::new();
    for nth in 0..5 {
        let more: &[&str] = if nth == 0 { &[] } else { &["--resume"] };
        let child = place
            .tune(if nth % 2 == 0 { "2" } else { "1" }, "killed", more)
            .spawn()
            .unwrap();
        let after = kills.last().copied().unwrap_or(0) + 3 + random(4) as usize;
        kills.push(kill_after(
            child,
            &place.path("killed"),
            after,
            Duration::from_micros(random(20_000)),
        ));
        assert!(
            !place.path("killed/adapter.safetensors").exists(),
            "killed too late: {kills:?}"
        );
    }
    let output = place.tune("1", "killed", &["--resume"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        place.adapter("killed"),
        place.adapter("whole1"),
        "killed behind steps {kills:?}"
    );
    let lines = std::fs::read_to_string(place.path("killed/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 60);
}

#[test]
#[cfg(unix)]
fn a_stopped_run_leaves_a_checkpoint_and_goes_on_from_it() {
    let place = Place::new();
    let output = place.tune("2", "whole", &[]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for (signal, dir) in [("TERM", "terminated"), ("INT", "interrupted")] {
        let child = place.tune("2", dir, &[]).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(120);
        while newest_step(&place.path(dir)) < 3 {
            assert!(Instant::now() < patience, "no checkpoint of step 3");
            std::thread::sleep(Duration::from_millis(1));
        }
        let told = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{signal}: {said}");
        assert!(
            said.contains("stopping after this step")
                && said.contains("hint: `--resume` goes on from"),
            "{said}"
        );
        assert!(!place.path(dir).join("adapter.safetensors").exists());
        // A second run in the folder of one that runs is refused; one that ended holds nothing.
        let output = place.tune("2", dir, &["--resume"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(place.adapter(dir), place.adapter("whole"), "{signal}");
    }
}

/// A run whose recipe names rows and a threshold for its evaluation.
struct Evaluated {
    place: Place,
}

impl Evaluated {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path("sub")).unwrap();
        let row = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        std::fs::write(
            place.path("sub/asked.jsonl"),
            (300..312).map(row).collect::<String>(),
        )
        .unwrap();
        let recipe = format!("{TUNE}[eval]\npath = \"asked.jsonl\"\nmin = 0.0\n");
        std::fs::write(place.path("sub/tune.toml"), &recipe).unwrap();
        Self { place }
    }

    fn train(&self, more: &[&str]) -> Output {
        let args = [
            &[
                "train",
                "sub/tune.toml",
                "--no-progress",
                "--set",
                "train.max_steps=2",
            ],
            more,
        ]
        .concat();
        self.place.marill(&args).output().unwrap()
    }

    fn eval(&self, more: &[&str]) -> Output {
        self.place
            .marill(&[&["eval", "tuned", "--no-progress"], more].concat())
            .output()
            .unwrap()
    }
}

#[test]
fn an_evaluation_finds_the_rows_beside_the_recipe() {
    let run = Evaluated::new();
    let output = run.train(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    // The rows lie beside the recipe file, and are found from the run's folder.
    let output = run.eval(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = json(&output);
    assert_eq!(
        (&found["n"], &found["metric"]),
        (&12.into(), &"acc".into()),
        "{found}"
    );
    assert!(found["results"]["recipe"]["score"].is_number(), "{found}");
    let output = run.eval(&["--min", "1.5"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("below `--min` = 1.5"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_evaluation_fails_below_the_recipes_threshold() {
    let run = Evaluated::new();
    assert!(run.train(&["--set", "eval.min=1.5"]).status.success());
    let output = run.eval(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`recipe` scored")
            && stderr(&output).contains("below `eval.min` = 1.5")
    );
    // Its threshold is about its own rows.
    run.place.write("text.txt", "numbers of many kinds\n");
    let output = run.eval(&["--tasks", "wikitext-2", "--data", "text.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn tasks_of_a_recipe_are_checked_before_the_run() {
    let run = Evaluated::new();
    let output = run.train(&["--set", "eval.tasks=[\"treck\"]"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`eval.tasks`") && stderr(&output).contains("`treck`"),
        "{}",
        stderr(&output)
    );
    let output = run.train(&["--set", "eval.tasks=[\"wikitext-2\"]"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("task `wikitext-2`: `eval.min` is a least score"),
        "{}",
        stderr(&output)
    );
    let rows = run.place.path("sub/asked.jsonl").display().to_string();
    let named = [
        "--set",
        "eval.tasks=[\"sst2\"]",
        "--set",
        &format!("eval.path={rows}"),
    ];
    let output = run.train(&named);
    assert!(output.status.success(), "{}", stderr(&output));
    // The task's own columns are asked of the recipe's file.
    let output = run.eval(&[]);
    assert!(
        stderr(&output).contains("task `sst2` needs its data") && stderr(&output).contains("row 1")
    );
}

/// A training in which no file may grow beyond 8 KiB: writing fails as it does on a full disk.
#[cfg(unix)]
fn limited(place: &Place, args: &str) -> Output {
    let script =
        format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" train tune.toml --no-progress {args}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_marill")])
        .current_dir(place.dir.path());
    command
        .env("MARILL_CACHE", place.path("small"))
        .output()
        .unwrap()
}

#[test]
#[cfg(unix)]
fn on_a_full_disk_the_last_good_checkpoint_stays() {
    let place = Place::new();
    let output = place
        .tune("2", "tuned", &["--set", "train.max_steps=4"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::remove_file(place.path("tuned/adapter.safetensors")).unwrap();
    let good = place.path("tuned/checkpoints/step-000003");
    let state = std::fs::read(good.join("state.safetensors")).unwrap();

    let output = limited(&place, "--set train.max_steps=4 --resume");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot write `tuned/adapter.safetensors`"),
        "{}",
        stderr(&output)
    );
    assert!(
        !place.path("tuned/adapter.safetensors").exists(),
        "half an adapter is none"
    );
    assert!(
        stderr(&output).contains("`--resume` goes on from `tuned/checkpoints/"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        std::fs::read(good.join("state.safetensors")).unwrap(),
        state
    );

    let output = limited(&place, "--output-dir fresh");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot write the checkpoint `fresh/checkpoints/step-000003`"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("hint: make space"),
        "{}",
        stderr(&output)
    );
    assert_eq!(newest_step(&place.path("fresh")), 0);
}

#[test]
#[cfg(unix)]
fn a_run_that_fits_the_disk_is_kept_where_its_export_does_not() {
    let place = Place::new();
    // A run whose own files are small enough, and whose partition is not.
    let small =
        "--set train.max_steps=2 --set lora.rank=1 --set 'lora.target_modules=[\"q_proj\"]'";
    let output = limited(&place, &format!("{small} --output-dir 7"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("not exported") && said.contains("7/export.partial-"),
        "{said}"
    );
    assert!(
        said.contains("public/model.safetensors") && said.contains("hint: `marill export 7`"),
        "{said}"
    );
    assert!(place.path("7/adapter.safetensors").exists() && !place.path("7/export").exists());
}

#[test]
#[cfg(unix)]
fn a_run_needs_no_cache_but_a_whole_checkpoint() {
    let place = Place::new();
    let output = place
        .tune("2", "again", &["--resume", "--set", "train.max_steps=4"])
        .env("MARILL_CACHE", "/dev/null/no")
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success() && stderr(&output).contains("not kept for later runs"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("`again/checkpoints` holds no checkpoint"),
        "{}",
        stderr(&output)
    );

    std::fs::write(
        place.path("again/checkpoints/step-000004/state.safetensors"),
        [0; 9],
    )
    .unwrap();
    let output = place
        .tune("2", "again", &["--resume", "--set", "train.max_steps=4"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(
        said.contains("step-000004` cannot be resumed")
            && said.contains("it is damaged; remove it"),
        "{said}"
    );
    assert!(
        said.contains("goes on from `again/checkpoints/step-000003`"),
        "{said}"
    );
}

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

#[test]
fn a_name_on_the_hub_that_is_not_here_says_what_can_be_done() {
    let place = Place::new();
    let output = place
        .marill(&[
            "train",
            "tune.toml",
            "--offline",
            "--set",
            "model.base_model=org/name",
        ])
        .env("HF_HUB_CACHE", place.path("cache"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("`org/name` is no path on this machine")
            && text.contains("hint: run once without"),
        "{text}"
    );
    let output = place
        .marill(&["eval", "org/name", "--tasks", "trec", "--offline"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`org/name` is no path on this machine"),
        "{}",
        stderr(&output)
    );
    let output = place
        .marill(&["train", "tune.toml", "--set", "model.revision=main"])
        .output()
        .unwrap();
    assert!(
        stderr(&output).contains("hint: drop `revision`"),
        "{}",
        stderr(&output)
    );
}
