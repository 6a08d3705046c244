//! From rows of a data set to prompts and answers, the same for training and evaluation.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    Dataset, Format, Numbered, RecipeError, Record, Style, Turn, chat,
    files::{data_files, meant_by, single_file},
    layout::Layout,
    read::{one, read_lines, records_of},
    read_text,
};

/// What stands before the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// As it stands.
    Plain(String),
    /// For the checkpoint's chat template.
    Chat(Vec<Turn>),
}

/// One row, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub prompt: Prompt,
    /// The right answer, without any end mark. All of the text for [`Format::Text`].
    pub completion: String,
    /// The number of the label (`classify`).
    pub label: Option<usize>,
}

/// The examples of a data set.
#[derive(Debug, Clone)]
pub struct Rows {
    pub examples: Vec<Example>,
    pub format: Format,
    pub labels: Vec<String>,
    /// Rows that `dataset.exclude` left out.
    pub excluded: usize,
    /// Pairs of lines of which just one side is empty, left out.
    pub unpaired: usize,
}

impl Rows {
    /// Reads the files of a `[[dataset]]`, without the rows that it excludes; paths are searched as
    /// [`crate::locate()`] does.
    ///
    /// # Errors
    /// [`RecipeError`] naming the file and row; an empty data set is an error.
    pub fn read(dataset: &Dataset, recipe_dir: &Path) -> Result<Self, RecipeError> {
        let files = data_files(&dataset.path, recipe_dir)?;
        let target = dataset.target_path.as_ref();
        let target = target.map(|p| single_file(p, recipe_dir)).transpose()?;
        let mut rows = Self::read_each(dataset, &files, target.as_deref())?;
        let mut asked = BTreeSet::new();
        for path in &dataset.exclude {
            for file in data_files(path, recipe_dir)? {
                asked.extend(questions(dataset, &file)?);
            }
        }
        let all = rows.examples.len();
        rows.examples
            .retain(|example| !asked.contains(&example.prompt.question()));
        rows.excluded = all - rows.examples.len();
        if rows.examples.is_empty() {
            return Err(RecipeError::Data {
                path: dataset.path.clone().into(),
                reason: "every row is also in a file of `dataset.exclude`".into(),
            });
        }
        Ok(rows)
    }

    /// The rows of `dataset.val_path`, which measure the loss; `None` where there is none.
    ///
    /// # Errors
    /// As [`Rows::read`].
    pub fn read_validation(
        dataset: &Dataset,
        recipe_dir: &Path,
    ) -> Result<Option<Self>, RecipeError> {
        let Some(path) = &dataset.val_path else {
            return Ok(None);
        };
        let files = data_files(path, recipe_dir)?;
        let target = dataset.val_target_path.as_ref();
        let target = target.map(|p| single_file(p, recipe_dir)).transpose()?;
        Self::read_each(dataset, &files, target.as_deref()).map(Some)
    }

    /// The same with other files of the same format in place of the data set's own: a file, a
    /// folder of them, or a pattern.
    ///
    /// # Errors
    /// As [`Rows::read`].
    pub fn read_files(
        dataset: &Dataset,
        path: &Path,
        target: Option<&Path>,
    ) -> Result<Self, RecipeError> {
        Self::read_each(dataset, &meant_by(path)?, target)
    }

    /// The rows of some files, one behind another.
    fn read_each(
        dataset: &Dataset,
        files: &[PathBuf],
        target: Option<&Path>,
    ) -> Result<Self, RecipeError> {
        let (first, others) = files.split_first().expect("a path means at least one file");
        if let (Some(other), Some(target)) = (others.first(), target) {
            let reason = format!(
                "is one of several files, and the lines of `{}` belong to one",
                target.display()
            );
            return Err(RecipeError::Data {
                path: other.clone(),
                reason,
            });
        }
        let mut rows = Self::read_file(dataset, first, target)?;
        for file in others {
            let more = Self::read_file(dataset, file, None)?;
            rows.examples.extend(more.examples);
            rows.unpaired += more.unpaired;
        }
        Ok(rows)
    }

    fn read_file(
        dataset: &Dataset,
        path: &Path,
        target: Option<&Path>,
    ) -> Result<Self, RecipeError> {
        let mut unpaired = 0;
        let records = match target {
            None if is_running_text(dataset, path) => {
                let completion = read_text(path)?;
                let whole = Example {
                    prompt: Prompt::Plain(String::new()),
                    completion,
                    label: None,
                };
                return Self::new(dataset, path, vec![whole], 0);
            }
            None => records_of(path)?,
            Some(target) => {
                let (pairs, left_out) = aligned(path, target)?;
                unpaired = left_out;
                pairs
            }
        };
        let render = |Numbered { line, record }: &Numbered| {
            render(dataset, record).map_err(|reason| RecipeError::Row {
                path: path.into(),
                row: *line,
                reason,
            })
        };
        let examples = records.iter().map(render).collect::<Result<Vec<_>, _>>()?;
        Self::new(dataset, path, examples, unpaired)
    }

