//! Whole runs on a tiny model: from nothing, then fine-tuned, resumed, distilled, and stopped for
//! good reasons.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, FloatModel, Transforms};
use marill_recipe::Recipe;
use marill_testkit::{base_recipe, tune_recipe};
use marill_training::{TrainError, TrainOptions, TrainReport, dry_run, train};
use tempfile::TempDir;

/// Red numbers are `even` and blue ones `odd`, or the other way round.
fn rows(swapped: bool) -> String {
    let line = |n: u32| {
        let label = if n.is_multiple_of(2) != swapped {
            "even"
        } else {
            "odd"
        };
        let color = if n.is_multiple_of(2) { "red" } else { "blue" };
        format!("{{\"text\": \"{color} {n}\", \"label\": \"{label}\"}}\n")
    };
    (100..180).map(line).collect()
}

const SCRATCH: &str = base_recipe!(
    "DIR/",
    r#"[data]
max_seq_len = 64
train_on_input = true
[train]
epochs = 8
micro_batch_size = 8
[optimizer]
learning_rate = 1e-2
"#
);

const TUNE: &str = tune_recipe!(
    "DIR/",
    r#"[data]
max_seq_len = 64
val_fraction = 0.1
[freeze]
layers = 1
[lora]
rank = 4
[heads]
merge = 2
[train]
epochs = 6
micro_batch_size = 4
gradient_accumulation_steps = 2
checkpoint_steps = 7
"#
);

struct Place {
    dir: TempDir,
}

impl Place {
    /// A folder with data and, where asked for, a base model trained on it.
    fn new(with_base: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rows.jsonl"), rows(false)).unwrap();
        std::fs::write(dir.path().join("swapped.jsonl"), rows(true)).unwrap();
        let place = Self { dir };
        if with_base {
            let report = place.run(SCRATCH, &["train.max_steps=20"]).unwrap();
            assert!(report.final_loss < report.first_loss, "{report:?}");
        }
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn recipe(&self, text: &str, overrides: &[&str]) -> Recipe {
        let text = text.replace("DIR", &self.dir.path().display().to_string());
        let overrides: Vec<String> = overrides
            .iter()
            .map(|o| o.replace("DIR", &self.dir.path().display().to_string()))
            .collect();
        Recipe::parse(&text, "test.toml", &overrides).unwrap_or_else(|e| panic!("{e}"))
    }

    fn options(&self) -> TrainOptions {
        TrainOptions {
            recipe_dir: self.dir.path().into(),
            ..TrainOptions::default()
        }
    }

    fn run(&self, text: &str, overrides: &[&str]) -> Result<TrainReport, TrainError> {
        train(&self.recipe(text, overrides), &self.options(), &mut |_| {})
    }
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap()
}

/// How often the model finds the swapped label likelier.
fn accuracy(model: &mut FloatModel, base: &Checkpoint) -> f64 {
    let token = |text: &str| base.tokenizer.encode(text).unwrap()[0] as usize;
    let even = token("even");
    let odd = token("odd");
    assert_ne!(even, odd);
    let right = (100..180u32).filter(|n| {
        let color = if n.is_multiple_of(2) { "red" } else { "blue" };
        let prompt = format!("<|im_start|>user\n{color} {n}<|im_end|>\n<|im_start|>assistant\n");
        model.reset();
        let logits = model
            .logits(&base.tokenizer.encode(&prompt).unwrap())
            .unwrap();
        (logits[odd] > logits[even]) != (n % 2 == 1)
    });
    right.count() as f64 / 80.0
}

#[test]
fn a_tuned_model_learns_and_leaves_what_is_promised() {
    let place = Place::new(false);
    place.run(SCRATCH, &["train.epochs=20"]).unwrap();
    let report = place
        .run(TUNE, &["train.epochs=10", "dataset.0.path=swapped.jsonl"])
        .unwrap();
    // Labels follow from a word, so a run that learns at all halves its loss.
    assert!(report.final_loss < 0.5 * report.first_loss, "{report:?}");
    assert!(report.val_loss.is_some_and(|v| v.is_finite()));
    for name in [
        "adapter.safetensors",
        "transforms.json",
        "recipe.toml",
        "metrics.jsonl",
        "loss.svg",
        "checkpoints",
    ] {
        assert!(place.path("tuned").join(name).exists(), "{name}");
    }
    let lines = String::from_utf8(bytes(place.path("tuned/metrics.jsonl"))).unwrap();
    assert_eq!(lines.lines().count(), report.steps);

    let base = Checkpoint::open(&place.path("base/model")).unwrap();
    let transforms = Transforms::load(&place.path("tuned/transforms.json")).unwrap();
    let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    assert_eq!(
        (transforms.frozen_layers, adapter.tensors.len()),
        (1, 2 * 7 * 2)
    );
    assert!(
        adapter
            .tensors
            .keys()
            .all(|n| n.starts_with("base_model.model.model.layers.")),
        "PEFT's names"
    );
    let mut tuned = FloatModel::new(&base, &transforms, Some(&adapter)).unwrap();
    let after = accuracy(&mut tuned, &base);
    // The label follows from a word; guessing is right half of the time.
    assert!(after > 0.9, "{after}");
}

#[test]
fn every_low_rank_factor_is_moved_by_training() {
    let place = Place::new(true);
    place.run(TUNE, &["train.max_steps=3"]).unwrap();
    let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    let zero = |t: &Tensor| {
        t.flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|&v| v == 0.0)
    };
    for (name, tensor) in adapter.tensors.iter().filter(|(n, _)| n.contains("lora_B")) {
        assert!(!zero(tensor), "`{name}` never moved");
    }
}

