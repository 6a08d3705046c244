use crate::RecipeError;
use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// One row of a data file: columns by name, or by number where the file has no header.
pub type Record = Map<String, Value>;

/// The text of a file, unpacked when its name ends in `.gz`.
///
/// # Errors
/// [`RecipeError::Io`], naming the file.
pub fn read_text(path: &Path) -> Result<String, RecipeError> {
    let io = |source| RecipeError::Io { path: path.into(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    let mut text = String::new();
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).map_err(io)?;
        return Ok(text);
    }
    String::from_utf8(bytes).map_err(|_| RecipeError::Data { path: path.into(), reason: "is not UTF-8".into() })
}

/// Rows of a `.jsonl`, `.csv`, `.tsv` or `.txt` file (also `.gz`); lines of a text file are rows with a column `text`.
///
/// A `.csv` file has a header. A `.tsv` file has none: its columns are `0`, `1`, ...
///
/// # Errors
/// [`RecipeError::Row`] with the number of the row (from 1), [`RecipeError::Data`] for an unknown kind of file.
pub fn read_records(path: &Path) -> Result<Vec<Record>, RecipeError> {
    let text = read_text(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let row = |row: usize, reason: String| RecipeError::Row { path: path.into(), row: row + 1, reason };
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    match name.rsplit('.').next().unwrap_or_default() {
        "jsonl" | "json" => lines().map(|(n, line)| json_row(line).map_err(|reason| row(n, reason))).collect(),
        "tsv" => Ok(lines().map(|(_, line)| numbered(line.split('\t'))).collect()),
        "csv" => csv(&text, row),
        _ => Ok(lines().map(|(_, line)| [("text".to_owned(), Value::from(line))].into_iter().collect()).collect()),
    }
}

fn json_row(line: &str) -> Result<Record, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(record)) => Ok(record),
        Err(error) if line.trim() != "[" => {
            // The parser sees one line, whatever its number in the file.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            Err(format!("no JSON: {what} at column {}", error.column()))
        }
        _ => Err("not a JSON object\n\nhint: each line is one object: `jq -c '.[]'` takes a list apart".into()),
    }
}

fn numbered<'a>(cells: impl Iterator<Item = &'a str>) -> Record {
    cells.enumerate().map(|(n, cell)| (n.to_string(), Value::from(cell))).collect()
}

/// RFC 4180: quoted cells may hold commas, quotes (doubled) and line breaks.
fn csv(text: &str, fail: impl Fn(usize, String) -> RecipeError) -> Result<Vec<Record>, RecipeError> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let (mut row, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => cell.extend(chars.next()),
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) if chars.peek() == Some(&'\n') => {}
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            (c, _) => cell.push(c),
        }
    }
    if quoted {
        return Err(fail(rows.len(), "a quote is never closed".into()));
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows.retain(|r| r.len() > 1 || r.first().is_some_and(|c| !c.trim().is_empty()));
    let mut rows = rows.into_iter();
    let Some(header) = rows.next() else { return Ok(Vec::new()) };
    let record = |(n, row): (usize, Vec<String>)| {
        if row.len() != header.len() {
            return Err(fail(n + 1, format!("{} cells under a header of {}", row.len(), header.len())));
        }
        Ok(header.iter().cloned().zip(row.into_iter().map(Value::from)).collect())
    };
    rows.enumerate().map(record).collect()
}
