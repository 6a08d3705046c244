//! Keys that say when a run ends, what it leaves, and how its learning rate goes.

use marill_recipe::Recipe;

use crate::{GOOD, problems};

fn set(list: &[&str]) -> Recipe {
    let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(GOOD, "r.toml", &list).unwrap()
}

const MEASURED: [&str; 2] = ["data.val_fraction=0.1", "eval.every_steps=5"];

#[test]
fn a_run_may_end_early_and_keep_its_best() {
    let keys = [
        "train.early_stopping_patience=3",
        "train.early_stopping_threshold=0.01",
        "train.keep_best=true",
    ];
    let recipe = set(&[&MEASURED[..], &keys].concat());
    assert_eq!(recipe.train.early_stopping_patience, Some(3));
    assert_eq!(recipe.train.early_stopping_threshold, Some(0.01));
    assert!(recipe.train.keep_best);
    let again = Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, recipe);
}

#[test]
fn a_rate_warms_up_over_steps_and_has_a_least() {
    let recipe = set(&["optimizer.warmup_steps=20", "optimizer.min_lr_ratio=0.1"]);
    assert_eq!(recipe.optimizer.warmup_steps, Some(20));
    // As it was written.
    assert_eq!(recipe.optimizer.min_lr_ratio.to_bits(), 0.1f64.to_bits());
    let again = Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, recipe);
    assert!(!set(&["output.tensorboard=false"]).output.tensorboard);
}

#[test]
fn what_is_left_out_stays_out_of_a_resolved_recipe() {
    let text = set(&[]).to_toml();
    for key in [
        "early_stopping",
        "keep_best",
        "warmup_steps",
        "min_lr_ratio",
        "tensorboard",
    ] {
        assert!(!text.contains(key), "{key} in\n{text}");
    }
}

#[test]
fn keys_that_would_do_nothing_are_refused() {
    let patience = "train.early_stopping_patience=2";
    for (list, said) in [
        (
            &[patience, MEASURED[1]][..],
            "early_stopping_patience` needs a validation loss",
        ),
        (
            &[patience, MEASURED[0]],
            "early_stopping_patience` needs more than one",
        ),
        (
            &["train.keep_best=true", MEASURED[1]],
            "keep_best` needs a validation loss",
        ),
        (
            &["train.keep_best=true", MEASURED[0]],
            "keep_best` needs more than one",
        ),
        (
            &[patience, "train.quantize_last_steps=5"],
            "before what `train.quantize_last_steps` asks for",
        ),
        (
            &["train.early_stopping_threshold=0.1"],
            "does nothing without `train.early_stopping_patience`",
        ),
        (
            &["optimizer.warmup_steps=5", "optimizer.warmup_ratio=0.1"],
            "exclude each other",
        ),
        (
            &[
                "optimizer.min_lr_ratio=0.1",
                "optimizer.lr_scheduler=constant",
            ],
            "`optimizer.min_lr_ratio` does nothing",
        ),
    ] {
        let all = problems(GOOD, list);
        assert!(all.iter().any(|p| p.contains(said)), "{list:?}: {all:#?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_key() {
    for (list, said) in [
        (
            "train.early_stopping_patience=0",
            "`train.early_stopping_patience` must be at least 1",
        ),
        (
            "train.early_stopping_threshold=-1",
            "`train.early_stopping_threshold` must be",
        ),
        ("train.keep_best=1", "`train.keep_best` takes true or false"),
        (
            "optimizer.warmup_steps=-1",
            "`optimizer.warmup_steps` must be at least 0",
        ),
        (
            "optimizer.min_lr_ratio=1.5",
            "`optimizer.min_lr_ratio` must be",
        ),
        (
            "output.tensorboard=1",
            "`output.tensorboard` takes true or false",
        ),
    ] {
        let all = problems(GOOD, &[list]);
        assert!(all[0].contains(said), "{list}: {all:#?}");
    }
}

#[test]
fn other_tools_names_are_answered_with_ours() {
    for (theirs, ours) in [
        ("train.load_best_model_at_end=true", "train.keep_best"),
        (
            "optimizer.early_stopping_patience=3",
            "train.early_stopping_patience",
        ),
        ("optimizer.min_lr_rate=0.1", "optimizer.min_lr_ratio"),
        ("train.warmup_steps=3", "optimizer.warmup_steps"),
    ] {
        let all = problems(GOOD, &[theirs]);
        assert!(
            all[0].contains(&format!("here it is `{ours}`")),
            "{theirs}: {all:#?}"
        );
    }
}