#[test]
fn a_resumed_run_gives_the_same_bits_as_an_uninterrupted_one() {
    let place = Place::new(true);
    place.run(TUNE, &[]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let recipe = place.recipe(TUNE, &["output.dir=DIR/again"]);
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let error = train(&recipe, &options, &mut |p| {
        stop.store(p.step == 10, Ordering::Relaxed)
    })
    .unwrap_err();
    assert!(
        matches!(error, TrainError::Interrupted { step: 10, .. }),
        "{error}"
    );
    assert!(!place.path("again/adapter.safetensors").exists());

    let mut first = None;
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    train(&recipe, &options, &mut |p| first = first.or(Some(p.step))).unwrap();
    assert_eq!(first, Some(11));
    assert_eq!(
        bytes(place.path("tuned/adapter.safetensors")),
        bytes(place.path("again/adapter.safetensors"))
    );

    let other = place.recipe(TUNE, &["output.dir=DIR/again", "train.seed=9"]);
    let error = train(&other, &options, &mut |_| {}).unwrap_err();
    assert!(
        matches!(error, TrainError::Resume { .. }) && error.to_string().contains("another recipe"),
        "{error}"
    );
}

/// A run that was stopped at step 9 and moved: the adapter of a whole one, and the recipe to go on.
fn moved(place: &Place) -> (PathBuf, Recipe) {
    let whole = place.run(TUNE, &[]).unwrap().adapter.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let recipe = place.recipe(TUNE, &["output.dir=DIR/first"]);
    train(&recipe, &options, &mut |p| {
        stop.store(p.step == 9, Ordering::Relaxed)
    })
    .unwrap_err();
    std::fs::rename(place.path("first"), place.path("moved")).unwrap();

    (whole, place.recipe(TUNE, &["output.dir=DIR/moved"]))
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_refused() {
    let place = Place::new(true);
    let (_, recipe) = moved(&place);
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let newest = place.path("moved/checkpoints/step-000009");
    for name in ["state.safetensors", "state.json", "SHA256SUMS"] {
        let good = bytes(newest.join(name));
        for at in [0, good.len() / 2, good.len() - 1] {
            for bit in [0, 6] {
                let mut wrong = good.clone();
                wrong[at] ^= 1 << bit;
                std::fs::write(newest.join(name), wrong).unwrap();
                let error = train(&recipe, &options, &mut |_| {})
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains("step-000009` cannot be resumed"),
                    "{name} {at} {bit}: {error}"
                );
                assert!(
                    error.contains("it is damaged; remove it") && error.contains("step-000007"),
                    "{error}"
                );
            }
        }
        std::fs::remove_file(newest.join(name)).unwrap();
        let error = train(&recipe, &options, &mut |_| {})
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("it is damaged; remove it"),
            "{name}: {error}"
        );
        std::fs::write(newest.join(name), good).unwrap();
    }
}

