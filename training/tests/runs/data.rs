//! What is counted, told or refused of rows and of sizes.

use marill_training::dry_run;

use crate::place::{Place, SCRATCH, TUNE};

#[test]
fn sizes_beyond_the_model_are_refused_by_their_key() {
    let place = Place::new(true);
    for (set, said) in [
        (
            "lora.rank=17",
            "`lora.rank`: a rank of 17 is above the smaller side of `k_proj` (16 x 32)",
        ),
        ("lora.rank=1000000", "`lora.rank`: a rank of 1000000"),
        (
            "lora.ranks.k_proj=17",
            "`lora.ranks`: a rank of 17 is above the smaller side of `k_proj` (16 x 32)",
        ),
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
