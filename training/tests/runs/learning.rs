//! What a run moves, how far, and what it leaves alone.

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, FloatModel, Transforms};
use marill_training::train;

use crate::place::{Place, SCRATCH, STAGES, TUNE, bytes};

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
fn modules_train_at_ranks_of_their_own() {
    let place = Place::new(true);
    let ranks = [
        "lora.ranks.q_proj=2",
        "lora.ranks.down_proj=9",
        "lora.rslora=true",
        "train.max_steps=3",
    ];
    let report = place.run(TUNE, &ranks).unwrap();
    let transforms = Transforms::load(&place.path("tuned/transforms.json")).unwrap();
    let lora = transforms.lora.as_ref().unwrap();
    assert!(lora.rslora);
    let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    for (module, rank) in [("q_proj", 2), ("k_proj", 4), ("down_proj", 9)] {
        assert_eq!(lora.rank_of(module), rank);
        let (a, b) = adapter.factors(1, module).unwrap();
        assert_eq!((a.dims()[0], b.dims()[1]), (rank, rank), "{module}");
    }
    let plan = marill_training::dry_run(&place.recipe(TUNE, &ranks), &place.options()).unwrap();
    assert_eq!(plan.estimate.trained_parameters, report.trained_parameters);
    // Ranks that do not differ leave the file of a run with one rank.
    let one = |dir: &str, set: &[&str]| {
        let dir_set = format!("output.dir=DIR/{dir}");
        place
            .run(TUNE, &[set, &[&dir_set, "train.max_steps=1"]].concat())
            .unwrap();
        bytes(place.path(dir).join("transforms.json"))
    };
    assert_eq!(
        one("named", &["lora.ranks.q_proj=4"]),
        one("plain", &["lora.rank=4"])
    );
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
