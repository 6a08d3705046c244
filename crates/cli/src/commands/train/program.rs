//! The secure program that a recipe's run will be exported as.

use marill_model::{Architecture, Transforms};
use marill_mpc::{PrivateForm, ProgramSpec};
use marill_partition::program_spec;
use marill_recipe::Recipe;
use marill_training::shape_of;

use crate::commands::export::write::numbers_of;

/// The program of a run with these transforms.
///
/// # Errors
/// What the recipe asks for and this version has not, or what does not fit the model.
pub fn program_of(
    recipe: &Recipe,
    config: &Architecture,
    transforms: &Transforms,
) -> anyhow::Result<ProgramSpec> {
    let mut spec = program_spec(config, transforms, numbers_of(recipe)?)?;
    if recipe.lora.is_none() {
        spec.private = PrivateForm::FullRank;
    }
    Ok(spec)
}

/// The program that a recipe leads to, as far as its cost depends on it: no data is read.
///
/// # Errors
/// As [`program_of`].
pub fn shape_of_recipe(recipe: &Recipe, config: &Architecture) -> anyhow::Result<ProgramSpec> {
    program_of(recipe, config, &shape_of(recipe, config)?)
}