#[test]
fn a_run_goes_on_from_a_base_elsewhere_and_not_from_another() {
    let place = Place::new(true);
    let (whole, recipe) = moved(&place);
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let report = train(&recipe, &options, &mut |_| {}).unwrap();
    assert_eq!(report.replanned, None);
    assert_eq!(bytes(whole), bytes(report.adapter.unwrap()));
    std::fs::rename(place.path("base"), place.path("elsewhere")).unwrap();
    let there = place.recipe(
        TUNE,
        &[
            "output.dir=DIR/moved",
            "model.base_model=DIR/elsewhere/model",
        ],
    );
    train(&there, &options, &mut |_| {}).unwrap();
    // The same name, and other weights behind it.
    place.run(SCRATCH, &["train.max_steps=21"]).unwrap();
    let error = train(&recipe, &options, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("another recipe, data set or base model"),
        "{error}"
    );
}

#[test]
fn a_finished_run_goes_on_with_more_steps() {
    let place = Place::new(true);
    place.run(TUNE, &["train.max_steps=4"]).unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let resume = |settings: &[&str]| {
        let mut steps = Vec::new();
        let mut rates = Vec::new();
        let report = train(&place.recipe(TUNE, settings), &options, &mut |p| {
            steps.push(p.step);
            rates.push(p.learning_rate);
        });
        report.map(|report| (report, steps, rates))
    };
    let (report, steps, rates) = resume(&[
        "train.max_steps=7",
        "train.epochs=8",
        "train.checkpoint_steps=2",
    ])
    .unwrap();
    assert_eq!(
        (report.replanned, steps, report.steps),
        (Some([4, 4]), vec![5, 6, 7], 7)
    );
    assert!(rates.iter().all(|rate| *rate > 0.0));
    let error = resume(&["train.max_steps=6"]).unwrap_err().to_string();
    assert!(
        error.contains("it is of step 7, and the run has 6 steps now"),
        "{error}"
    );
    assert!(error.contains("hint: raise `train.max_steps`"), "{error}");
    let (report, steps, _) = resume(&["train.max_steps=7"]).unwrap();
    assert_eq!(
        (report.replanned, steps.len()),
        (None, 0),
        "nothing is left to do"
    );
}

#[test]
fn two_runs_at_once_in_one_folder_are_refused() {
    let place = Place::new(true);
    let recipe = place.recipe(TUNE, &["train.max_steps=2"]);
    let mut refused = 0;
    train(&recipe, &place.options(), &mut |_| {
        let error = train(&recipe, &place.options(), &mut |_| {}).unwrap_err();
        assert!(
            matches!(&error, TrainError::InUse { path } if path.ends_with("tuned")),
            "{error}"
        );
        place
            .run(TUNE, &["train.max_steps=1", "output.dir=DIR/other"])
            .unwrap();
        refused += 1;
    })
    .unwrap();
    assert_eq!(refused, 2);
    place.run(TUNE, &["train.max_steps=2"]).unwrap();
}

#[test]
fn a_single_step_without_warm_up_moves_the_adapter() {
    let place = Place::new(true);
    let zero = |t: &Tensor| {
        t.flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|&v| v == 0.0)
    };
    for schedule in ["cosine", "linear", "constant"] {
        let scheduler = format!("optimizer.lr_scheduler={schedule}");
        place
            .run(
                TUNE,
                &[
                    "train.max_steps=1",
                    "optimizer.warmup_ratio=0.0",
                    &scheduler,
                ],
            )
            .unwrap();
        let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
        assert!(
            adapter
                .tensors
                .iter()
                .filter(|(n, _)| n.contains("lora_B"))
                .all(|(_, t)| !zero(t)),
            "{schedule}"
        );
    }
}

