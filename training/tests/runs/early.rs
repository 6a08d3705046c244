//! Metrics from the first step on, runs that end early, and the best step.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use marill_training::{
    Progress, Told, TrainError, TrainOptions, TrainReport, dry_run, train, train_told,
};

use crate::place::{Place, TUNE, bytes};

/// Half the rows held out, a loss after every other step, and a rate at which it soon gets worse.
const MEASURED: [&str; 3] = [
    "data.val_fraction=0.5",
    "eval.every_steps=2",
    "optimizer.learning_rate=0.2",
];

fn lines(place: &Place, name: &str) -> Vec<Progress> {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn steps(lines: &[Progress]) -> Vec<usize> {
    lines.iter().map(|line| line.step).collect()
}

#[test]
fn metrics_are_there_from_the_first_step() {
    let place = Place::new(true);
    let recipe = place.recipe(TUNE, &["train.checkpoint_steps=1000"]);
    let mut seen = 0;
    train(&recipe, &place.options(), &mut |at| {
        let written = lines(&place, "tuned/metrics.jsonl");
        assert_eq!(steps(&written), (1..=at.step).collect::<Vec<_>>());
        seen += 1;
    })
    .unwrap();
    assert!(seen > 3);
    let events = std::fs::read_dir(place.path("tuned/tensorboard")).unwrap();
    assert_eq!(events.count(), 1);
}

#[test]
fn event_files_are_left_out_where_they_are_not_wanted() {
    let place = Place::new(true);
    let few = ["output.tensorboard=false", "train.max_steps=2"];
    place.run(TUNE, &few).unwrap();
    assert!(!place.path("tuned/tensorboard").exists());
    assert_eq!(lines(&place, "tuned/metrics.jsonl").len(), 2);
}

#[test]
fn steps_behind_the_checkpoint_are_forgotten_on_resume() {
    let place = Place::new(true);
    place.run(TUNE, &[]).unwrap();
    let whole = lines(&place, "tuned/metrics.jsonl");
    // As a run leaves it that was killed behind its last checkpoint.
    let newest = format!("tuned/checkpoints/step-{:06}", whole.len());
    std::fs::remove_dir_all(place.path(&newest)).unwrap();
    let path = place.path("tuned/metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "{\"step\": 99").unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let mut first = None;
    train(&place.recipe(TUNE, &[]), &options, &mut |at| {
        first = first.or(Some(at.step))
    })
    .unwrap();
    assert!(first > Some(1), "it goes on from a checkpoint");
    let again = lines(&place, "tuned/metrics.jsonl");
    let losses = |lines: &[Progress]| lines.iter().map(|at| at.loss).collect::<Vec<_>>();
    assert_eq!(
        (steps(&again), losses(&again)),
        (steps(&whole), losses(&whole))
    );
}

#[test]
fn a_run_is_told_before_its_first_step_and_its_bits_stay() {
    let place = Place::new(true);
    let plain = place.run(TUNE, &[]).unwrap();
    let many = place.recipe(TUNE, &["output.dir=DIR/told"]);
    let options = TrainOptions {
        estimate_time: true,
        ..place.options()
    };
    let mut told = Vec::new();
    let report = train_told(&many, &options, &mut |what| match what {
        Told::Begin(summary) => {
            assert!(told.is_empty(), "once, and first");
            assert_eq!((summary.steps, summary.done), (plain.steps, 0));
            assert!(summary.rows > 0 && summary.tokens > 0 && summary.low_rank);
            assert_eq!(summary.trained_parameters, plain.trained_parameters);
            told.push(0);
        }
        Told::Step(at) => told.push(at.step),
    })
    .unwrap();
    assert_eq!(told, (0..=plain.steps).collect::<Vec<_>>());
    assert_eq!(
        bytes(report.adapter.unwrap()),
        bytes(plain.adapter.unwrap())
    );
}

fn run(place: &Place, more: &[&str]) -> TrainReport {
    place.run(TUNE, &[&MEASURED[..], more].concat()).unwrap()
}

#[test]
fn a_run_that_gets_worse_ends_early() {
    let place = Place::new(true);
    let patient = run(&place, &["output.dir=DIR/patient"]);
    assert_eq!((patient.ended_early_of, patient.keeps_best), (None, false));
    let report = run(&place, &["train.early_stopping_patience=2"]);
    assert_eq!(report.ended_early_of, Some(patient.steps));
    assert!(report.steps < patient.steps);
    let best = report.best.unwrap();
    // Two measurements, each two steps apart.
    assert_eq!(report.steps, best.step + 4);
    // Up to there it is the same run.
    let losses = |name: &str| -> Vec<f64> {
        let all = lines(&place, name);
        all[..report.steps].iter().map(|at| at.loss).collect()
    };
    assert_eq!(
        losses("tuned/metrics.jsonl"),
        losses("patient/metrics.jsonl")
    );
}

#[test]
fn the_best_step_is_what_a_run_leaves() {
    let place = Place::new(true);
    let keep = ["train.early_stopping_patience=2", "train.keep_best=true"];
    let report = run(&place, &keep);
    let best = report.best.unwrap();
    assert!(report.keeps_best && best.step < report.steps);
    assert_eq!(report.val_loss, Some(best.val_loss));
    // The schedule is that of the whole run, so stop the same run at that step.
    let stop = Arc::new(AtomicBool::new(false));
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let list = [&MEASURED[..], &["output.dir=DIR/stopped"]].concat();
    let error = train(&place.recipe(TUNE, &list), &options, &mut |at| {
        stop.store(at.step == best.step, Ordering::Relaxed)
    });
    assert!(matches!(error, Err(TrainError::Interrupted { .. })));
    let name = format!(
        "stopped/checkpoints/step-{:06}/state.safetensors",
        best.step
    );
    let there = candle_core::safetensors::load(place.path(&name), &candle_core::Device::Cpu);
    let there = there.unwrap();
    let left = candle_core::safetensors::load(report.adapter.unwrap(), &candle_core::Device::Cpu);
    for (name, tensor) in left.unwrap() {
        let values = |tensor: &candle_core::Tensor| -> Vec<f32> {
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_eq!(values(&tensor), values(&there[&name]), "{name}");
    }
}

#[test]
fn a_resumed_run_ends_and_keeps_what_the_whole_one_does() {
    let place = Place::new(true);
    let keep = ["train.early_stopping_patience=2", "train.keep_best=true"];
    let whole = run(&place, &keep);
    let again = [&MEASURED[..], &keep, &["output.dir=DIR/again"]].concat();
    let recipe = place.recipe(TUNE, &again);
    let stop = Arc::new(AtomicBool::new(false));
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let before = whole.best.unwrap().step + 1;
    train(&recipe, &options, &mut |at| {
        stop.store(at.step == before, Ordering::Relaxed)
    })
    .unwrap_err();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    for _ in 0..2 {
        // The second time there is nothing left to do.
        let resumed = train(&recipe, &options, &mut |_| {}).unwrap();
        assert_eq!((resumed.steps, resumed.best), (whole.steps, whole.best));
        let adapters = [&whole, &resumed].map(|run| bytes(run.adapter.clone().unwrap()));
        assert_eq!(adapters[0], adapters[1]);
    }
}

#[test]
fn a_dry_run_counts_the_best_steps() {
    let place = Place::new(true);
    let keep = ["train.keep_best=true", "train.checkpoint_steps=3"];
    let of = |more: &[&str]| {
        let recipe = place.recipe(TUNE, &[&MEASURED[..], more].concat());
        dry_run(&recipe, &place.options()).unwrap().estimate
    };
    assert_eq!(of(&[]).best_bytes, 0);
    let said = of(&keep).best_bytes as u64;
    run(&place, &keep);
    let kept = std::fs::read_dir(place.path("tuned/checkpoints")).unwrap();
    let kept = kept.map(|entry| entry.unwrap().path());
    let best = kept.filter(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("best-")
    });
    let sizes = best.map(|path| {
        std::fs::metadata(path.join("state.safetensors"))
            .unwrap()
            .len()
    });
    let sizes: Vec<u64> = sizes.collect();
    assert!((1..=3).contains(&sizes.len()), "{sizes:?}");
    for size in sizes {
        // A header of names comes on top of the numbers.
        let names = size - said / 3;
        assert!(names < 8192, "{said} foreseen for three, {size} written");
    }
}

/// The newest checkpoint is not the only one that a run may have to go on from.
#[test]
fn a_run_goes_on_from_an_older_checkpoint_too() {
    let place = Place::new(true);
    let keep = ["train.keep_best=true", "train.checkpoint_steps=3"];
    let whole = run(&place, &keep);
    let expected = bytes(whole.adapter.unwrap());
    let newest = format!("tuned/checkpoints/step-{:06}", whole.steps);
    std::fs::remove_dir_all(place.path(&newest)).unwrap();
    std::fs::create_dir(place.path("tuned/checkpoints/.best.partial")).unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let recipe = place.recipe(TUNE, &[&MEASURED[..], &keep].concat());
    let mut first = None;
    let resumed = train(&recipe, &options, &mut |at| first = first.or(Some(at.step))).unwrap();
    assert!(first > Some(1), "it goes on from a checkpoint");
    assert_eq!(resumed.best, whole.best);
    assert_eq!(bytes(resumed.adapter.unwrap()), expected);
    assert!(!place.path("tuned/checkpoints/.best.partial").exists());
}

/// Losses over other rows say nothing of each other.
#[test]
fn other_rows_to_measure_on_are_refused() {
    let place = Place::new(true);
    let keep = ["train.keep_best=true"];
    let steps = run(&place, &keep).steps;
    let folder = place.path(&format!("tuned/checkpoints/step-{steps:06}"));
    let state = std::fs::read_to_string(folder.join("state.json")).unwrap();
    let (before, behind) = state.split_once("\"validation_sha256\":\"").unwrap();
    let changed = format!("{before}\"validation_sha256\":\"00{}", &behind[2..]);
    std::fs::write(folder.join("state.json"), &changed).unwrap();
    // With the digest that fits.
    let digest = |text: &str| {
        use sha2::{Digest, Sha256};
        marill_numeric::hex(&Sha256::digest(text))
    };
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let sums = sums.replace(&digest(&state), &digest(&changed));
    std::fs::write(folder.join("SHA256SUMS"), sums).unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let again = |more: &[&str]| {
        let recipe = place.recipe(TUNE, &[&MEASURED[..], more].concat());
        train(&recipe, &options, &mut |_| {})
    };
    let error = again(&keep).unwrap_err().to_string();
    assert!(error.contains("are of other rows"), "{error}");
    // Where nothing is compared they do no harm.
    again(&[]).unwrap();
}

#[test]
fn one_measurement_has_nothing_to_compare() {
    let place = Place::new(true);
    let more = ["train.keep_best=true", "eval.every_steps=100000"];
    let list = [&MEASURED[..], &more].concat();
    let error = place.run(TUNE, &list).unwrap_err().to_string();
    assert!(error.contains("measures one loss"), "{error}");
}

/// As many as there are checkpoints, and one more.
#[test]
fn without_a_checkpoint_one_best_step_is_kept() {
    let place = Place::new(true);
    let list = [
        "data.val_fraction=0.5",
        "eval.every_steps=1",
        "train.keep_best=true",
        "train.checkpoint_steps=1000",
    ];
    let mut most = 0;
    let mut bests = Vec::new();
    train(&place.recipe(TUNE, &list), &place.options(), &mut |at| {
        bests.push(at.val_loss.unwrap());
        let entries = std::fs::read_dir(place.path("tuned/checkpoints"));
        let names = entries
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name());
        let kept = names.filter(|name| name.to_string_lossy().starts_with("best-"));
        most = most.max(kept.count());
    })
    .unwrap();
    let better = bests.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(better > 2, "{bests:?}");
    assert_eq!(most, 1, "there was no checkpoint");
}

#[test]
fn a_best_step_that_was_not_kept_is_no_ones() {
    let place = Place::new(true);
    let report = run(&place, &[]);
    let best = report.best.unwrap();
    assert!(best.step < report.steps, "the last one is not the best");
    let list = [&MEASURED[..], &["train.keep_best=true"]].concat();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let error = train(&place.recipe(TUNE, &list), &options, &mut |_| {}).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("least validation loss") && said.contains("not kept"),
        "{said}"
    );
}

#[test]
fn without_a_row_held_out_nothing_can_be_the_best() {
    let place = Place::new(true);
    let list = [
        "data.val_fraction=0.000001",
        "eval.every_steps=2",
        "train.keep_best=true",
    ];
    let error = place.run(TUNE, &list).unwrap_err().to_string();
    assert!(
        error.contains("`train.keep_best`") && error.contains("held out"),
        "{error}"
    );
}
