//! `marill train --dry-run`: what a run will need and cost, without training.

use std::{path::PathBuf, process::ExitCode};

use marill_model::{Checkpoint, LoraConfig, Transforms};
use marill_mpc::{MaskedAdapter, tally_decode, tally_prefill};
use marill_recipe::{Init, Recipe};
use marill_report::{bytes, count};
use marill_training::{DryRun, TrainOptions, dry_run};
use serde_json::{Value, json};

use super::program::program_of;
use crate::{args::base_model::Search, output::failure::BadInput};

/// Model card, identifiers and the heads of files in an exported folder.
const CARD_BYTES: u64 = 4 << 10;

/// Keys in the cache at which the cost of a token is stated.
const KEYS: usize = 128;

/// Loads everything, tries a few rows, states memory, bytes and time, and the secure cost of what
/// would be exported.
///
/// # Errors
/// [`BadInput`] for recipe, data and model.
pub fn run(recipe: &Recipe, options: &TrainOptions, json: bool) -> anyhow::Result<ExitCode> {
    let dry_run = dry_run(recipe, options).map_err(|error| BadInput(error.into()))?;
    // Embedding and head would be published with a partition; a run that trains them cannot have
    // one.
    let leaves_embedding =
        recipe.lora.is_some() || recipe.freeze.layers > 0 || recipe.freeze.embedding;
    let can_be_private = leaves_embedding && recipe.model.init == Init::Pretrained;
    let secure = if can_be_private {
        // Both forms keep exactly what is trained.
        let private_bytes = dry_run.estimate.trained_parameters as u64 * 4;
        let transforms = &dry_run.transforms;
        Some(secure_cost(recipe, options, transforms, private_bytes).map_err(BadInput)?)
    } else {
        None
    };
    if json {
        let mut found = json!({ "output_dir": recipe.output.dir, "train": dry_run });
        found["trained_parameters"] = dry_run.estimate.trained_parameters.into();
        if let Some(Value::Object(secure)) = secure {
            found
                .as_object_mut()
                .expect("an object was made")
                .extend(secure);
        }
        println!("{found:#}");
        return Ok(ExitCode::SUCCESS);
    }
    print_training(&dry_run, recipe.lora.is_some());
    match &secure {
        Some(secure) => print_secure(secure),
        None => {
            println!(
                "no partition: embedding, norm and head are trained too, and a partition would \
                 publish them"
            );
            eprintln!(
                "\n\
                 hint: `freeze.layers` or `freeze.embedding = true` leaves them as they are, \
                 `[lora]` does as well"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_training(dry_run: &DryRun, low_rank: bool) {
    let estimate = &dry_run.estimate;
    let size = |value: usize| bytes(value as u64);
    eprint!("{}", dry_run.data);
    if let Some(heads) = super::measured_heads(&dry_run.heads) {
        println!("heads              {heads}");
    }
    println!(
        "trained            {} parameters",
        count(estimate.trained_parameters as u64)
    );
    println!(
        "run                {} steps, {} tokens",
        count(estimate.steps as u64),
        count(estimate.tokens as u64)
    );
    println!(
        "time               {:.0} s at {:.0} tokens/s on this machine as busy as it is now, \
         without the export",
        dry_run.seconds, dry_run.tokens_per_second
    );
    let how = if dry_run.gradient_checkpointing {
        "one layer's graph at a time"
    } else {
        "graphs of all layers"
    };
    let graph = if dry_run.gradient_checkpointing {
        estimate.graph_bytes_in_blocks
    } else {
        estimate.graph_bytes
    };
    println!(
        "memory             {}: weights {}, {how} {}, cache {}, optimizer {}, rest {}",
        size(dry_run.memory_bytes),
        size(estimate.weight_bytes),
        size(graph),
        size(estimate.cache_bytes),
        size(estimate.optimizer_bytes),
        size(estimate.other_bytes + estimate.teacher_bytes)
    );
    let best = match estimate.best_bytes {
        0 => String::new(),
        bytes => format!("{} the best steps, ", size(bytes)),
    };
    println!(
        "disk               {} a checkpoint (two are kept), {best}{} {}",
        size(estimate.checkpoint_bytes),
        size(estimate.adapter_bytes),
        if low_rank {
            "trained tensors"
        } else {
            "the whole model"
        }
    );
}

/// The split, the folder that will be exported, and what a token and a prompt will cost under the
/// protocol.
fn secure_cost(
    recipe: &Recipe,
    options: &TrainOptions,
    transforms: &Transforms,
    private_bytes: u64,
) -> anyhow::Result<Value> {
    let path = match &options.base {
        Some(path) => path.clone(),
        None => Search::default().base(recipe, &options.recipe_dir)?,
    };
    let base = Checkpoint::open_ignoring(&path, &recipe.model.ignore)?;
    let spec = program_of(recipe, &base.config, transforms)?;
    let decode = tally_decode(&spec, KEYS.min(spec.max_positions - 1))?;
    let prefill = tally_prefill(&spec, spec.bucket(64.min(spec.max_positions)))?;
    // A manifest is what describes the split, mostly.
    let manifest = serde_json::to_string_pretty(transforms)?.len()
        + serde_json::to_string_pretty(&spec)?.len();
    let public_bytes = base.files.iter().map(size_of).sum::<u64>();
    Ok(json!({
        "frozen_layers": transforms.frozen_layers,
        "private_layers": spec.num_layers,
        "softmaxes_a_layer": spec.head_groups.first().map(Vec::len),
        "approximations": marill_numeric::approx::describe(&spec.approx),
        "softmaxes": spec.head_groups.iter().map(Vec::len).collect::<Vec<_>>(),
        "private": if spec.is_full_rank() { "full" } else { "lora" },
        "lora_rank": transforms.lora.as_ref().map(|lora| lora.rank),
        "lora_ranks": transforms.lora.as_ref().map(LoraConfig::ranks_said),
        "public_bytes": public_bytes,
        "masked_bytes": MaskedAdapter::bytes_of(&spec),
        "export_bytes": public_bytes + private_bytes + manifest as u64 + CARD_BYTES,
        "decode": {
            "keys": KEYS, "rounds": decode.rounds,
            "client_bytes_sent": decode.e0_to_e1_bytes,
            "client_bytes_received": decode.e1_to_e0_bytes,
            "dealer_to_server_bytes": decode.dealer_to_e1_bytes,
        },
        "prefill": {
            "tokens": 64, "rounds": prefill.rounds,
            "client_bytes_sent": prefill.e0_to_e1_bytes,
            "client_bytes_received": prefill.e1_to_e0_bytes,
            "dealer_to_server_bytes": prefill.dealer_to_e1_bytes,
        },
    }))
}

fn size_of(path: &PathBuf) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn print_secure(secure: &Value) {
    let size = |value: &Value| bytes(value.as_u64().unwrap_or_default());
    println!(
        "client, in clear   embedding and {} layers",
        secure["frozen_layers"]
    );
    let all: Vec<u64> = secure["softmaxes"].as_array().map_or_else(Vec::new, |all| {
        all.iter().filter_map(Value::as_u64).collect()
    });
    let softmaxes = match all.iter().all(|count| Some(count) == all.first()) {
        true => format!("{} softmaxes each", secure["softmaxes_a_layer"]),
        false => format!("{} softmaxes in all", all.iter().sum::<u64>()),
    };
    println!(
        "under MPC          {} layers, {softmaxes}",
        secure["private_layers"]
    );
    for line in secure["approximations"].as_array().into_iter().flatten() {
        println!("approximated       {}", line.as_str().unwrap_or_default());
    }
    let form = secure["lora_ranks"]
        .as_str()
        .map(|ranks| format!("rank {ranks}"));
    println!(
        "private            {}; a client downloads {}, and {} masked",
        form.as_deref().unwrap_or("full-rank weights"),
        size(&secure["public_bytes"]),
        size(&secure["masked_bytes"])
    );
    let by = if form.is_some() {
        ""
    } else {
        ", written by `marill export`"
    };
    println!("exported folder    {}{by}", size(&secure["export_bytes"]));
    for (step, what) in [
        ("decode", "per token at 128 keys"),
        ("prefill", "a prompt of 64 tokens"),
    ] {
        println!(
            "{what}: {} rounds, client sends {} and receives {}, dealer to server {}",
            secure[step]["rounds"],
            size(&secure[step]["client_bytes_sent"]),
            size(&secure[step]["client_bytes_received"]),
            size(&secure[step]["dealer_to_server_bytes"])
        );
    }
}
