//! What makes a run cheaper or foresees its cost changes none of its bits.

use marill_training::{TrainOptions, dry_run, train};

use crate::place::{Place, STAGES, TUNE, bytes};

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
