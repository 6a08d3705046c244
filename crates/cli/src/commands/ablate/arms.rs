//! What is compared: the techniques of a recipe, each alone and together.

use anyhow::ensure;

use crate::commands::bench::study::plan::{Arm, Plan, TaskPlan};

/// Names of the plan's rates, of runs that train whole weights and of those that train updates of
/// low rank.
const FULL_RATES: &str = "full";
const LORA_RATES: &str = "lora";

/// The share of frozen layers in the sweep: 10, 15, 20 and 23 of 30.
const SWEEP: [f64; 4] = [10.0 / 30.0, 15.0 / 30.0, 20.0 / 30.0, 23.0 / 30.0];

/// The arms of a recipe for a model of so many layers. What a recipe has no table for is left out.
///
/// # Errors
/// The recipe cannot be read, or freezes nothing: then there is nothing to compare.
pub fn of(plan: &Plan, task: &TaskPlan, layers: usize) -> anyhow::Result<Vec<Arm>> {
    let recipe = plan.recipe(task, &whole(), plan.tokens, None, task.seeds[0])?;
    let frozen = recipe.freeze.layers;
    ensure!(
        frozen > 0,
        "the recipe freezes no layer\nhint: an ablation takes `freeze.layers` away and puts it back"
    );
    let low_rank = recipe.lora.is_some();
    let mut arms = vec![full(), all(low_rank)];
    if low_rank {
        let about = "without merged heads";
        arms.push(arm("freeze+LoRA", about, true, &["heads"], &[]));
    }
    for share in SWEEP {
        let count = (share * layers as f64).round() as usize;
        if count != frozen && count > 0 && count < layers {
            arms.push(sweep(count, low_rank));
        }
    }
    let plain = ["lora", "heads"];
    arms.push(arm("freeze", "frozen layers alone", false, &plain, &[]));
    arms.push(arm(
        "all+approximation",
        "the recipe with a clipped softmax and a squared activation",
        low_rank,
        &["approx"],
        &["approx.softmax=clipped", "approx.activation=quad"],
    ));
    if let Some(heads) = recipe.heads.filter(|heads| heads.merge > 1) {
        let about = "without updates of low rank";
        arms.push(arm("freeze+merge", about, false, &["lora"], &[]));
        let merge = format!("heads.merge={}", heads.merge);
        let prune = [&merge, "heads.method=prune", "heads.grouping=measured"];
        let about = "pruned in place of merged, without updates of low rank";
        arms.push(arm("freeze+prune", about, false, &plain, &prune));
    }
    if low_rank {
        let about = "updates of low rank alone, nothing frozen";
        arms.push(arm("LoRA", about, true, &["heads"], &["freeze.layers=0"]));
    }
    Ok(arms)
}

/// The recipe as it is.
fn whole() -> Arm {
    Arm {
        name: String::new(),
        about: String::new(),
        rates: FULL_RATES.into(),
        remove: Vec::new(),
        set: Vec::new(),
        teacher: None,
        tasks: Vec::new(),
    }
}

/// What recovery is measured against.
fn full() -> Arm {
    arm(
        "full",
        "every layer trained, nothing frozen but the embedding, no transformation",
        false,
        &["lora", "heads", "approx"],
        &["freeze.layers=0", "freeze.embedding=true"],
    )
}

fn all(low_rank: bool) -> Arm {
    arm(
        "all",
        "the recipe, without distillation",
        low_rank,
        &[],
        &[],
    )
}

fn sweep(count: usize, low_rank: bool) -> Arm {
    let name = format!("{count} frozen");
    let set = format!("freeze.layers={count}");
    arm(
        &name,
        "the recipe with another prefix",
        low_rank,
        &[],
        &[&set],
    )
}

fn arm(name: &str, about: &str, low_rank: bool, remove: &[&str], set: &[&str]) -> Arm {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let mut removed: Vec<String> = owned(remove);
    removed.push("distill".into());
    Arm {
        name: name.into(),
        about: about.into(),
        rates: if low_rank { LORA_RATES } else { FULL_RATES }.into(),
        remove: removed,
        set: owned(set),
        ..whole()
    }
}