#[test]
fn sizes_beyond_the_model_are_refused_by_their_key() {
    let place = Place::new(true);
    for (set, said) in [
        (
            "lora.rank=17",
            "`lora.rank`: a rank of 17 is above the smaller side of `k_proj` (16 x 32)",
        ),
        ("lora.rank=1000000", "`lora.rank`: a rank of 1000000"),
        ("freeze.layers=4", "freeze.layers"),
        ("heads.merge=1000000", "`heads`"),
    ] {
        let error = place.run(TUNE, &[set]).unwrap_err().to_string();
        assert!(error.contains(said), "{set}: {error}");
        let error = dry_run(&place.recipe(TUNE, &[set]), &place.options())
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{set}: {error}");
    }
    place
        .run(TUNE, &["lora.rank=16", "train.max_steps=1"])
        .unwrap();
    let only = [
        "lora.rank=32",
        "lora.target_modules=[\"gate_proj\"]",
        "train.max_steps=1",
    ];
    place.run(TUNE, &only).unwrap();
    let plan = dry_run(
        &place.recipe(TUNE, &["train.epochs=1e6", "train.max_steps=40"]),
        &place.options(),
    )
    .unwrap();
    assert_eq!(plan.estimate.steps, 40);
    let plan = dry_run(&place.recipe(TUNE, &["train.epochs=1e6"]), &place.options()).unwrap();
    assert_eq!(
        (plan.estimate.steps, plan.estimate.distinct_tokens > 0),
        (9_000_000, true)
    );
}

#[test]
fn a_run_does_not_depend_on_the_number_of_threads() {
    let place = Place::new(true);
    let run = |threads: usize, dir: &str| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            place.run(
                TUNE,
                &["train.max_steps=5", &format!("output.dir=DIR/{dir}")],
            )
        })
        .unwrap();
        bytes(place.path(dir).join("adapter.safetensors"))
    };
    assert_eq!(run(1, "one"), run(3, "three"));
}

#[test]
fn a_teacher_pulls_the_student_towards_it() {
    let place = Place::new(true);
    let distil =
        format!("{TUNE}\n[distill]\nteacher = \"base\"\nweight = 1.0\ntemperature = 2.0\n");
    let report = place.run(&distil, &["train.epochs=10"]).unwrap();
    // The merged student starts away from its teacher and comes close; no label is used at
    // weight 1.
    assert!(report.final_loss < 0.5 * report.first_loss, "{report:?}");
    let error = place
        .run(&distil, &["distill.teacher=nowhere"])
        .unwrap_err();
    assert!(
        error.to_string().contains("`nowhere` was not found"),
        "{error}"
    );
}

#[test]
fn full_fine_tuning_leaves_the_frozen_layers_alone() {
    let place = Place::new(true);
    let full = TUNE.replace("[lora]\nrank = 4\n", "");
    let report = place.run(&full, &["train.max_steps=4"]).unwrap();
    assert_eq!(report.model, Some(place.path("tuned/model")));
    let base = place.path("base/model");
    let tuned = place.path("tuned/model");
    let base = Checkpoint::open(&base).unwrap();
    let tuned = Checkpoint::open(&tuned).unwrap();
    for (name, tensor) in &base.tensors {
        let private = name.starts_with("model.layers.1.") || name.starts_with("model.layers.2.");
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(
            values(tensor) != values(&tuned.tensors[name]),
            private,
            "{name}"
        );
    }
}

