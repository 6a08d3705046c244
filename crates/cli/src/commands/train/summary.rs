//! What a run is about to do, before its first step.

use std::fmt::Write;

use marill_recipe::Recipe;
use marill_report::{bytes, count};
use marill_training::{HeadError, Summary};

use crate::output::progress::short;

/// A line for each fact; ends with a line break.
pub fn text(recipe: &Recipe, run: &Summary) -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{name:<9} {what}");
    };
    if run.of_teacher {
        line("teacher", "all of the base, trained before the run".into());
    }
    let base = recipe.model.base_model.as_deref();
    line(
        "model",
        format!(
            "{}, {} layers",
            base.unwrap_or("from random weights"),
            run.layers
        ),
    );
    let held_out = match run.held_out {
        0 => String::new(),
        rows => format!(", {} held out", count(rows as u64)),
    };
    line("rows", format!("{}{held_out}", count(run.rows as u64)));
    let done = match run.done {
        0 => String::new(),
        steps => format!(", of which {} are done", count(steps as u64)),
    };
    line(
        "run",
        format!(
            "{} steps{done}, {} tokens",
            count(run.steps as u64),
            count(run.tokens as u64)
        ),
    );
    line("private", private(recipe, run));
    let time = match run.seconds {
        Some(seconds) => format!("about {}, from a trial of a few rows", time(seconds)),
        None => "not estimated".into(),
    };
    line("time", time);
    line(
        "memory",
        format!("about {}", bytes(run.memory_bytes as u64)),
    );
    text
}

fn time(seconds: f64) -> String {
    std::time::Duration::try_from_secs_f64(seconds).map_or_else(|_| "ages".into(), short)
}

/// `layer 3` or `layers 3 to 29`.
fn layers(run: &Summary) -> String {
    let last = run.layers.saturating_sub(1);
    match run.frozen_layers == last {
        true => format!("layer {last}"),
        false => format!("layers {} to {last}", run.frozen_layers),
    }
}

/// What will be private in the partition, and what is public beside it.
fn private(recipe: &Recipe, run: &Summary) -> String {
    let trained = count(run.trained_parameters as u64);
    let first = match run.frozen_layers {
        0 => "the embedding is public".to_string(),
        1 => "embedding and the first layer are public and run on the client".to_string(),
        n => format!("embedding and the first {n} layers are public and run on the client"),
    };
    if let Some(lora) = &recipe.lora
        && run.low_rank
    {
        return format!(
            "low-rank factors (rank {}) of {}, {trained} parameters; {first}",
            lora.rank,
            layers(run)
        );
    }
    match run.frozen_layers > 0 || recipe.freeze.embedding {
        true => format!(
            "all weights of {}, {trained} parameters; {first}",
            layers(run)
        ),
        false => format!("nothing: all {trained} parameters are trained, and no partition is made"),
    }
}

/// What is to be said of the run but for its rows, whoever wants to see progress.
pub fn notes(run: &Summary) {
    if let Some([planned, done]) = run.replanned {
        eprintln!(
            "note: {done} steps of a run of {planned} are gone on with to {}: from there on \
             learning rate and stages follow the new plan, so the result is not that of an \
             uninterrupted run",
            run.steps
        );
    }
    if run.warmup_steps >= run.steps && run.steps > 1 {
        eprintln!(
            "note: the learning rate rises over {} steps, all that the run has",
            run.warmup_steps
        );
    }
    if let Some(heads) = measured_heads(&run.heads) {
        eprintln!("heads: {heads}");
    }
}

/// What was measured of the heads, where anything was.
pub fn measured_heads(layers: &[HeadError]) -> Option<String> {
    let errors = layers.iter().map(|layer| layer.error);
    let least = errors.clone().reduce(f64::min)?;
    let most = errors.reduce(f64::max)?;
    let kept = layers.iter().filter(|layer| layer.kept);
    let kept: Vec<String> = kept.map(|layer| layer.layer.to_string()).collect();
    let whole = match kept.is_empty() {
        true => String::new(),
        false => format!("; left whole: layers {}", kept.join(", ")),
    };
    Some(format!(
        "attention blocks change by {least:.2e} to {most:.2e} of the residual stream, squared, \
         measured on training rows{whole}"
    ))
}
