use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// What can go wrong with recipes and data files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Every problem of a recipe, each with its place.
    #[error("{}", join(.0))]
    Problems(Vec<Problem>),
    #[error("`{}`, row {row}: {reason}", path.display())]
    Row { path: PathBuf, row: usize, reason: String },
    #[error("`{}`: {reason}", path.display())]
    Data { path: PathBuf, reason: String },
    #[error("`{path}` was not found{}", searched(.looked_in))]
    NotFound { path: String, looked_in: Vec<PathBuf> },
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\nerror: ")
}

fn searched(looked_in: &[PathBuf]) -> String {
    let places: Vec<String> = looked_in.iter().map(|p| format!("`{}`", p.display())).collect();
    if places.is_empty() { String::new() } else { format!("\n\nhint: looked for {}", places.join(", ")) }
}

/// One mistake of a recipe: what, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub hint: Option<String>,
    /// File, line, column (both from 1), the line itself and the width of the caret.
    pub place: Option<(String, usize, usize, String, usize)>,
}

impl Problem {
    /// A problem at a byte range of `text`, the content of `file`.
    pub(crate) fn at(message: String, hint: Option<String>, file: &str, text: &str, span: Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        let line = text[..start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let end = span.end.clamp(start, line_end);
        let width = text[start..end].chars().count().max(1);
        let place = Some((file.to_owned(), line, column, text[line_start..line_end].to_owned(), width));
        Self { message, hint, place }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some((file, line, column, text, width)) = &self.place {
            write!(
                f,
                "\n --> {file}:{line}:{column}\n   | {text}\n   | {}{}",
                " ".repeat(column - 1),
                "^".repeat(*width)
            )?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
