//! Where the files that a recipe names are looked for.

use std::path::{Path, PathBuf};

use crate::RecipeError;

/// Finds a file or folder that a recipe names: as it stands, beside the recipe, under
/// `$MARILL_SHARED`, and under `../shared` next to the working directory.
///
/// # Errors
/// [`RecipeError::NotFound`] with every place that was tried.
pub fn locate(path: &str, recipe_dir: &Path) -> Result<PathBuf, RecipeError> {
    let candidates = candidates(path, recipe_dir);
    match candidates.iter().find(|p| p.exists()) {
        Some(found) => Ok(found.clone()),
        None => Err(RecipeError::NotFound {
            path: path.into(),
            looked_in: candidates,
        }),
    }
}

/// Every place where [`locate()`] looks, in order.
pub(crate) fn candidates(path: &str, recipe_dir: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from(path), recipe_dir.join(path)];
    candidates.extend(std::env::var_os("MARILL_SHARED").map(|root| Path::new(&root).join(path)));
    candidates.push(Path::new("../shared").join(path));
    candidates.dedup();
    candidates
}
