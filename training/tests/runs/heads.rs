//! Heads that are measured, left whole, left out, or merged step by step.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use marill_model::{HeadMethod, HeadTransform, Transforms};
use marill_training::{TrainError, TrainOptions, TrainReport, dry_run, train};
use sha2::{Digest, Sha256};

use crate::place::{Place, TUNE, bytes};

/// Runs a few steps and returns what was said, and what the folder says of the heads.
fn run(place: &Place, set: &[&str]) -> (TrainReport, HeadTransform) {
    let report = place
        .run(TUNE, &[set, &["train.max_steps=2"]].concat())
        .unwrap();
    let transforms = Transforms::load(&report.output_dir.join("transforms.json")).unwrap();
    (report, transforms.heads.unwrap())
}

#[test]
fn measured_groups_are_the_ones_that_change_least() {
    let place = Place::new(true);
    let strided = ["heads.grouping=strided", "heads.keep=1"];
    let (of_strided, _) = run(&place, &strided);
    let (report, heads) = run(&place, &["heads.grouping=measured"]);
    assert_eq!(heads.grouping, "measured");
    assert!(heads.scale.is_some() && heads.scales.is_empty());
    assert_eq!(report.heads.len(), heads.groups.len());
    for (measured, strided) in report.heads.iter().zip(&of_strided.heads) {
        assert!(!measured.kept && measured.error > 0.0);
        assert!(measured.error <= strided.error, "{measured:?} {strided:?}");
    }
    let kept: Vec<_> = of_strided.heads.iter().filter(|e| e.kept).collect();
    let most = of_strided.heads.iter().map(|e| e.error).fold(0.0, f64::max);
    assert!(kept.len() == 1 && kept[0].error == most, "{kept:?}");
}

#[test]
fn fitted_scales_change_less_than_one_for_all() {
    let place = Place::new(true);
    let (fixed, _) = run(&place, &["heads.grouping=measured"]);
    let (fitted, heads) = run(
        &place,
        &["heads.grouping=measured", "heads.fit_scales=true"],
    );
    assert!(heads.scale.is_none());
    let all: BTreeSet<u64> = heads.scales.iter().flatten().map(|s| s.to_bits()).collect();
    assert!(all.len() > heads.scales.len(), "each head has its own");
    let sum = |report: &TrainReport| report.heads.iter().map(|e| e.error).sum::<f64>();
    assert!(sum(&fitted) < sum(&fixed));
}

#[test]
fn layers_may_stay_whole_by_name() {
    let place = Place::new(true);
    let (report, heads) = run(&place, &["heads.keep_layers=[2]"]);
    assert!(report.heads.is_empty(), "nothing was measured");
    let whole = heads
        .groups
        .iter()
        .map(|groups| groups.iter().all(|g| g.len() == 1));
    assert_eq!(whole.filter(|whole| *whole).count(), 1);
    assert!(heads.scale.is_none() && heads.scales.len() == heads.groups.len());
    for (set, said) in [
        (
            "heads.keep_layers=[0]",
            "layer 0 is not private: the private layers are 1",
        ),
        ("heads.keep=9", "leaves none to change"),
    ] {
        let error = place.run(TUNE, &[set]).unwrap_err().to_string();
        assert!(error.contains(said), "{set}: {error}");
    }
}

#[test]
fn pruned_heads_train_and_dry_run() {
    let place = Place::new(true);
    let set = ["heads.method=prune", "heads.grouping=measured"];
    let (report, heads) = run(&place, &set);
    assert_eq!(heads.method, HeadMethod::Prune);
    assert!(report.final_loss.is_finite());
    let planned = dry_run(&place.recipe(TUNE, &set), &place.options()).unwrap();
    assert_eq!(planned.transforms.heads.unwrap(), heads);
}

