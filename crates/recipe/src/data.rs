use crate::{Dataset, Format, RecipeError, Record, Style, locate, read_records, read_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// One turn of a conversation; `role` is `system`, `user` or `assistant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

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
}

impl Rows {
    /// Reads the files of a `[[dataset]]`, without the rows that it excludes; paths are searched as [`locate()`] does.
    ///
    /// # Errors
    /// [`RecipeError`] naming the file and row; an empty data set is an error.
    pub fn read(dataset: &Dataset, recipe_dir: &Path) -> Result<Self, RecipeError> {
        let path = locate(&dataset.path, recipe_dir)?;
        let target = dataset.target_path.as_ref().map(|p| locate(p, recipe_dir)).transpose()?;
        let mut rows = Self::read_files(dataset, &path, target.as_deref())?;
        let mut asked = BTreeSet::new();
        for file in &dataset.exclude {
            asked.extend(questions(dataset, &locate(file, recipe_dir)?)?);
        }
        let all = rows.examples.len();
        rows.examples.retain(|example| !asked.contains(&example.prompt.question()));
        rows.excluded = all - rows.examples.len();
        if rows.examples.is_empty() {
            let reason = "every row is also in a file of `dataset.exclude`".into();
            return Err(RecipeError::Data { path, reason });
        }
        Ok(rows)
    }

    /// The same with other files of the same format in place of the data set's own.
    ///
    /// # Errors
    /// As [`Rows::read`].
    pub fn read_files(dataset: &Dataset, path: &Path, target: Option<&Path>) -> Result<Self, RecipeError> {
        let examples = match (dataset.format, target) {
            (Format::Text, _) if dataset.template.is_none() && is_plain_text(path) => {
                vec![Example { prompt: Prompt::Plain(String::new()), completion: read_text(path)?, label: None }]
            }
            (_, target) => {
                let mut records = read_records(path)?;
                if let Some(target) = target {
                    align(&mut records, path, target)?;
                }
                let render = |(n, record): (usize, &Record)| {
                    render(dataset, record).map_err(|reason| RecipeError::Row { path: path.into(), row: n + 1, reason })
                };
                records.iter().enumerate().map(render).collect::<Result<Vec<_>, _>>()?
            }
        };
        if examples.iter().all(|e| e.completion.trim().is_empty()) {
            let reason = if examples.is_empty() { "the data set is empty" } else { "every answer is empty" };
            return Err(RecipeError::Data { path: path.into(), reason: reason.into() });
        }
        Ok(Self { examples, format: dataset.format, labels: dataset.labels.clone(), excluded: 0 })
    }
}

