//! Data files of every format as rows with named columns. Files are foreign: sizes are bounded, and
//! what is damaged is refused with its line.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::{
    RecipeError, files,
    layout::{Layout, Packing},
};

mod zstandard;

/// Longest data file, unpacked: its text is held in memory.
const MAX_DATA_BYTES: u64 = 4 << 30;

/// One row of a data file: columns by name, or by number where the file has no header.
pub type Record = Map<String, Value>;

/// A row and the line on which it begins, as an editor counts them (from 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    pub line: usize,
    pub record: Record,
}

/// What may be done with a file that is not read.
const NO_PARQUET: &str = "\n\n\
    hint: parquet is not read; save it as JSON lines, with pandas `read_parquet(A).to_json(B, \
    orient=\"records\", lines=True)`";

/// The text of a file without a byte order mark, unpacked when its name ends in `.gz` or `.zst`
/// (all members or frames, one after another).
///
/// # Errors
/// [`RecipeError::Io`] or [`RecipeError::Data`], naming the file.
pub fn read_text(path: &Path) -> Result<String, RecipeError> {
    if Layout::of(path) == Layout::Parquet {
        return Err(RecipeError::Data {
            path: path.into(),
            reason: format!("is a parquet file{NO_PARQUET}"),
        });
    }
    let file = File::open(path).map_err(|source| RecipeError::Io {
        path: path.into(),
        source,
    })?;
    let bytes = match Packing::of(path) {
        Some(Packing::Gzip) => {
            let unpacked = MultiGzDecoder::new(BufReader::new(file));
            read_bounded(path, unpacked, MAX_DATA_BYTES)?
        }
        Some(Packing::Zstandard) => {
            let unpacked = zstandard::Frames::new(BufReader::new(file));
            read_bounded(path, unpacked, MAX_DATA_BYTES)?
        }
        None => read_bounded(path, file, MAX_DATA_BYTES)?,
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let hint = match error.as_bytes() {
            [0x1f, 0x8b, ..] => "\n\nhint: it is packed; its name must end in `.gz`",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "\n\nhint: it is packed; its name must end in `.zst`",
            [b'P', b'A', b'R', b'1', ..] => NO_PARQUET,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "\n\nhint: it is UTF-16; save it as UTF-8",
            _ => "",
        };
        RecipeError::Data {
            path: path.into(),
            reason: format!("is not UTF-8{hint}"),
        }
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// All of a file or of what is packed in it, up to a limit: a device or a packed file may have no
/// end.
pub(crate) fn read_bounded(
    path: &Path,
    from: impl Read,
    limit: u64,
) -> Result<Vec<u8>, RecipeError> {
    let mut bytes = Vec::new();
    let read = from.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| RecipeError::Io {
        path: path.into(),
        source,
    })?;
    match bytes.len() as u64 > limit {
        true => Err(RecipeError::Data {
            path: path.into(),
            reason: format!("is longer than the limit of {limit} bytes"),
        }),
        false => Ok(bytes),
    }
}

/// Rows of a `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or text file (also `.gz` and `.zst`), of
/// every data file of a folder, or of all that a pattern matches; lines of a text file are rows
/// with a column `text`. A JSON file has an object a line, or is one list of objects.
///
/// A `.csv` file has a header. A `.tsv` file has none: its columns are `0`, `1`, ... Blank lines
/// are no rows.
///
/// # Errors
/// [`RecipeError::Row`] with the number of the line (from 1).
pub fn read_records(path: &Path) -> Result<Vec<Numbered>, RecipeError> {
    let mut rows = Vec::new();
    for file in files::meant_by(path)? {
        rows.extend(records_of(&file)?);
    }
    Ok(rows)
}

/// As [`read_records`] for one file.
pub(crate) fn records_of(path: &Path) -> Result<Vec<Numbered>, RecipeError> {
    let text = read_text(path)?;
    let fail = |line: usize, reason: String| RecipeError::Row {
        path: path.into(),
        row: line,
        reason,
    };
    let lines = || {
        (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty())
    };
    match Layout::of(path) {
        Layout::Json if text.trim_start().starts_with('[') => {
            list(&text).map_err(|(line, reason)| fail(line, reason))
        }
        Layout::Json => lines()
            .map(|(line, row)| {
                Ok(Numbered {
                    line,
                    record: object(row).map_err(|reason| fail(line, reason))?,
                })
            })
            .collect(),
        Layout::Tsv => Ok(lines()
            .map(|(line, row)| Numbered {
                line,
                record: columns(row.split('\t')),
            })
            .collect()),
        Layout::Csv => csv(&text).map_err(|(line, reason)| fail(line, reason)),
        Layout::Parquet | Layout::Lines => Ok(lines()
            .map(|(line, row)| Numbered {
                line,
                record: one("text", row),
            })
            .collect()),
    }
}

/// Lines of a text file, empty ones too: line n belongs to line n of another file.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<String>, RecipeError> {
    Ok(read_text(path)?.lines().map(str::to_owned).collect())
}

