//! Tasks: versioned TOML files, embedded in the program.

use std::{io::Write, path::Path};

use marill_recipe::{
    Dataset, Example, Format, Numbered, Recipe, RecipeError, Record, Rows, locate, questions,
    read_records,
};
use serde::Deserialize;

use crate::{EvalError, metrics::split_mix};

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
}

/// What a program of the model's own must get through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    setup: String,
    tests: Vec<String>,
}

impl Checks {
    /// A program with its tests behind it.
    pub fn behind(&self, program: &str) -> String {
        format!("{program}\n\n{}\n{}\n", self.setup, self.tests.join("\n"))
    }
}

fn max_new_tokens() -> usize {
    16
}

fn window() -> usize {
    512
}

/// How a recipe's own test rows are called.
const OWN_NAME: &str = "recipe";
/// Longest answer to one of them, in tokens.
const OWN_NEW_TOKENS: usize = 64;

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

    fn parse(text: &str) -> Result<Self, EvalError> {
        let task: Self = toml::from_str(text).map_err(|e| EvalError::Task {
            task: "embedded".into(),
            reason: e.to_string(),
        })?;
        if task.kind == Kind::Classify && task.dataset.labels.len() < 2 {
            let reason = "a classification needs at least two labels".into();
            return Err(EvalError::Task {
                task: task.name,
                reason,
            });
        }
        Ok(task)
    }

    /// The test rows that a recipe's `[eval] path` names, in the format of its first data set,
    /// where it names some.
    pub fn of_recipe(recipe: &Recipe) -> Option<Self> {
        let (eval, trained) = (recipe.eval.as_ref()?, recipe.dataset.first()?);
        let dataset = Dataset {
            path: eval.path.clone()?,
            target_path: eval.target_path.clone(),
            ..trained.clone()
        };
        let kind = match dataset.format {
            Format::Classify => Kind::Classify,
            Format::Translate => Kind::Generate,
            Format::Instruct | Format::Chat => Kind::Likelihood,
            Format::Text => Kind::Perplexity,
        };
        let shots = Some(Shots {
            path: trained.path.clone(),
            target_path: trained.target_path.clone(),
        });
        let (max_new_tokens, window) = (OWN_NEW_TOKENS, window());
        Some(Self {
            name: OWN_NAME.into(),
            version: 1,
            kind,
            max_new_tokens,
            window,
            dataset,
            shots,
            held_out: None,
        })
    }

    /// Whether it is [`Task::of_recipe`].
    pub fn is_of_recipe(&self) -> bool {
        self.name == OWN_NAME
    }

    /// Whether the first metric is better when it is higher.
    pub fn higher_is_better(&self) -> bool {
        matches!(self.kind, Kind::Classify | Kind::Generate)
    }

    /// Renders rows as `recipe` does, when it has a data set of this task's format: a model is
    /// asked in the format that it was trained on. The task keeps its own rows; what is written in
    /// them as a label means what the recipe says.
    pub fn format_as(&mut self, recipe: &[Dataset]) -> bool {
        let fits = |dataset: &&Dataset| {
            let (ours, theirs) = (self.dataset.labels.len(), dataset.labels.len());
            dataset.format == self.dataset.format && (self.kind != Kind::Classify || ours == theirs)
        };
        let Some(trained) = recipe.iter().find(fits) else {
            return false;
        };
        self.dataset.style = trained.style;
        self.dataset.system.clone_from(&trained.system);
        self.dataset.template.clone_from(&trained.template);
        self.dataset.completion.clone_from(&trained.completion);
        if !trained.labels.is_empty() {
            self.dataset.label_codes = self.codes_for(trained);
            self.dataset.labels.clone_from(&trained.labels);
        }
        true
    }

    /// How rows write the labels of `trained`, in their order: its own codes, or else the task's by
    /// the labels' names.
    fn codes_for(&self, trained: &Dataset) -> Vec<String> {
        if !trained.label_codes.is_empty() || self.dataset.label_codes.is_empty() {
            return trained.label_codes.clone();
        }
        let name = |label: &String| label.trim().to_lowercase();
        let place = |label: &String| {
            self.dataset
                .labels
                .iter()
                .position(|ours| name(ours) == name(label))
        };
        let by_name: Option<Vec<String>> = trained
            .labels
            .iter()
            .map(|label| self.dataset.label_codes.get(place(label)?).cloned())
            .collect();
        // Labels of other names stand for the task's in its own order.
        by_name.unwrap_or_else(|| self.dataset.label_codes.clone())
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

    /// The tests of the same examples, for a task of programs: `test_list` and `test_setup_code` of
    /// each row.
    ///
    /// # Errors
    /// [`EvalError::Data`] naming file and row.
    pub fn checks(&self, data: Option<&Path>) -> Result<Vec<Checks>, EvalError> {
        if self.kind != Kind::Code {
            return Ok(Vec::new());
        }
        let fail = |source| EvalError::Data {
            task: self.name.clone(),
            source,
        };
        let path = data
            .map_or_else(
                || locate(&self.dataset.path, Path::new(".")),
                |path| Ok(path.into()),
            )
            .map_err(fail)?;
        let row = |Numbered { line, record }: &Numbered| {
            checks_of(record).ok_or_else(|| {
                let reason = "a program needs `test_list`, an array of Python statements".into();
                fail(RecipeError::Row {
                    path: path.clone(),
                    row: *line,
                    reason,
                })
            })
        };
        let records = read_records(&path).map_err(fail)?;
        let mut checks = records.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        if data.is_none() {
            checks.drain(..self.first_held_out(checks.len()));
        }
        Ok(checks)
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
        let rows = match (data, embedded) {
            (Some(path), _) => Rows::read_files(&self.dataset, path, reference),
            (None, Some((path, rows))) => self.read_text(Path::new(path), rows),
            (None, None) => locate(&self.dataset.path, Path::new(".")).and_then(|path| {
                let target = self.dataset.target_path.as_ref();
                let target = target
                    .map(|target| locate(target, Path::new(".")))
                    .transpose()?;
                Rows::read_files(&self.dataset, &path, target.as_deref())
            }),
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

    /// `count` few-shot examples, drawn with `seed`; of a classification the classes take turns.
    /// None of them asks what one of `scored` asks: the files of some tasks overlap.
    ///
    /// # Errors
    /// [`EvalError::Task`] when the task has none or fewer, [`EvalError::Data`] naming the file.
    pub fn few_shot_examples(
        &self,
        count: usize,
        seed: u64,
        scored: &[Example],
    ) -> Result<Vec<Example>, EvalError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let Some(shots) = &self.shots else {
            return Err(EvalError::Task {
                task: self.name.clone(),
                reason: "it has no few-shot examples".into(),
            });
        };
        let own = shots.path == self.dataset.path;
        let dataset = Dataset {
            path: shots.path.clone(),
            target_path: shots.target_path.clone(),
            ..self.dataset.clone()
        };
        let mut examples = Self {
            dataset,
            ..self.clone()
        }
        .all_rows(None, None)?
        .examples;
        if own {
            examples.truncate(self.first_held_out(examples.len()));
        }
        let asked: std::collections::BTreeSet<String> =
            scored.iter().map(|row| row.prompt.question()).collect();
        shuffle(&mut examples, seed);
        examples.retain(|example| !asked.contains(&example.prompt.question()));
        if count > examples.len() {
            let reason = format!(
                "`--shots` {count} are more than its {} few-shot examples",
                examples.len()
            );
            return Err(EvalError::Task {
                task: self.name.clone(),
                reason,
            });
        }
        Ok(take_turns(
            examples,
            self.dataset.labels.len().max(1),
            count,
        ))
    }
}

/// Fisher and Yates.
fn shuffle(examples: &mut [Example], seed: u64) {
    let mut state = seed;
    for last in (1..examples.len()).rev() {
        examples.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
    }
}

fn checks_of(record: &Record) -> Option<Checks> {
    let texts = record
        .get("test_list")?
        .as_array()?
        .iter()
        .map(|test| test.as_str().map(unix_lines));
    let setup = record
        .get("test_setup_code")
        .and_then(|setup| setup.as_str())
        .map(unix_lines);
    Some(Checks {
        setup: setup.unwrap_or_default(),
        tests: texts.collect::<Option<_>>()?,
    })
}

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// The first examples, one class after the other.
fn take_turns(examples: Vec<Example>, classes: usize, count: usize) -> Vec<Example> {
    let mut by_class: Vec<_> = (0..classes)
        .map(|_| std::collections::VecDeque::new())
        .collect();
    for example in examples {
        by_class[example.label.unwrap_or(0)].push_back(example);
    }
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count && by_class.iter().any(|class| !class.is_empty()) {
        for class in &mut by_class {
            if taken.len() < count {
                taken.extend(class.pop_front());
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use marill_recipe::Prompt;

    use super::*;

    #[test]
    fn every_embedded_task_parses_and_has_its_own_name() {
        let tasks = Task::all().unwrap();
        let names: std::collections::BTreeSet<_> = tasks.iter().map(|task| &task.name).collect();
        assert_eq!(names.len(), TASKS.len());
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
    fn few_shot_examples_take_turns_between_the_classes() {
        let example = |n: usize, label| Example {
            prompt: Prompt::Plain(n.to_string()),
            completion: String::new(),
            label: Some(label),
        };
        let rows = vec![
            example(0, 0),
            example(1, 0),
            example(2, 0),
            example(3, 1),
            example(4, 2),
        ];
        let taken = take_turns(rows, 3, 4);
        let order: Vec<_> = taken.iter().map(|e| e.prompt.clone()).collect();
        assert_eq!(order, ["0", "3", "4", "1"].map(|n| Prompt::Plain(n.into())));
    }

    #[test]
    fn held_out_rows_are_scored_the_others_are_few_shot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row =
            |n| format!("{{\"instruction\": \"{n}\", \"input\": \"\", \"output\": \"o{n}\"}}\n");
        std::fs::write(&path, (0..10).map(row).collect::<String>()).unwrap();
        let mut task = Task::find("dolly").unwrap();
        task.held_out = Some(3);
        task.dataset.path = path.display().to_string();
        task.shots = Some(Shots {
            path: task.dataset.path.clone(),
            target_path: None,
        });
        let answers = |rows: &[Example]| {
            rows.iter()
                .map(|e| e.completion.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            answers(&task.examples(None, None).unwrap()),
            ["o7", "o8", "o9"]
        );
        let shots = answers(&task.few_shot_examples(7, 3, &[]).unwrap());
        assert_eq!(shots.len(), 7);
        assert!(
            !shots
                .iter()
                .any(|shot| ["o7", "o8", "o9"].contains(&shot.as_str()))
        );
        // A question that is scored is no few-shot example, wherever it stands.
        let first = &task.all_rows(None, None).unwrap().examples[..2];
        let shots = answers(&task.few_shot_examples(5, 3, first).unwrap());
        let error = task.few_shot_examples(6, 3, first).unwrap_err().to_string();
        assert!(
            error.contains("`--shots` 6 are more than its 5 few-shot examples"),
            "{error}"
        );
        assert!(
            task.few_shot_examples(usize::MAX, 3, first)
                .unwrap_err()
                .to_string()
                .contains("`--shots`")
        );
        assert!(
            shots.len() == 5 && !shots.contains(&"o0".into()) && !shots.contains(&"o1".into()),
            "{shots:?}"
        );
        assert_eq!(
            task.examples(Some(&path), None).unwrap().len(),
            10,
            "other data is scored whole"
        );
    }

    #[test]
    fn programs_come_with_their_tests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row = concat!(
            r#"{"text": "Add.", "code": "def add(a, b):\r\n  return a + b", "#,
            r#""test_setup_code": "import os", "#,
            r#""test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}"#
        );
        std::fs::write(&path, row).unwrap();
        let task = Task::find("mbpp").unwrap();
        let example = &task.examples(Some(&path), None).unwrap()[0];
        assert_eq!(example.completion, "def add(a, b):\n  return a + b");
        let Prompt::Chat(turns) = &example.prompt else {
            panic!()
        };
        assert!(
            turns[0]
                .content
                .ends_with("assert add(1, 2) == 3\nassert add(0, 0) == 0"),
            "{turns:?}"
        );
        let checks = task.checks(Some(&path)).unwrap();
        let whole = checks[0].behind("def add(a, b): return a + b");
        assert!(whole.starts_with("def add"), "{whole}");
        assert!(
            whole.contains("import os\nassert add(1, 2) == 3\nassert add(0, 0) == 0"),
            "{whole}"
        );
        std::fs::write(
            &path,
            "{\"text\": \"Add.\", \"code\": \"x\", \"test_list\": 3}",
        )
        .unwrap();
        assert!(
            task.checks(Some(&path))
                .unwrap_err()
                .to_string()
                .contains("row 1")
        );
    }

    #[test]
    fn questions_of_another_file_are_found_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (dir.path().join("mine.tsv"), dir.path().join("other.tsv"));
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

    const TRAINED: &str = r#"
        [model]
        base_model = "base"
        [[dataset]]
        path = "rows.tsv"
        format = "classify"
        label = "1"
        template = "Kind of: {0}"
        labels = ["a", "b", "c"]
        [[dataset]]
        path = "rows.tsv"
        format = "classify"
        label = "1"
        template = "Kind of: {0}"
        labels = ["positive", "negative"]
        label_codes = ["1", "0"]
        [eval]
        path = "test.tsv"
        min = 0.9
        [output]
        dir = "out"
    "#;

    #[test]
    fn the_recipes_codes_say_which_label_is_which() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.tsv");
        std::fs::write(&path, "fine film\t1\ndull\t0\n").unwrap();
        let trained = |change: &dyn Fn(String) -> String| {
            let recipe = Recipe::parse(&change(TRAINED.into()), "r.toml", &[]).unwrap();
            let mut task = Task::find("sst2").unwrap();
            assert!(task.format_as(&recipe.dataset));
            let rows = task.examples(Some(&path), None).unwrap();
            rows.iter()
                .map(|row| (row.completion.clone(), row.label))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, label| (name.to_owned(), Some(label));
        assert_eq!(
            trained(&|text| text),
            [row("positive", 0), row("negative", 1)]
        );
        let other = |text: String| text.replace("[\"1\", \"0\"]", "[\"0\", \"1\"]");
        assert_eq!(trained(&other), [row("negative", 1), row("positive", 0)]);
        // Without codes a number is the place in the recipe's own list, as in training.
        let none = |text: String| text.replace("label_codes", "#");
        assert_eq!(trained(&none), [row("negative", 1), row("positive", 0)]);
    }

    #[test]
    fn the_tasks_codes_follow_the_names_of_the_recipes_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trec.tsv");
        std::fs::write(&path, "How far is it ?\tNUM:dist\nWho was he ?\tHUM:desc\n").unwrap();
        for labels in [
            "[\"number\", \"place\", \"person\", \"description\", \"thing\", \"abbreviation\"]",
            "[\" Abbreviation\", \" thing\", \" description\", \" person\", \" place\", \" \
             number\"]",
        ] {
            let text = TRAINED
                .replace("[\"a\", \"b\", \"c\"]", labels)
                .replace("min", "#");
            let mut task = Task::find("trec").unwrap();
            assert!(task.format_as(&Recipe::parse(&text, "r.toml", &[]).unwrap().dataset));
            let rows = task.examples(Some(&path), None).unwrap();
            let said: Vec<_> = rows.iter().map(|row| row.completion.trim()).collect();
            assert_eq!(said, ["number", "person"], "{labels}");
        }
    }

    #[test]
    fn a_recipes_test_rows_are_a_task_of_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.tsv");
        std::fs::write(&path, "x\tb\n\ny\tc\n").unwrap();
        let text = TRAINED.replace("\"test.tsv\"", &format!("{:?}", path.display().to_string()));
        let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
        let task = Task::of_recipe(&recipe).unwrap();
        assert_eq!(
            (task.kind, task.name.as_str(), task.higher_is_better()),
            (Kind::Classify, "recipe", true)
        );
        let rows = task.examples(None, None).unwrap();
        assert_eq!(
            rows.iter().map(|row| row.label).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
        assert!(
            Task::of_recipe(
                &Recipe::parse(&text.replace("path = \"/", "#\"/"), "r.toml", &[]).unwrap()
            )
            .is_none()
        );
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
