//! Tasks: versioned TOML files, embedded in the program.

mod checks;
mod file;
mod own;
mod shots;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use marill_recipe::{Dataset, Example, RecipeError, Rows, questions};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::EvalError;
pub use crate::task::checks::Checks;

/// How an answer is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One of a fixed set of labels; metrics `acc` (the likeliest, with its end) and `exact_match`
    /// (the greedy answer).
    Classify,
    /// Greedy text against a reference; metrics `bleu` and `chrf`.
    Generate,
    /// Likelihood of running text; metric `token_perplexity`.
    Perplexity,
    /// Likelihood of the right answers; metric `nats_per_token`.
    Likelihood,
    /// Python programs with tests: metrics `nats_per_token` of the right ones, `defines_function`
    /// and `pass@1` of the model's own.
    Code,
}

/// Rows that few-shot examples are taken from; never the scored ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shots {
    pub path: String,
    #[serde(default)]
    pub target_path: Option<String>,
}

/// One task. Its `[dataset]` is a recipe's: training and evaluation render rows by the same code.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub name: String,
    /// Changes whenever a prompt or the scoring does, so that old figures are not compared with new
    /// ones.
    pub version: u32,
    pub kind: Kind,
    /// Longest answer, in tokens.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// Tokens a window, the context allowing it; every window is scored on its own.
    #[serde(default = "window")]
    pub window: usize,
    pub dataset: Dataset,
    #[serde(default)]
    pub shots: Option<Shots>,
    /// Scores the last rows of the file only; few-shot examples, if from the same file, come from
    /// the rows before.
    #[serde(default)]
    held_out: Option<usize>,
    /// The file that it was read from, where it is not embedded: its paths may start beside it.
    #[serde(skip)]
    file: Option<PathBuf>,
}

fn max_new_tokens() -> usize {
    16
}

fn window() -> usize {
    512
}

const TASKS: [&str; 9] = [
    include_str!("../tasks/agnews.toml"),
    include_str!("../tasks/sst2.toml"),
    include_str!("../tasks/subj.toml"),
    include_str!("../tasks/mbpp.toml"),
    include_str!("../tasks/dolly.toml"),
    include_str!("../tasks/trec.toml"),
    include_str!("../tasks/multi30k-de-en.toml"),
    include_str!("../tasks/wikitext-2.toml"),
    include_str!("../tasks/dolly4.toml"),
];

/// Rows inside the program, by the path that a task gives: CC BY-SA 3.0, see `recipes/base/NOTICE`.
const ROWS: [(&str, &str); 2] = [
    (
        "recipes/demo/test.jsonl",
        include_str!("../../recipes/demo/test.jsonl"),
    ),
    (
        "recipes/demo/train.jsonl",
        include_str!("../../recipes/demo/train.jsonl"),
    ),
];

impl Task {
    /// All embedded tasks.
    ///
    /// # Errors
    /// [`EvalError::Task`] when an embedded file is wrong, which a test excludes.
    pub fn all() -> Result<Vec<Self>, EvalError> {
        TASKS.iter().map(|text| Self::parse(text)).collect()
    }

    /// The embedded task of this name.
    ///
    /// # Errors
    /// [`EvalError::UnknownTask`] with the names that exist.
    pub fn find(name: &str) -> Result<Self, EvalError> {
        let tasks = Self::all()?;
        let known = tasks
            .iter()
            .map(|task| format!("`{}`", task.name))
            .collect::<Vec<_>>()
            .join(", ");
        tasks
            .into_iter()
            .find(|task| task.name == name)
            .ok_or_else(|| EvalError::UnknownTask {
                name: name.into(),
                known,
            })
    }

    /// SHA-256, in hex, of the embedded file of this name: prompt, labels, version and rows.
    ///
    /// # Errors
    /// As [`Task::find`].
    pub fn digest_of(name: &str) -> Result<String, EvalError> {
        Self::find(name)?;
        let named = |text: &&&str| Self::parse(text).is_ok_and(|task| task.name == name);
        let text = TASKS.iter().find(named).copied().unwrap_or_default();
        Ok(marill_numeric::hex(&Sha256::digest(text)))
    }

