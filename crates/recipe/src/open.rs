//! Reading a recipe file, with overrides.

use std::path::Path;

use crate::{Dataset, Recipe, RecipeError, read::read_bounded, schema};

/// Longest recipe.
const MAX_RECIPE_BYTES: u64 = 64 << 20;

impl Recipe {
    /// Reads a recipe file with `key=value` overrides (`train.max_steps=40`,
    /// `dataset.0.limit=100`).
    ///
    /// # Errors
    /// [`RecipeError::Problems`] with every mistake of the file and of the overrides, or
    /// [`RecipeError::Io`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let io = |source| RecipeError::Io {
            path: path.into(),
            source,
        };
        let bytes = read_bounded(
            path,
            std::fs::File::open(path).map_err(io)?,
            MAX_RECIPE_BYTES,
        )?;
        let text = String::from_utf8(bytes)
            .map_err(|error| io(std::io::Error::other(error.utf8_error())))?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// What a `[dataset]` outside a recipe must keep, too.
    ///
    /// # Errors
    /// [`RecipeError::Problems`].
    pub fn check_dataset(dataset: &Dataset) -> Result<(), RecipeError> {
        schema::check_dataset(dataset)
    }

    /// The same for a text; `name` is how messages call it.
    ///
    /// # Errors
    /// [`RecipeError::Problems`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        schema::parse(text, name, overrides)
    }
}
