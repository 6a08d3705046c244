//! Checks a recipe against a table of its keys, so that every mistake is reported at once and with
//! its place.

pub mod about;
mod checker;
mod conditions;
mod foreign;
mod hints;
mod keys;
mod overrides;

use toml::Table;

use crate::{
    Dataset, Problem, Recipe, RecipeError, compat,
    schema::{
        checker::check,
        conditions::cross_check,
        overrides::{apply, edit},
    },
};

/// Conditions between the keys of one data set.
pub(crate) fn check_dataset(dataset: &Dataset) -> Result<(), RecipeError> {
    conditions::check_one(dataset)
}

pub(crate) fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Recipe, RecipeError> {
    let mut problems = check(text, name, false);
    let mut edits = Vec::new();
    for given in overrides {
        match edit(given) {
            Ok((path, document)) => {
                problems.extend(check(&document, &format!("--set {given}"), true));
                edits.push((path, document));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(RecipeError::Problems(problems));
    }
    let fail = |message: String| {
        RecipeError::Problems(vec![Problem {
            message,
            hint: None,
            place: None,
        }])
    };
    let mut table: Table = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
    compat::rename(&mut table);
    for (path, document) in edits {
        let value: Table = toml::from_str(&document).map_err(|e| fail(e.to_string()))?;
        apply(&mut table, &path, value).map_err(fail)?;
    }
    let recipe: Recipe = table
        .try_into()
        .map_err(|e: toml::de::Error| fail(format!("{name}: {}", e.message())))?;
    cross_check(&recipe, name)?;
    Ok(recipe)
}