    /// The files that the task's own rows and its few-shot examples come from.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let rows = [Some(&self.dataset.path), self.dataset.target_path.as_ref()];
        let shots = self.shots.iter();
        let shots = shots.flat_map(|shots| [Some(&shots.path), shots.target_path.as_ref()]);
        rows.into_iter().chain(shots).flatten().map(String::as_str)
    }

    fn parse(text: &str) -> Result<Self, EvalError> {
        let task: Self = toml::from_str(text).map_err(|e| EvalError::Task {
            task: "embedded".into(),
            reason: e.to_string(),
        })?;
        task.check()?;
        Ok(task)
    }

    /// Whether the first metric is better when it is higher.
    pub fn higher_is_better(&self) -> bool {
        matches!(self.kind, Kind::Classify | Kind::Generate)
    }

    /// The examples to score: the task's own, or those of `data` (with `reference` for aligned
    /// files).
    ///
    /// # Errors
    /// [`EvalError::Data`] naming file and row.
    pub fn examples(
        &self,
        data: Option<&Path>,
        reference: Option<&Path>,
    ) -> Result<Vec<Example>, EvalError> {
        Ok(self.rows(data, reference)?.examples)
    }

    /// The same with what was left out.
    ///
    /// # Errors
    /// As [`Task::examples`].
    pub fn rows(&self, data: Option<&Path>, reference: Option<&Path>) -> Result<Rows, EvalError> {
        let mut rows = self.all_rows(data, reference)?;
        if data.is_none() {
            rows.examples
                .drain(..self.first_held_out(rows.examples.len()));
        }
        Ok(rows)
    }

    /// Which of `examples` ask what a row of `file` asks too, whatever its answer there.
    ///
    /// # Errors
    /// [`EvalError::Exclude`] naming file and row, [`EvalError::Task`] for running text, which has
    /// no questions.
    pub fn formatted_as(&self, examples: &[Example], file: &Path) -> Result<Vec<bool>, EvalError> {
        if self.kind == Kind::Perplexity {
            let reason = "its rows are running text and have no question to leave out".into();
            return Err(EvalError::Task {
                task: self.name.clone(),
                reason,
            });
        }
        let asked = questions(&self.dataset, file).map_err(|source| EvalError::Exclude {
            task: self.name.clone(),
            source,
        })?;
        Ok(examples
            .iter()
            .map(|example| asked.contains(&example.prompt.question()))
            .collect())
    }

    fn first_held_out(&self, rows: usize) -> usize {
        self.held_out.map_or(0, |count| rows.saturating_sub(count))
    }

    fn all_rows(&self, data: Option<&Path>, reference: Option<&Path>) -> Result<Rows, EvalError> {
        let fail = |source| EvalError::Data {
            task: self.name.clone(),
            source,
        };
        let embedded = ROWS.iter().find(|(path, _)| *path == self.dataset.path);
        let embedded = embedded.filter(|_| self.file.is_none());
        let rows = match (data, embedded) {
            (Some(path), _) => Rows::read_files(&self.dataset, path, reference),
            (None, Some((path, rows))) => self.read_text(Path::new(path), rows),
            (None, None) => Rows::read(&self.dataset, self.beside()),
        };
        rows.map_err(fail)
    }

    /// Rows that are no file as they stand; `path` is named in errors, and its ending says what
    /// they are.
    fn read_text(&self, path: &Path, rows: &str) -> Result<Rows, RecipeError> {
        let io = |source| RecipeError::Io {
            path: path.into(),
            source,
        };
        // The rows go through the reader that training uses, and that one reads files.
        let ending = if path.extension().is_some_and(|ending| ending == "jsonl") {
            ".jsonl"
        } else {
            ".tsv"
        };
        let mut file = tempfile::Builder::new()
            .suffix(ending)
            .tempfile()
            .map_err(io)?;
        file.write_all(rows.as_bytes()).map_err(io)?;
        Rows::read_files(&self.dataset, file.path(), None).map_err(|error| match error {
            RecipeError::Row { row, reason, .. } => RecipeError::Row {
                path: path.into(),
                row,
                reason,
            },
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_task_parses_and_has_its_own_name() {
        let tasks = Task::all().unwrap();
        let names: std::collections::BTreeSet<_> = tasks.iter().map(|task| &task.name).collect();
        assert_eq!(names.len(), TASKS.len());
    }

    #[test]
    fn every_task_has_a_digest_of_its_own() {
        let digests: std::collections::BTreeSet<String> = Task::all()
            .unwrap()
            .iter()
            .map(|task| Task::digest_of(&task.name).unwrap())
            .collect();
        assert_eq!(digests.len(), TASKS.len());
        assert!(Task::digest_of("agnew").is_err());
        let mbpp = Task::find("mbpp").unwrap();
        let files: Vec<&str> = mbpp.files().collect();
        assert_eq!(
            files,
            ["data/mbpp/test.jsonl.gz", "data/mbpp/prompt.jsonl.gz"]
        );
    }

    #[test]
    fn an_unknown_task_is_answered_with_the_known_ones() {
        let error = Task::find("agnew").unwrap_err().to_string();
        assert!(error.contains("`agnews`"), "{error}");
    }

    #[test]
    fn the_demos_task_needs_no_file() {
        let task = Task::find("dolly4").unwrap();
        let rows = task.examples(None, None).unwrap();
        assert_eq!(rows.len(), 480);
        let shots = task.few_shot_examples(4, 0, &rows).unwrap();
        assert_ne!(
            shots,
            task.few_shot_examples(4, 1, &rows).unwrap(),
            "the seed draws"
        );
        assert_eq!(shots, task.few_shot_examples(4, 0, &rows).unwrap());
        let classes: std::collections::BTreeSet<_> = shots.iter().map(|s| s.label).collect();
        assert_eq!(classes.len(), 4);
        assert!(
            shots
                .iter()
                .all(|shot| rows.iter().all(|row| row.prompt != shot.prompt)),
            "train and test are disjoint"
        );
    }

    #[test]
    fn fine_labels_count_as_their_coarse_class() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trec.tsv");
        std::fs::write(&path, "How far is it ?\tNUM:dist\nWho was he ?\tHUM:desc\n").unwrap();
        let task = Task::find("trec").unwrap();
        let rows = task.examples(Some(&path), None).unwrap();
        assert_eq!(
            rows.iter().map(|r| r.completion.trim()).collect::<Vec<_>>(),
            ["number", "person"]
        );
        std::fs::write(&path, "How far is it ?\tNUM:dist\nWho was he ?\tXYZ:desc\n").unwrap();
        let error = task.examples(Some(&path), None).unwrap_err().to_string();
        assert!(error.contains("trec.tsv`, row 2: `XYZ:desc`"), "{error}");
    }

    #[test]
    fn questions_of_another_file_are_found_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("mine.tsv");
        let other = dir.path().join("other.tsv");
        std::fs::write(
            &mine,
            "How far is it ?\tNUM:dist\nWho was he ?\tHUM:desc\nWhy ?\tDESC:reason\n",
        )
        .unwrap();
        std::fs::write(&other, "who  was He ?\tno label at all\n").unwrap();
        let task = Task::find("trec").unwrap();
        let rows = task.examples(Some(&mine), None).unwrap();
        assert_eq!(
            task.formatted_as(&rows, &other).unwrap(),
            [false, true, false]
        );
        assert_eq!(task.formatted_as(&rows, &mine).unwrap(), [true; 3]);
        let error = task
            .formatted_as(&rows, &dir.path().join("none.tsv"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none.tsv"), "{error}");
        let error = Task::find("wikitext-2")
            .unwrap()
            .formatted_as(&rows, &mine)
            .unwrap_err()
            .to_string();
        assert!(error.contains("running text"), "{error}");
    }

    #[test]
    fn other_rows_may_stand_in_for_the_tasks_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.tsv");
        std::fs::write(&path, "fine film\t1\ndull\t0\n").unwrap();
        let rows = Task::find("sst2")
            .unwrap()
            .examples(Some(&path), None)
            .unwrap();
        assert_eq!(
            (rows.len(), rows[0].completion.as_str(), rows[1].label),
            (2, " positive", Some(0))
        );
        std::fs::write(&path, "fine film\t7\n").unwrap();
        let error = Task::find("sst2")
            .unwrap()
            .examples(Some(&path), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("row 1"), "{error}");
    }
}
