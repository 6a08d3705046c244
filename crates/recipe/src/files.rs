//! The files that one `path` of a data set means: a file, every data file of a folder, or all that
//! a pattern with `*`, `?` or `[...]` matches, in order of their names.

use std::path::{Path, PathBuf};

use crate::{RecipeError, layout::Layout, locate, locate::candidates};

/// Most files of one data set.
const MOST_FILES: usize = 10_000;
/// What a folder may hold beside its data: descriptions for people.
const DESCRIPTIONS: [&str; 3] = ["readme", "license", "notice"];

/// Whether a path is a pattern for names of files.
fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Finds what a `path` of a data set names, as [`locate()`] does; a pattern is found where it
/// matches something.
///
/// # Errors
/// [`RecipeError::NotFound`] with every place that was tried.
pub fn locate_data(path: &str, recipe_dir: &Path) -> Result<PathBuf, RecipeError> {
    let error = match locate(path, recipe_dir) {
        Err(error) if is_pattern(path) => error,
        found => return found,
    };
    for candidate in candidates(path, recipe_dir) {
        if !matching(path, &candidate)?.is_empty() {
            return Ok(candidate);
        }
    }
    Err(error)
}

/// The files of a `path`, searched as [`locate_data`] does, sorted; all of one kind.
///
/// # Errors
/// [`RecipeError::NotFound`] where nothing matches, [`RecipeError::Data`] for a folder that holds
/// something else too, or files of more than one kind.
pub(crate) fn data_files(path: &str, recipe_dir: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    meant_by(&locate_data(path, recipe_dir)?)
}

/// The files that a path on this machine means, as for [`data_files`]. One that is not there stays
/// as it is, for whoever opens it.
pub(crate) fn meant_by(path: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    if path.is_dir() {
        return in_folder(path);
    }
    let told = path.to_string_lossy();
    if !path.exists() && is_pattern(&told) {
        let files = matching(&told, path)?;
        if files.is_empty() {
            return Err(RecipeError::NotFound {
                path: told.into_owned(),
                looked_in: vec![path.into()],
            });
        }
        return one_kind(&told, files);
    }
    Ok(vec![path.into()])
}

/// The one file of a `path`.
///
/// # Errors
/// As [`data_files`], and for more than one file.
pub(crate) fn single_file(path: &str, recipe_dir: &Path) -> Result<PathBuf, RecipeError> {
    let mut files = data_files(path, recipe_dir)?;
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(RecipeError::Data {
            path: path.into(),
            reason: "means several files, and here one is needed".into(),
        }),
    }
}

/// Files that a pattern matches.
fn matching(told: &str, pattern: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    let fail = |reason: String| RecipeError::Data {
        path: told.into(),
        reason,
    };
    let Some(text) = pattern.to_str() else {
        return Ok(Vec::new());
    };
    let how = glob::MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..Default::default()
    };
    let found = glob::glob_with(text, how)
        .map_err(|error| fail(format!("is no pattern for names: {}", error.msg)))?;
    let mut files = Vec::new();
    for entry in found {
        let entry = entry.map_err(|error| fail(error.to_string()))?;
        if entry.is_file() {
            files.push(entry);
        }
        if files.len() > MOST_FILES {
            return Err(fail(format!("matches more than {MOST_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// Every data file of a folder, which holds nothing else but hidden files and descriptions.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    let fail = |reason: String| RecipeError::Data {
        path: folder.into(),
        reason,
    };
    let io = |source| RecipeError::Io {
        path: folder.into(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let lower = name.to_lowercase();
        let describes = DESCRIPTIONS.iter().any(|begin| lower.starts_with(begin));
        if name.starts_with('.') || describes {
            continue;
        }
        if path.is_dir() || !Layout::is_named_by(&path) {
            return Err(fail(format!(
                "holds `{name}`, which is no data file\n\n\
                 hint: name the files with a pattern, `{}/*.jsonl` or `{0}/**/*.jsonl`",
                folder.display()
            )));
        }
        files.push(path);
        if files.len() > MOST_FILES {
            return Err(fail(format!("holds more than {MOST_FILES} files")));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(fail("holds no data file".into()));
    }
    one_kind(&folder.display().to_string(), files)
}

/// Rows of different kinds of files have different columns, and the same rows may lie there twice.
fn one_kind(told: &str, files: Vec<PathBuf>) -> Result<Vec<PathBuf>, RecipeError> {
    let first = Layout::of(&files[0]);
    match files.iter().find(|file| Layout::of(file) != first) {
        None => Ok(files),
        Some(other) => Err(RecipeError::Data {
            path: told.into(),
            reason: format!(
                "means files of several kinds, such as `{}` and `{}`\n\n\
                 hint: name those of one kind with a pattern, or give each a `[[dataset]]`",
                files[0].display(),
                other.display()
            ),
        }),
    }
}
