//! Tasks of one's own: a TOML file with the keys of the embedded ones.

use std::path::Path;

use marill_recipe::{Format, Recipe};

use crate::{
    EvalError,
    task::{Kind, Task},
};

/// Longest task file: a page of text.
const MAX_BYTES: u64 = 1 << 20;
/// Longest answer that a task may ask for, and longest window, in tokens.
const MAX_TOKENS: usize = 1 << 20;

impl Task {
    /// Whether a name of `--tasks` is a file's and not an embedded task's.
    pub fn is_file_name(name: &str) -> bool {
        name.ends_with(".toml") || name.contains(['/', '\\'])
    }

    /// Reads a task file. Its paths are searched as a recipe's are, beside the file too; a model is
    /// asked as the file says, whatever recipe lies beside the model.
    ///
    /// # Errors
    /// [`EvalError::Task`] naming the file, and for unknown keys and wrong values the line.
    pub fn from_file(path: &Path) -> Result<Self, EvalError> {
        let shown = path.display().to_string();
        let fail = |reason: String| EvalError::Task {
            task: shown.clone(),
            reason,
        };
        let bytes = std::fs::metadata(path)
            .map_err(|e| fail(format!("cannot be read: {e}")))?
            .len();
        if bytes > MAX_BYTES {
            return Err(fail(format!("is longer than {MAX_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| fail(format!("cannot be read: {e}")))?;
        let text = text.trim_start_matches('\u{feff}');
        let mut task: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        task.file = Some(path.into());
        let named = |error: EvalError| match error {
            EvalError::Task { task, reason } => fail(format!("task `{task}`: {reason}")),
            other => other,
        };
        task.check().map_err(named)?;
        task.check_own().map_err(fail)?;
        Ok(task)
    }

    /// The file that it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Where its paths may start besides the usual places.
    pub(super) fn beside(&self) -> &Path {
        let folder = self.file.as_deref().and_then(Path::parent);
        folder.unwrap_or(Path::new("."))
    }

    /// What every task must keep, embedded or not.
    ///
    /// # Errors
    /// [`EvalError::Task`] with the key.
    pub(super) fn check(&self) -> Result<(), EvalError> {
        let fail = |reason: String| {
            Err(EvalError::Task {
                task: self.name.clone(),
                reason,
            })
        };
        if self.kind == Kind::Classify && self.dataset.labels.len() < 2 {
            return fail("a classification needs at least two labels".into());
        }
        if self.name.trim().is_empty() || self.name.contains(['/', '\\', ',', '\n']) {
            return fail("`name` is one word or a few, without `/` and commas".into());
        }
        if self.version == 0 {
            return fail("`version` counts from 1".into());
        }
        for (key, value, least) in [
            ("max_new_tokens", self.max_new_tokens, 1),
            ("window", self.window, 2),
            ("held_out", self.held_out.unwrap_or(1), 1),
        ] {
            if !(least..=MAX_TOKENS).contains(&value) {
                return fail(format!(
                    "`{key}` is from {least} to {MAX_TOKENS}, not {value}"
                ));
            }
        }
        let fits = match self.kind {
            Kind::Classify => &[Format::Classify][..],
            Kind::Perplexity => &[Format::Text],
            Kind::Generate | Kind::Likelihood => {
                &[Format::Instruct, Format::Chat, Format::Translate]
            }
            Kind::Code => &[Format::Instruct, Format::Chat],
        };
        if !fits.contains(&self.dataset.format) {
            let format = |format: &Format| format!("`{}`", format!("{format:?}").to_lowercase());
            let fits: Vec<String> = fits.iter().map(format).collect();
            return fail(format!(
                "`kind` = `{}` takes rows of `dataset.format` {}, not {}",
                format!("{:?}", self.kind).to_lowercase(),
                fits.join(" or "),
                format(&self.dataset.format)
            ));
        }
        if self.kind == Kind::Perplexity && self.shots.is_some() {
            return fail("`shots` does nothing for running text".into());
        }
        Ok(())
    }

    /// What a file of one's own must keep besides.
    fn check_own(&self) -> Result<(), String> {
        let embedded = Self::all().map_err(|e| e.to_string())?;
        if embedded.iter().any(|task| task.name == self.name) || self.is_of_recipe() {
            return Err(format!(
                "`name` = `{}` is a task of the program, and results of both would stand under \
                 one name",
                self.name
            ));
        }
        let dataset = &self.dataset;
        let training = [
            ("exclude", !dataset.exclude.is_empty()),
            ("limit", dataset.limit.is_some()),
            ("weight", dataset.weight != 1.0),
            ("val_path", dataset.val_path.is_some()),
            ("val_target_path", dataset.val_target_path.is_some()),
        ];
        if let Some((key, _)) = training.iter().find(|(_, written)| *written) {
            return Err(format!(
                "`dataset.{key}` is for training and does nothing in a task"
            ));
        }
        Recipe::check_dataset(dataset).map_err(|error| error.to_string())
    }
}
