//! Runs that stop and go on: the same bits, and what is refused.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use marill_recipe::Recipe;
use marill_training::{TrainError, TrainOptions, train};

use crate::place::{Place, SCRATCH, TUNE, bytes};

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