/// The first step computes with the heads' own scores: its loss is the unmerged model's.
#[test]
fn merging_by_degrees_begins_with_the_heads_own_scores() {
    let place = Place::new(true);
    let set = |more: &[&'static str]| [more, &["train.max_steps=4"]].concat();
    let by_degrees = place.run(TUNE, &set(&["heads.progressive=0.5"])).unwrap();
    let plain = place.run(TUNE, &set(&["heads.merge=1"])).unwrap();
    let at_once = place.run(TUNE, &set(&[])).unwrap();
    // The same formula but for the order of 32-bit sums.
    assert!((by_degrees.first_loss - plain.first_loss).abs() < 1e-5);
    assert!((at_once.first_loss - plain.first_loss).abs() > 1e-4);
}

/// A run that was stopped goes on with the heads that it measured, and merges them when it would
/// have, also where it has more steps now.
#[test]
fn a_resumed_run_keeps_its_heads() {
    let place = Place::new(true);
    let set = |steps: &'static str, dir: &'static str| {
        let heads = [
            "heads.grouping=measured",
            "heads.fit_scales=true",
            "heads.progressive=0.5",
        ];
        [&heads[..], &[steps, dir]].concat()
    };
    let whole = place
        .run(TUNE, &set("train.max_steps=8", "output.dir=DIR/whole"))
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let recipe = place.recipe(TUNE, &set("train.max_steps=8", "output.dir=DIR/again"));
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let stopped = train(&recipe, &options, &mut |p| {
        stop.store(p.step == 5, Ordering::Relaxed);
    });
    assert!(matches!(
        stopped,
        Err(TrainError::Interrupted { step: 5, .. })
    ));
    // Another measurement would choose others: what the checkpoint says counts.
    let state = place.path("again/checkpoints/step-000005/state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"scales\""), "the checkpoint has the heads");
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let again = train(&recipe, &options, &mut |_| {}).unwrap();
    assert_eq!(again.heads, whole.heads);
    let file = |report: &TrainReport, name| bytes(report.output_dir.join(name));
    for name in ["transforms.json", "adapter.safetensors"] {
        assert!(file(&again, name) == file(&whole, name), "{name}");
    }
    let more = place.recipe(TUNE, &set("train.max_steps=30", "output.dir=DIR/again"));
    let mut losses = Vec::new();
    train(&more, &options, &mut |p| losses.push(p.loss)).unwrap();
    assert_eq!(losses.len(), 22);
    // Heads with scores of their own again would be another model: its loss jumps.
    assert!((losses[0] - again.final_loss).abs() < 0.5, "{losses:?}");
}

/// What a checkpoint says of its heads counts, not what would be measured now.
#[test]
fn heads_of_a_checkpoint_are_not_measured_again() {
    let place = Place::new(true);
    let set = |steps| ["heads.grouping=measured", "heads.fit_scales=true", steps];
    let first = place.run(TUNE, &set("train.max_steps=2")).unwrap();
    let folder = first.output_dir.join("checkpoints/step-000002");
    let text = std::fs::read_to_string(folder.join("state.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state["heads"]["transform"]["scales"][0][0] = 0.0625.into();
    std::fs::write(folder.join("state.json"), state.to_string()).unwrap();
    let sums = ["state.safetensors", "state.json"].map(|name| {
        let digest = Sha256::digest(bytes(folder.join(name)));
        format!("{}  {name}\n", marill_numeric::hex(&digest))
    });
    std::fs::write(folder.join("SHA256SUMS"), sums.concat()).unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let more = place.recipe(TUNE, &set("train.max_steps=3"));
    let again = train(&more, &options, &mut |_| {}).unwrap();
    let transforms = Transforms::load(&again.output_dir.join("transforms.json")).unwrap();
    assert_eq!(transforms.heads.unwrap().scales[0][0], 0.0625);
}

#[test]
fn heads_must_be_merged_in_the_end() {
    let place = Place::new(true);
    let set = ["heads.progressive=0.9", "train.max_steps=2"];
    let error = place.run(TUNE, &set).unwrap_err().to_string();
    assert!(
        error.contains("leaves none in which heads are merged"),
        "{error}"
    );
}

#[test]
fn measured_heads_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let place = Place::new(true);
        let set = [
            "heads.grouping=measured",
            "heads.fit_scales=true",
            "heads.progressive=0.5",
            "train.max_steps=3",
        ];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let report = pool.unwrap().install(|| place.run(TUNE, &set)).unwrap();
        let file = |name| bytes(report.output_dir.join(name));
        [file("transforms.json"), file("adapter.safetensors")]
    };
    assert!(run(1) == run(2));
}
