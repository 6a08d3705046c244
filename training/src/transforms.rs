//! What a recipe changes about an architecture.

use marill_model::{Architecture, HeadTransform, LoraConfig, ModelConfig, Transforms};
use marill_numeric::{Approximations, SoftmaxForm, approx::DEFAULT_BOUND};
use marill_recipe::Recipe;

use crate::{TrainError, heads};

/// With the bound written out: a partition must not depend on a version's default.
fn resolved(approx: Approximations) -> Approximations {
    let clipped = approx.softmax == Some(SoftmaxForm::Clipped);
    Approximations {
        bound: approx.bound.or(clipped.then_some(DEFAULT_BOUND)),
        ..approx
    }
}

/// What a recipe changes about an architecture, with the heads that were chosen.
///
/// # Errors
/// [`TrainError::Setting`] for a rank that does not fit, [`TrainError::Model`] for the rest.
pub(crate) fn transforms_with(
    recipe: &Recipe,
    config: &dyn ModelConfig,
    heads: Option<HeadTransform>,
) -> Result<Transforms, TrainError> {
    let frozen_layers = recipe.freeze.layers;
    let lora = recipe.lora.as_ref().map(|l| LoraConfig {
        rank: l.rank,
        alpha: l.alpha,
        rslora: l.rslora,
        target_modules: l.target_modules.clone(),
        ranks: l.ranks.clone(),
    });
    let transforms = Transforms {
        frozen_layers,
        lora,
        heads,
        approx: resolved(recipe.approx),
    };
    transforms.check(config)?;
    if let Some(lora) = &transforms.lora {
        check_ranks(lora, config)?;
    }
    Ok(Transforms {
        lora: transforms.lora.map(LoraConfig::in_one_form),
        ..transforms
    })
}

/// What a recipe changes about an architecture, as far as its secure cost depends on it. No data is
/// read, so groups that the recipe measures, and which layers stay whole, are any that there can
/// be.
///
/// # Errors
/// [`TrainError::Setting`] and [`TrainError::Model`] for what does not fit the model.
pub fn shape_of(recipe: &Recipe, config: &Architecture) -> Result<Transforms, TrainError> {
    let heads = match &recipe.heads {
        Some(_) => heads::any(recipe, config.llama()?)?,
        None => None,
    };
    transforms_with(recipe, config, heads)
}

/// No rank is above the smaller side of its matrix.
fn check_ranks(lora: &LoraConfig, config: &dyn ModelConfig) -> Result<(), TrainError> {
    for module in &lora.target_modules {
        let Some([out, inner]) = config.module_shape(module) else {
            continue;
        };
        let rank = lora.rank_of(module);
        let key = match lora.ranks.contains_key(module) {
            true => "lora.ranks",
            false => "lora.rank",
        };
        if rank > out.min(inner) {
            let reason = format!(
                "a rank of {rank} is above the smaller side of `{module}` ({out} x \
                 {inner})\n\nhint: more than {} cannot be used; full-rank weights are trained \
                 without the `[lora]` table",
                out.min(inner)
            );
            return Err(TrainError::Setting { key, reason });
        }
    }
    Ok(())
}
