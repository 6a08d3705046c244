//! Errors of recipes and data files. A recipe's mistakes are reported together, each with its line
//! and a caret.

use std::{fmt, ops::Range, path::PathBuf};

/// What can go wrong with recipes and data files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Every problem of a recipe, each with its place.
    #[error("{}", join(.0))]
    Problems(Vec<Problem>),
    #[error("`{}`, row {row}: {reason}", path.display())]
    Row {
        path: PathBuf,
        row: usize,
        reason: String,
    },
    #[error("`{}`: {reason}", path.display())]
    Data { path: PathBuf, reason: String },
    #[error("`{path}` was not found{}", searched(.looked_in))]
    NotFound {
        path: String,
        looked_in: Vec<PathBuf>,
    },
}

fn join(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n\nerror: ")
}

fn searched(looked_in: &[PathBuf]) -> String {
    let places: Vec<String> = looked_in
        .iter()
        .map(|p| format!("`{}`", p.display()))
        .collect();
    if places.is_empty() {
        String::new()
    } else {
        format!("\n\nhint: looked for {}", places.join(", "))
    }
}

/// One mistake of a recipe: what, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub hint: Option<String>,
    pub place: Option<Box<Place>>,
}

/// A place in a recipe file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    /// From 1, as the column.
    pub line: usize,
    pub column: usize,
    /// The line, or a part of one that is long.
    text: String,
    /// Characters of `text` before the caret, and the caret's width.
    indent: usize,
    width: usize,
}

/// Bytes of a long line that are shown on either side of a place.
const AROUND: usize = 80;
/// Bytes from one count of characters to the next.
const STRIDE: usize = 1024;

/// A text with its lines: a place is found without a walk through the text.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Characters before every [`STRIDE`]th byte.
    counts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Self {
        let behind = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(behind).collect();
        let mut counts = vec![0];
        for part in text.as_bytes().chunks(STRIDE) {
            counts.push(counts[counts.len() - 1] + characters(part));
        }
        Self {
            text,
            starts,
            counts,
        }
    }

    fn characters_before(&self, byte: usize) -> usize {
        let mark = byte / STRIDE;
        self.counts[mark] + characters(&self.text.as_bytes()[mark * STRIDE..byte])
    }

    fn place(&self, file: &str, span: Range<usize>) -> Place {
        let text = self.text;
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let line = self.starts.partition_point(|&begin| begin <= start);
        let line_start = self.starts[line - 1];
        let line_end = self
            .starts
            .get(line)
            .map_or(text.len(), |next| next - 1)
            .max(start);
        let end = text.floor_char_boundary(span.end.clamp(start, line_end));
        let from = line_start.max(start.saturating_sub(AROUND));
        let to = line_end.min(start + 2 * AROUND);
        let from = text.ceil_char_boundary(from);
        let to = text.floor_char_boundary(to);
        let column = self.characters_before(start) - self.characters_before(line_start) + 1;
        Place {
            file: file.to_owned(),
            line,
            column,
            text: text[from..to].to_owned(),
            indent: text[from..start].chars().count(),
            width: text[start..end.min(to)].chars().count().max(1),
        }
    }
}

/// Characters that begin in a part of a text.
fn characters(part: &[u8]) -> usize {
    part.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

impl Problem {
    /// A problem at a byte range of a text, the content of `file`.
    pub(crate) fn at(
        message: String,
        hint: Option<String>,
        file: &str,
        lines: &Lines<'_>,
        span: Range<usize>,
    ) -> Self {
        Self {
            message,
            hint,
            place: Some(Box::new(lines.place(file, span))),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            let Place {
                file,
                line,
                column,
                text,
                indent,
                width,
            } = &**place;
            write!(
                f,
                "\n --> {file}:{line}:{column}\n   | {text}\n   | {}{}",
                " ".repeat(*indent),
                "^".repeat(*width)
            )?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
