//! What a teacher gives: layers alone, relations, kept logits, and a teacher that is trained first.

use marill_training::{TrainOptions, train};

use crate::place::{Place, TUNE, bytes};

fn distilled(knobs: &str) -> String {
    format!("{TUNE}\n[distill]\n{knobs}\n")
}

const ALL: &str = "teacher = \"base\"
temperature = 2.0
keep_logits = \"sampled\"
kept_tokens = 8
stages = [
    { share = 0.5, outputs = 1.0 },
    { share = 0.5, outputs = 0.2, hidden = 0.1, relations = 0.3, logits = 0.5, labels = 0.5 },
]";

#[test]
fn layers_alone_come_closer_to_the_teachers() {
    let place = Place::new(true);
    let alone = distilled("teacher = \"base\"\nstages = [{ share = 1.0, outputs = 1.0 }]");
    let report = place.run(&alone, &["train.epochs=10"]).unwrap();
    // Merged heads are all that is between student and teacher, and every factor helps.
    assert!(report.final_loss < 0.6 * report.first_loss, "{report:?}");
    let zero = marill_model::Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    for (name, tensor) in zero
        .tensors
        .iter()
        .filter(|(name, _)| name.contains("lora_B"))
    {
        let size = tensor.sqr().unwrap().sum_all().unwrap();
        assert!(
            size.to_scalar::<f32>().unwrap() > 0.0,
            "`{name}` never moved"
        );
    }
}

#[test]
fn one_layer_at_a_time_gives_the_same_bits() {
    let place = Place::new(true);
    let adapter = |how: &str| {
        let how = format!("train.gradient_checkpointing={how}");
        let report = place.run(&distilled(ALL), &[&how]).unwrap();
        bytes(report.adapter.unwrap())
    };
    assert!(adapter("always") == adapter("never"));
}

#[test]
fn a_resumed_run_hears_the_same_teacher() {
    let place = Place::new(true);
    let whole = place
        .run(&distilled(ALL), &["output.dir=DIR/whole"])
        .unwrap();
    let settings = ["output.dir=DIR/halves"];
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    let until = |step: &marill_training::Progress| {
        // In the second stage and the second epoch of it, where answers and layers are kept.
        stop.store(step.step == 41, std::sync::atomic::Ordering::Relaxed);
    };
    let recipe = place.recipe(&distilled(ALL), &settings);
    train(&recipe, &options, &mut |step| until(step)).unwrap_err();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    let resumed = train(&recipe, &options, &mut |_| {}).unwrap();
    assert_eq!(
        bytes(whole.adapter.unwrap()),
        bytes(resumed.adapter.unwrap())
    );
}

#[test]
fn all_tokens_kept_are_all_logits() {
    let place = Place::new(true);
    let losses = |keep: &str| {
        let knobs = format!("teacher = \"base\"\ntemperature = 2.0\nweight = 1.0\n{keep}");
        let report = place
            .run(&distilled(&knobs), &["train.max_steps=6"])
            .unwrap();
        (report.first_loss, report.final_loss)
    };
    let all = losses("");
    let kept = losses("keep_logits = \"top-k\"\nkept_tokens = 4096");
    // The first ones come from hidden states in f16, which moves them by less than a thousandth.
    assert!((all.0 - kept.0).abs() < 1e-3 * all.0, "{all:?} {kept:?}");
    let few = losses("keep_logits = \"top-k\"\nkept_tokens = 2");
    let drawn = losses("keep_logits = \"sampled\"\nkept_tokens = 2");
    assert!(
        few.0 < all.0,
        "tokens taken together differ less: {few:?} {all:?}"
    );
    assert_ne!(few, drawn);
}

#[test]
fn a_teacher_is_trained_first_and_found_again() {
    let place = Place::new(true);
    let text =
        distilled("teacher = \"fine-tune\"\nfine_tune = { learning_rate = 1e-3 }\nweight = 0.5");
    let recipe = place.recipe(&text, &["train.max_steps=12"]);
    let mut steps = Vec::new();
    let report = train(&recipe, &place.options(), &mut |step| {
        steps.push(step.of_teacher);
    })
    .unwrap();
    assert_eq!(steps, [vec![true; 12], vec![false; 12]].concat());
    let taught = report.taught.unwrap();
    assert!(!taught.found && taught.model.ends_with("tuned/teacher/model"));
    assert!(taught.val_loss.is_some());
    let adapter = bytes(report.adapter.unwrap());

    let again = train(&recipe, &place.options(), &mut |step| {
        assert!(!step.of_teacher, "the teacher is there");
    })
    .unwrap();
    let found = again.taught.unwrap();
    assert!(found.found && found.val_loss == taught.val_loss);
    assert!(bytes(again.adapter.unwrap()) == adapter);

    // What decides the teacher decides whether it is the one.
    let other = place.recipe(
        &text,
        &["train.max_steps=12", "distill.fine_tune.learning_rate=2e-3"],
    );
    let report = train(&other, &place.options(), &mut |_| {}).unwrap();
    assert!(!report.taught.unwrap().found);
    let shorter = place.recipe(&text, &["train.max_steps=5"]);
    let report = train(&shorter, &place.options(), &mut |_| {}).unwrap();
    assert!(!report.taught.unwrap().found);
}

#[test]
fn a_trial_needs_no_trained_teacher() {
    let place = Place::new(true);
    let recipe = place.recipe(&distilled("teacher = \"fine-tune\""), &[]);
    marill_training::dry_run(&recipe, &place.options()).unwrap();
    assert!(!place.path("tuned").exists());
}

#[test]
fn relations_need_widths_that_can_be_cut() {
    let place = Place::new(true);
    let text = distilled(
        "teacher = \"base\"\nrelation_heads = 7\nstages = [{ share = 1.0, relations = 1.0, \
         labels = 1.0 }]",
    );
    let error = place.run(&text, &[]).unwrap_err().to_string();
    assert!(error.contains("`distill.relation_heads`"), "{error}");
    assert!(error.contains("cannot be cut into 7 parts"), "{error}");
    let report = place
        .run(&text, &["distill.relation_heads=2", "train.epochs=10"])
        .unwrap();
    // The labels' part of the loss falls from ln 2 and more towards 0; relations have a floor.
    assert!(report.final_loss < 0.85 * report.first_loss, "{report:?}");
}

#[test]
fn a_run_does_not_go_on_under_another_teacher() {
    let place = Place::new(true);
    let text = distilled("teacher = \"fine-tune\"\nweight = 0.5");
    place.run(&text, &["train.max_tokens=1200"]).unwrap();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    // The teacher has as many tokens as the run, so a longer run has another one.
    let longer = place.recipe(&text, &["train.max_tokens=2400"]);
    let error = train(&longer, &options, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("tuned/checkpoints"), "{error}");
    let own = "distill.fine_tune.max_tokens=1200";
    place.run(&text, &["train.max_tokens=1200", own]).unwrap();
    let longer = place.recipe(&text, &["train.max_tokens=2400", own]);
    let report = train(&longer, &options, &mut |_| {}).unwrap();
    assert!(report.taught.unwrap().found && report.replanned.is_some());
}