#[test]
fn a_loss_that_is_no_number_names_the_last_checkpoint() {
    let place = Place::new(true);
    // Decay that overshoots: the factors grow a hundredfold a step until squares overflow.
    let growing = [
        "optimizer.learning_rate=10.0",
        "optimizer.weight_decay=10.0",
        "optimizer.lr_scheduler=constant",
    ];
    let settings = [
        &growing[..],
        &["train.checkpoint_steps=1", "train.max_grad_norm=1e30"],
    ]
    .concat();
    let error = place.run(TUNE, &settings).unwrap_err();
    let TrainError::NotFinite {
        step,
        last_checkpoint,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    // The newest checkpoint holds what the failing step computed with.
    let good = place.path(&format!("tuned/checkpoints/step-{:06}", step - 2));
    assert_eq!(last_checkpoint.as_deref(), Some(good.as_path()), "{error}");
    assert!(
        good.exists() && error.to_string().contains("hint: the last good checkpoint"),
        "{error}"
    );

    let settings = [
        "optimizer.learning_rate=1e30",
        "train.max_grad_norm=1e30",
        "train.max_steps=1",
    ];
    let error = place.run(TUNE, &settings).unwrap_err().to_string();
    assert!(
        error.contains("the validation loss is not a finite number")
            && error.contains("no checkpoint"),
        "{error}"
    );
}

#[test]
fn head_groups_that_lose_rank_are_refused() {
    let place = Place::new(true);
    let error = place
        .run(TUNE, &["heads.grouping=adjacent"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("share keys") && error.contains("hint: use `grouping = \"strided\"`"),
        "{error}"
    );
    place
        .run(
            TUNE,
            &[
                "heads.grouping=adjacent",
                "heads.allow_kv_collapse=true",
                "train.max_steps=1",
            ],
        )
        .unwrap();
    let error = place
        .run(TUNE, &["freeze.layers=3"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("leaves none private"), "{error}");
}

#[test]
fn an_empty_data_set_is_an_error() {
    let place = Place::new(false);
    std::fs::write(place.path("rows.jsonl"), "").unwrap();
    let error = place.run(SCRATCH, &[]).unwrap_err().to_string();
    assert!(
        error.contains("rows.jsonl") && error.contains("empty"),
        "{error}"
    );
}

const STAGES: &str = r#"
[distill]
teacher = "base"
temperature = 2.0
stages = [{ share = 0.5, hidden = 1.0 }, { share = 0.5, hidden = 0.5, logits = 0.7, labels = 0.3 }]
"#;

#[test]
fn a_stage_of_hidden_states_moves_every_factor_and_comes_closer() {
    let place = Place::new(true);
    let distil = format!("{TUNE}{STAGES}");
    let only = [
        "distill.stages=[{share = 1.0, hidden = 1.0}]",
        "train.epochs=10",
    ];
    let report = place.run(&distil, &only).unwrap();
    // Labels follow from a word, so a run that learns at all halves its loss.
    assert!(report.final_loss < 0.5 * report.first_loss, "{report:?}");
    let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    for (name, tensor) in adapter.tensors.iter().filter(|(n, _)| n.contains("lora_B")) {
        let moved = tensor
            .abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(moved > 0.0, "`{name}` never moved");
    }
    let mut kinds = Vec::new();
    let loud = "distill.stages=[{share = 0.5, hidden = 1.0}, {share = 0.5, hidden = 0.1, labels = \
        1000.0}]";
    let recipe = place.recipe(&distil, &["train.max_steps=8", loud]);
    train(&recipe, &place.options(), &mut |p| {
        kinds.push(p.loss > 10.0)
    })
    .unwrap();
    assert_eq!(
        kinds,
        [false, false, false, false, true, true, true, true],
        "labels join in the middle"
    );

    let full = distil.replace("[lora]\nrank = 4\n", "");
    let error = place
        .run(&full, &["freeze.layers=0"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the final norm and the head untrained"),
        "{error}"
    );
}

#[test]
fn one_graph_or_a_graph_for_each_layer_gives_the_same_bits() {
    let place = Place::new(true);
    let distil = format!("{TUNE}{STAGES}");
    for (nth, text) in [TUNE, &distil, &TUNE.replace("[lora]\nrank = 4\n", "")]
        .into_iter()
        .enumerate()
    {
        let mut found = Vec::new();
        for how in ["never", "always"] {
            let dir = format!("output.dir=DIR/{how}{nth}");
            let how = format!("train.gradient_checkpointing={how}");
            let mut settings = vec!["train.max_steps=8", &dir, &how];
            if text.contains("[lora]") {
                settings.push("lora.dropout=0.2");
            }
            let report = place.run(text, &settings).unwrap();
            found.push((
                report.final_loss,
                bytes(
                    report
                        .adapter
                        .unwrap_or_else(|| report.model.unwrap().join("model.safetensors")),
                ),
            ));
        }
        assert!(
            found[0] == found[1],
            "recipe {nth}: {} and {}",
            found[0].0,
            found[1].0
        );
    }
}

#[test]
fn the_last_steps_alone_see_the_secure_programs_values() {
    let place = Place::new(true);
    let losses = |dir: &str, settings: &[&str]| -> (Vec<f64>, Vec<u8>) {
        let output = format!("output.dir=DIR/{dir}");
        let report = place
            .run(TUNE, &[&["train.max_steps=9", &output], settings].concat())
            .unwrap();
        let metrics = std::fs::read_to_string(place.path(dir).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"]
                .as_f64()
                .unwrap()
        };
        (
            metrics.lines().map(loss).collect(),
            bytes(report.adapter.unwrap()),
        )
    };
    let (plain, _) = losses("plain", &[]);
    let (quantized, adapter) = losses("quantized", &["train.quantize_last_steps=4"]);
    assert_eq!(plain[..5], quantized[..5]);
    for (step, (plain, quantized)) in plain.iter().zip(&quantized).enumerate().skip(5) {
        // Rounding to the format moves a loss by less than a percent, and must move it.
        assert!(
            plain != quantized && (plain - quantized).abs() < 0.01 * plain,
            "{step}: {plain}, {quantized}"
        );
    }
    let in_blocks = [
        "train.quantize_last_steps=4",
        "train.gradient_checkpointing=always",
    ];
    assert_eq!(losses("blocks", &in_blocks), (quantized, adapter));
}

#[test]
fn dropout_changes_the_run_but_not_its_measured_loss() {
    let place = Place::new(true);
    let mut losses = Vec::new();
    for (rate, rank) in [("0.0", 4), ("0.6", 4), ("0.6", 4)] {
        let settings = [
            format!("lora.dropout={rate}"),
            format!("lora.rank={rank}"),
            "train.epochs=2".into(),
        ];
        let report = place
            .run(TUNE, &settings.each_ref().map(String::as_str))
            .unwrap();
        losses.push((report.final_loss, report.val_loss.unwrap()));
    }
    assert_ne!(losses[0], losses[1]);
    assert_eq!(losses[1], losses[2]);
    // A learning rate of almost nothing: with dropout at evaluation, the two losses would differ.
    let still = [
        "optimizer.learning_rate=1e-12",
        "train.max_steps=1",
        "lora.dropout=0.9",
    ];
    let with = place.run(TUNE, &still).unwrap().val_loss;
    let without = place
        .run(
            TUNE,
            &["optimizer.learning_rate=1e-12", "train.max_steps=1"],
        )
        .unwrap()
        .val_loss;
    // Equal but for one step at a rate of 1e-12.
    assert!(
        (with.unwrap() - without.unwrap()).abs() < 1e-6,
        "{with:?} {without:?}"
    );
}

/// Four rows, of which one has no answer and two do not fit, and a recipe that reads them.
fn uneven_rows(place: &Place) -> (String, String) {
    let long = "word ".repeat(300);
    let lines = [
        r#"{"instruction": "say yes", "output": "yes"}"#.to_owned(),
        r#"{"instruction": "say nothing", "output": "  "}"#.to_owned(),
        format!(r#"{{"instruction": "{long}", "output": "yes"}}"#),
        format!(r#"{{"instruction": "go on", "output": "{long}"}}"#),
    ]
    .join("\n");
    std::fs::write(place.path("rows.jsonl"), &lines).unwrap();
    let text = TUNE
        .replace("labels = [\"even\", \"odd\"]\n", "")
        .replace("classify", "instruct");
    (lines, text)
}

const FEW_STEPS: [&str; 2] = ["train.max_steps=2", "data.val_fraction=0.0"];

#[test]
fn rows_that_are_empty_or_too_long_are_counted() {
    let place = Place::new(true);
    let (_, text) = uneven_rows(&place);
    let report = place.run(&text, &FEW_STEPS).unwrap();
    let notes = report.data;
    assert_eq!(
        (
            notes.rows,
            notes.shortened_prompts,
            notes.shortened_answers,
            notes.without_answer
        ),
        (4, 2, 1, 1)
    );
    assert_eq!(notes.to_string().lines().count(), 3, "{notes}");
}

#[test]
fn rows_left_out_or_not_held_out_are_told() {
    let place = Place::new(true);
    let (_, text) = uneven_rows(&place);
    std::fs::write(
        place.path("asked.jsonl"),
        "{\"instruction\": \"Say YES\"}\n",
    )
    .unwrap();
    let without = place
        .run(
            &text,
            &[
                FEW_STEPS[0],
                FEW_STEPS[1],
                "dataset.0.exclude=[\"asked.jsonl\"]",
            ],
        )
        .unwrap();
    assert_eq!((without.data.rows, without.data.excluded), (4, 1));
    assert!(
        without.data.to_string().contains("1 of 4 rows ask what"),
        "{}",
        without.data
    );
    // A tenth of three rows is none.
    let none_held_out = place
        .run(&text, &[FEW_STEPS[0], "data.val_fraction=0.1"])
        .unwrap();
    assert!(
        none_held_out
            .data
            .to_string()
            .contains("note: no row is held out"),
        "{}",
        none_held_out.data
    );
    assert_eq!(none_held_out.val_loss, None);
}

#[test]
fn broken_rows_are_named() {
    let place = Place::new(true);
    let (lines, text) = uneven_rows(&place);
    for (broken, said) in [
        ("{\"instruction\": \"a\", \"out", "row 5"),
        ("{\"instruction\": \"a\"}", "row 5"),
    ] {
        std::fs::write(place.path("rows.jsonl"), format!("{lines}\n{broken}")).unwrap();
        let error = place.run(&text, &FEW_STEPS).unwrap_err().to_string();
        assert!(
            error.contains("rows.jsonl") && error.contains(said),
            "{error}"
        );
    }
    std::fs::write(place.path("rows.jsonl"), [0xFFu8, 0xFE, 0x00]).unwrap();
    let error = place.run(&text, &FEW_STEPS).unwrap_err().to_string();
    assert!(
        error.contains("rows.jsonl") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn a_dry_run_writes_nothing_and_its_bytes_are_those_of_the_run() {
    let place = Place::new(true);
    let recipe = place.recipe(TUNE, &[]);
    let expected = dry_run(&recipe, &place.options()).unwrap();
    assert!(!place.path("tuned").exists());
    let report = place.run(TUNE, &[]).unwrap();
    let estimate = &expected.estimate;
    assert_eq!(
        (estimate.trained_parameters, estimate.steps),
        (report.trained_parameters, report.steps)
    );
    assert_eq!(
        (estimate.tokens, expected.data),
        (report.tokens, report.data)
    );
    assert!(expected.seconds > 0.0 && expected.tokens_per_second > 0.0);
    let newest = std::fs::read_dir(place.path("tuned/checkpoints"))
        .unwrap()
        .last()
        .unwrap()
        .unwrap()
        .path();
    let size = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().len() as f64;
    for (said, file) in [
        (estimate.checkpoint_bytes, newest.join("state.safetensors")),
        (estimate.adapter_bytes, report.adapter.clone().unwrap()),
    ] {
        let ratio = said as f64 / size(file.clone());
        assert!((0.7..1.3).contains(&ratio), "{}: {ratio}", file.display());
    }
    // The trial left no trace in what follows it.
    let first = bytes(report.adapter.clone().unwrap());
    dry_run(&recipe, &place.options()).unwrap();
    place.run(TUNE, &[]).unwrap();
    assert_eq!(first, bytes(report.adapter.unwrap()));
}

#[test]
fn cached_frozen_layers_serve_the_next_run_unchanged() {
    let place = Place::new(true);
    let plain = place.run(TUNE, &[]).unwrap();
    let expected = bytes(plain.adapter.unwrap());
    let options = TrainOptions {
        cache_dir: Some(place.path("cache")),
        ..place.options()
    };
    let run = |settings: &[&str]| {
        let report = train(&place.recipe(TUNE, settings), &options, &mut |_| {}).unwrap();
        assert_eq!(report.cache_note, None);
        (report.cached_rows, bytes(report.adapter.unwrap()))
    };
    assert_eq!(run(&[]), (0, expected.clone()));
    assert_eq!(run(&[]), (72, expected));
    assert_eq!(
        run(&["freeze.layers=2"]).0,
        0,
        "other layers are another file"
    );
    assert_eq!(
        run(&["dataset.0.path=swapped.jsonl"]).0,
        0,
        "other rows are not found"
    );
    assert_eq!(
        run(&["lora.rank=2", "optimizer.learning_rate=1e-3"]).0,
        72,
        "other knobs find the same rows"
    );
}