fn object(line: &str) -> Result<Record, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(record)) => Ok(record),
        Err(error) => {
            // The parser sees one line, whatever its number in the file.
            Err(format!(
                "no JSON: {} at column {}",
                told(&error),
                error.column()
            ))
        }
        _ => Err(NO_OBJECT.into()),
    }
}

const NO_OBJECT: &str =
    "not a JSON object\n\nhint: a file has an object on each line, or one list of objects";

/// What a parser says, without its place.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A line and what is wrong with it.
type Wrong = (usize, String);

/// The objects of one JSON list, with the lines on which they begin.
fn list(text: &str) -> Result<Vec<Numbered>, Wrong> {
    let mut rows = Vec::new();
    let mut line = 1;
    let mut rest = text;
    // Moves on to the next character that is no white space.
    let mut skip = |rest: &mut &str, bytes: usize| -> (usize, Option<char>) {
        let (read, behind) = rest.split_at(bytes);
        let trimmed = behind.trim_start_matches([' ', '\t', '\r', '\n']);
        line += newlines(read) + newlines(&behind[..behind.len() - trimmed.len()]);
        *rest = trimmed;
        (line, trimmed.chars().next())
    };
    skip(&mut rest, 0);
    let (mut line, mut next) = skip(&mut rest, 1);
    let mut comma = false;
    while comma || next != Some(']') {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::Object(record))) => rows.push(Numbered { line, record }),
            Some(Ok(_)) => return Err((line, NO_OBJECT.into())),
            Some(Err(error)) => {
                return Err((
                    line + error.line().max(1) - 1,
                    format!("no JSON: {}", told(&error)),
                ));
            }
            None => return Err((line, "no JSON: the list is never closed".into())),
        }
        let read = values.byte_offset();
        (line, next) = skip(&mut rest, read);
        comma = next == Some(',');
        if comma {
            (line, next) = skip(&mut rest, 1);
        } else if next != Some(']') {
            return Err((
                line,
                "no JSON: a list goes on with a comma or ends with `]`".into(),
            ));
        }
    }
    match skip(&mut rest, 1) {
        (_, None) => Ok(rows),
        (line, Some(_)) => Err((line, "no JSON: something stands behind the list".into())),
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|&byte| byte == b'\n').count()
}

fn columns<'a>(cells: impl Iterator<Item = &'a str>) -> Record {
    cells
        .enumerate()
        .map(|(n, cell)| (n.to_string(), Value::from(cell)))
        .collect()
}

pub(crate) fn one(column: &str, text: &str) -> Record {
    [(column.to_owned(), Value::from(text))]
        .into_iter()
        .collect()
}

/// RFC 4180: quoted cells may hold commas, quotes (doubled) and line breaks.
fn csv(text: &str) -> Result<Vec<Numbered>, Wrong> {
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let mut row = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let mut line = 1;
    let mut first = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => cell.extend(chars.next()),
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) if chars.peek() == Some(&'\n') => {}
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push((
                    std::mem::replace(&mut first, line),
                    std::mem::take(&mut row),
                ));
            }
            (c, _) => cell.push(c),
        }
    }
    if quoted {
        return Err((first, "a quote is never closed".into()));
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push((first, row));
    }
    rows.retain(|(_, r)| r.len() > 1 || r.first().is_some_and(|c| !c.trim().is_empty()));
    let mut rows = rows.into_iter();
    let Some((line, header)) = rows.next() else {
        return Ok(Vec::new());
    };
    if let Some(twice) = header
        .iter()
        .enumerate()
        .find(|(n, name)| header[..*n].contains(name))
        .map(|(_, name)| name)
    {
        return Err((line, format!("the header has the column `{twice}` twice")));
    }
    let record = |(line, row): (usize, Vec<String>)| {
        if row.len() != header.len() {
            return Err((
                line,
                format!("{} cells under a header of {}", row.len(), header.len()),
            ));
        }
        let record = header
            .iter()
            .cloned()
            .zip(row.into_iter().map(Value::from))
            .collect();
        Ok(Numbered { line, record })
    };
    rows.map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused_at_the_limit() {
        let error = read_bounded(Path::new("data.jsonl"), std::io::repeat(b'x'), 1000)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("data.jsonl") && error.contains("limit of 1000 bytes"),
            "{error}"
        );
        assert_eq!(
            read_bounded(Path::new("x"), &b"abc"[..], 3).unwrap(),
            b"abc"
        );
    }
}