impl Prompt {
    /// What makes two prompts the same question: all of the text, whatever its capitals and white space.
    pub fn question(&self) -> String {
        let words = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        match self {
            Self::Plain(text) => words(text),
            Self::Chat(turns) => {
                let turns = turns.iter().map(|turn| format!("{}: {}", turn.role, words(&turn.content)));
                turns.collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// The questions ([`Prompt::question`]) of a file, put as `dataset` puts its own; answers are not needed.
///
/// # Errors
/// [`RecipeError`] naming the file and row; running text has no questions.
pub fn questions(dataset: &Dataset, path: &Path) -> Result<BTreeSet<String>, RecipeError> {
    if dataset.format == Format::Text {
        let reason = "rows of running text have no prompt by which they could be found again".into();
        return Err(RecipeError::Data { path: path.into(), reason });
    }
    let mut records = read_records(path)?;
    if dataset.format == Format::Translate {
        records.iter_mut().for_each(name_source);
    }
    let question = |(n, record): (usize, &Record)| {
        let prompt = prompt_of(dataset, record);
        let prompt = prompt.map_err(|reason| RecipeError::Row { path: path.into(), row: n + 1, reason })?;
        Ok(prompt.question())
    };
    records.iter().enumerate().map(question).collect()
}

fn is_plain_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    ![".jsonl", ".json", ".csv", ".tsv"].iter().any(|end| name.ends_with(end))
}

/// Adds the lines of the other language as `target` to rows whose own line is `source`.
fn align(records: &mut [Record], path: &Path, target: &Path) -> Result<(), RecipeError> {
    let others = read_records(target)?;
    if others.len() != records.len() {
        let reason = format!("has {} lines, `{}` has {}", records.len(), target.display(), others.len());
        return Err(RecipeError::Data { path: path.into(), reason });
    }
    for (record, mut other) in records.iter_mut().zip(others) {
        name_source(record);
        record.insert("target".into(), other.remove("text").unwrap_or_default());
    }
    Ok(())
}

/// A line of a file in one language alone.
fn name_source(record: &mut Record) {
    if let Some(text) = record.remove("text") {
        record.insert("source".into(), text);
    }
}

fn render(dataset: &Dataset, record: &Record) -> Result<Example, String> {
    if dataset.format == Format::Text {
        let text = fill(dataset.template.as_deref().unwrap_or("{text}"), record)?;
        return Ok(Example { prompt: Prompt::Plain(String::new()), completion: text, label: None });
    }
    let prompt = prompt_of(dataset, record)?;
    let answer = dataset.completion.as_deref();
    let (completion, label) = match dataset.format {
        Format::Chat => (turns(record)?.1, None),
        Format::Classify => {
            let column = dataset.label.as_deref().unwrap_or("label");
            let label = label_number(&cell(record, column)?, dataset)?;
            (dataset.labels[label].clone(), Some(label))
        }
        Format::Translate => (fill(answer.unwrap_or("{target}"), record)?, None),
        Format::Instruct | Format::Text => (fill(answer.unwrap_or("{output}"), record)?, None),
    };
    Ok(Example { prompt, completion, label })
}

/// What stands before the answer of a row.
fn prompt_of(dataset: &Dataset, record: &Record) -> Result<Prompt, String> {
    let default = match dataset.format {
        Format::Chat => return Ok(Prompt::Chat(turns(record)?.0)),
        Format::Classify | Format::Text => "{text}",
        Format::Translate => "{source}",
        Format::Instruct => {
            let has_input = record.get("input").and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
            if has_input { "{instruction}\n\n{input}" } else { "{instruction}" }
        }
    };
    let prompt = fill(dataset.template.as_deref().unwrap_or(default), record)?;
    Ok(match dataset.style {
        Style::Plain => Prompt::Plain(prompt),
        Style::Chat => {
            let system = dataset.system.iter().map(|s| Turn { role: "system".into(), content: s.clone() });
            Prompt::Chat(system.chain([Turn { role: "user".into(), content: prompt }]).collect())
        }
    })
}

/// The turns of a chat, and the last one's words: it must be the assistant's, and answers the ones before.
fn turns(record: &Record) -> Result<(Vec<Turn>, String), String> {
    let turns = record.get("messages").ok_or("the row has no `messages`")?;
    let mut turns: Vec<Turn> = serde_json::from_value(turns.clone()).map_err(|e| format!("`messages`: {e}"))?;
    match turns.pop() {
        Some(last) if last.role == "assistant" => Ok((turns, last.content)),
        _ => Err("`messages` must end with the assistant's turn".into()),
    }
}

/// A label may be written as its name, its code or its number in the list, with a finer class behind a colon.
fn label_number(value: &str, dataset: &Dataset) -> Result<usize, String> {
    let (value, labels) = (value.trim(), &dataset.labels);
    let listed = |names: &[String], name: &str| names.iter().position(|n| n.trim().eq_ignore_ascii_case(name));
    let coarse = value.split(':').next().unwrap_or(value);
    listed(labels, value)
        .or_else(|| listed(&dataset.label_codes, value))
        .or_else(|| listed(labels, coarse))
        .or_else(|| listed(&dataset.label_codes, coarse))
        .or_else(|| value.parse().ok())
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
            Err(format!("no column `{column}`; the row has {}", names.join(", ")))
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
            let (column, tail) = rest.split_once('}').ok_or("a `{` of the template is never closed")?;
            out.push_str(&cell(record, column)?);
            rest = tail;
        } else {
            return Err("a `}` of the template stands alone".into());
        }
    }
    out.push_str(rest);
    Ok(out)
}