    fn new(
        dataset: &Dataset,
        path: &Path,
        examples: Vec<Example>,
        unpaired: usize,
    ) -> Result<Self, RecipeError> {
        if examples.iter().all(|e| e.completion.trim().is_empty()) {
            let reason = if examples.is_empty() {
                "the data set is empty"
            } else {
                "every answer is empty"
            };
            return Err(RecipeError::Data {
                path: path.into(),
                reason: reason.into(),
            });
        }
        Ok(Self {
            examples,
            format: dataset.format,
            labels: dataset.labels.clone(),
            excluded: 0,
            unpaired,
        })
    }
}

impl Prompt {
    /// What makes two prompts the same question: all of the text, whatever its capitals and white
    /// space.
    pub fn question(&self) -> String {
        let words = |text: &str| {
            text.to_lowercase()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        match self {
            Self::Plain(text) => words(text),
            Self::Chat(turns) => {
                let turns = turns
                    .iter()
                    .map(|turn| format!("{}: {}", turn.role, words(&turn.content)));
                turns.collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// The questions ([`Prompt::question`]) of a file, put as `dataset` puts its own; answers are not
/// needed.
///
/// # Errors
/// [`RecipeError`] naming the file and row; running text has no questions.
pub fn questions(dataset: &Dataset, path: &Path) -> Result<BTreeSet<String>, RecipeError> {
    if dataset.format == Format::Text {
        let reason =
            "rows of running text have no prompt by which they could be found again".into();
        return Err(RecipeError::Data {
            path: path.into(),
            reason,
        });
    }
    let mut asked = BTreeSet::new();
    for file in meant_by(path)? {
        asked.extend(questions_of(dataset, &file)?);
    }
    Ok(asked)
}

fn questions_of(dataset: &Dataset, path: &Path) -> Result<Vec<String>, RecipeError> {
    let mut records = records_of(path)?;
    if dataset.format == Format::Translate {
        records
            .iter_mut()
            .for_each(|row| name_source(&mut row.record));
    }
    let question = |Numbered { line, record }: &Numbered| {
        let prompt = prompt_of(dataset, record);
        let prompt = prompt.map_err(|reason| RecipeError::Row {
            path: path.into(),
            row: *line,
            reason,
        })?;
        Ok(prompt.question())
    };
    records.iter().map(question).collect()
}

/// A file that is one text, blank lines and all.
fn is_running_text(dataset: &Dataset, path: &Path) -> bool {
    dataset.format == Format::Text
        && dataset.template.is_none()
        && Layout::of(path) == Layout::Lines
}

/// Line n of both files as rows with `source` and `target`, and the number of pairs that lack a
/// side.
fn aligned(path: &Path, target: &Path) -> Result<(Vec<Numbered>, usize), RecipeError> {
    for file in [path, target] {
        if Layout::of(file) != Layout::Lines {
            let reason = "is no text file, and two files are read line by line\n\n\
                hint: without `target_path` (`--reference`) the columns of one file are source and \
                target"
                .into();
            return Err(RecipeError::Data {
                path: file.into(),
                reason,
            });
        }
    }
    let mut ours = read_lines(path)?;
    let mut theirs = read_lines(target)?;
    let mine = ours.len();
    let other = theirs.len();
    // Only blank lines may stand behind the end of the other file.
    let behind = ours.iter().skip(other).chain(theirs.iter().skip(mine));
    if behind.into_iter().any(|line| !line.trim().is_empty()) {
        let reason = format!("has {mine} lines, `{}` has {other}", target.display());
        return Err(RecipeError::Data {
            path: path.into(),
            reason,
        });
    }
    ours.resize(mine.max(other), String::new());
    theirs.resize(mine.max(other), String::new());
    let mut pairs = Vec::with_capacity(ours.len());
    for (line, (source, text)) in (1..).zip(ours.iter().zip(&theirs)) {
        if !source.trim().is_empty() && !text.trim().is_empty() {
            let mut record = one("source", source);
            record.insert("target".into(), Value::from(text.as_str()));
            pairs.push(Numbered { line, record });
        }
    }
    let unpaired = ours
        .iter()
        .zip(&theirs)
        .filter(|(a, b)| a.trim().is_empty() != b.trim().is_empty())
        .count();
    Ok((pairs, unpaired))
}

/// A line of a file in one language alone.
fn name_source(record: &mut Record) {
    if let Some(text) = record.remove("text") {
        record.insert("source".into(), text);
    }
}

fn render(dataset: &Dataset, record: &Record) -> Result<Example, String> {
    rendered(dataset, record).map_err(|reason| match hint(dataset, record) {
        Some(hint) => format!("{reason}\n\nhint: {hint}"),
        None => reason,
    })
}

/// What a row that cannot be rendered may be instead, by the columns that it has.
fn hint(dataset: &Dataset, record: &Record) -> Option<&'static str> {
    let has = |columns: &[&str]| columns.iter().all(|column| record.contains_key(*column));
    if has(&["chosen", "rejected"]) {
        return Some(
            "preference pairs are not offered, only answers that are learned as they stand",
        );
    }
    match dataset.format {
        Format::Instruct if has(&["prompt", "completion"]) => {
            Some("`template = \"{prompt}\"` and `completion = \"{completion}\"` read these columns")
        }
        Format::Instruct if has(&["messages"]) || has(&["conversations"]) => {
            Some("`format = \"chat\"` reads conversations")
        }
        Format::Chat if has(&["instruction", "output"]) => {
            Some("`format = \"instruct\"` reads these columns")
        }
        _ => None,
    }
}

fn rendered(dataset: &Dataset, record: &Record) -> Result<Example, String> {
    if dataset.format == Format::Text {
        let text = fill(dataset.template.as_deref().unwrap_or("{text}"), record)?;
        return Ok(Example {
            prompt: Prompt::Plain(String::new()),
            completion: text,
            label: None,
        });
    }
    let prompt = prompt_of(dataset, record)?;
    let answer = dataset.completion.as_deref();
    let (completion, label) = match dataset.format {
        Format::Chat => (chat::turns(record)?.1, None),
        Format::Classify => {
            let column = dataset.label.as_deref().unwrap_or("label");
            let label = label_number(&cell(record, column)?, dataset)?;
            (dataset.labels[label].clone(), Some(label))
        }
        Format::Translate => (fill(answer.unwrap_or("{target}"), record)?, None),
        Format::Instruct | Format::Text => (fill(answer.unwrap_or("{output}"), record)?, None),
    };
    Ok(Example {
        prompt,
        completion,
        label,
    })
}

/// What stands before the answer of a row.
fn prompt_of(dataset: &Dataset, record: &Record) -> Result<Prompt, String> {
    let default = match dataset.format {
        Format::Chat => return Ok(Prompt::Chat(chat::turns(record)?.0)),
        Format::Classify | Format::Text => "{text}",
        Format::Translate => "{source}",
        Format::Instruct => {
            let has_input = record
                .get("input")
                .and_then(Value::as_str)
                .is_some_and(|text| !text.trim().is_empty());
            if has_input {
                "{instruction}\n\n{input}"
            } else {
                "{instruction}"
            }
        }
    };
    let prompt = fill(dataset.template.as_deref().unwrap_or(default), record)?;
    Ok(match dataset.style {
        Style::Plain => Prompt::Plain(prompt),
        Style::Chat => {
            let system = dataset.system.iter().map(|s| Turn {
                role: "system".into(),
                content: s.clone(),
            });
            Prompt::Chat(
                system
                    .chain([Turn {
                        role: "user".into(),
                        content: prompt,
                    }])
                    .collect(),
            )
        }
    })
}

/// A label may be written as its name, its code or its number in the list, with a finer class
/// behind a colon. Codes that are numbers take the place of the numbers in the list.
fn label_number(value: &str, dataset: &Dataset) -> Result<usize, String> {
    let value = value.trim();
    let labels = &dataset.labels;
    let listed = |names: &[String], name: &str| {
        names
            .iter()
            .position(|n| n.trim().eq_ignore_ascii_case(name))
    };
    let coarse = value.split(':').next().unwrap_or(value);
    let numbered = dataset
        .label_codes
        .iter()
        .any(|code| code.trim().parse::<usize>().is_ok());
    listed(labels, value)
        .or_else(|| listed(&dataset.label_codes, value))
        .or_else(|| listed(labels, coarse))
        .or_else(|| listed(&dataset.label_codes, coarse))
        .or_else(|| value.parse().ok().filter(|_| !numbered))
        .filter(|&number| number < labels.len())
        .ok_or_else(|| format!("`{value}` is none of the labels {}", labels.join(", ")))
}

fn cell(record: &Record, column: &str) -> Result<String, String> {
    match record.get(column) {
        Some(Value::String(text)) => Ok(text.replace("\r\n", "\n")),
        // A list of texts is so many lines.
        Some(Value::Array(lines)) if lines.iter().all(Value::is_string) => {
            let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
            Ok(lines.join("\n").replace("\r\n", "\n"))
        }
        Some(Value::Null) => Err(format!("column `{column}` is null")),
        None => {
            let names: Vec<&str> = record.keys().map(String::as_str).collect();
            Err(format!(
                "no column `{column}`; the row has {}",
                names.join(", ")
            ))
        }
        Some(other) => Ok(other.to_string()),
    }
}

/// Puts columns into `{column}`; `{{` and `}}` are braces.
fn fill(template: &str, record: &Record) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if rest.starts_with(brace) {
            out.push_str(brace);
            rest = &rest[1..];
        } else if brace == "{" {
            let (column, tail) = rest
                .split_once('}')
                .ok_or("a `{` of the template is never closed")?;
            out.push_str(&cell(record, column)?);
            rest = tail;
        } else {
            return Err("a `}` of the template stands alone".into());
        }
    }
    out.push_str(rest);
    Ok(out)
}
