//! `--set key=value`: one key as a document of its own, and its way into a recipe.

use toml::{Table, Value};

use crate::{Problem, compat};

/// `a.b=value` as a path and a document that holds just this key.
pub(super) fn edit(given: &str) -> Result<(Vec<String>, String), Problem> {
    let bad = |hint: &str| {
        let message = format!("`--set {given}` is not `key=value`");
        Problem {
            message,
            hint: Some(hint.into()),
            place: None,
        }
    };
    let (path, value) = given
        .split_once('=')
        .ok_or_else(|| bad("write `--set train.max_steps=40`"))?;
    let mut path: Vec<String> = path
        .trim()
        .split('.')
        .map(|p| p.trim().to_owned())
        .collect();
    if let [table, key] = path.as_mut_slice() {
        *key = compat::key(table, key).into();
    }
    let plain = |p: &String| {
        !p.is_empty()
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    if path.len() < 2 || !path.iter().all(plain) {
        return Err(bad("a key names its table: `--set train.max_steps=40`"));
    }
    let value = value.trim();
    // A word that is no TOML value is a text: people write `--set output.dir=runs/a`.
    let value = match toml::from_str::<Table>(&format!("x = {value}")) {
        Ok(_) => value.to_owned(),
        // A number that is too large is still no text.
        Err(_) if value.parse::<f64>().is_ok() => value.to_owned(),
        Err(_) => Value::from(value).to_string(),
    };
    let (last, tables) = path.split_last().expect("at least two parts");
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let header = match tables[..] {
        ["dataset", _] => "[[dataset]]".to_owned(),
        _ => format!("[{}]", tables.join(".")),
    };
    Ok((path.clone(), format!("{header}\n{last} = {value}\n")))
}

pub(super) fn apply(table: &mut Table, path: &[String], mut document: Table) -> Result<(), String> {
    if path[0] == "dataset" {
        let index: usize = path[1]
            .parse()
            .map_err(|_| format!("`--set {}`: `{}` is no number", path.join("."), path[1]))?;
        let rows = document
            .remove("dataset")
            .and_then(|v| v.as_array().cloned())
            .unwrap_or_default();
        let value = rows
            .first()
            .and_then(|r| r.get(&path[2]).cloned())
            .ok_or("nothing to set")?;
        let rows = table
            .get_mut("dataset")
            .and_then(Value::as_array_mut)
            .ok_or("the recipe has no `[[dataset]]`")?;
        let count = rows.len();
        let row = rows.get_mut(index).and_then(Value::as_table_mut);
        row.ok_or(format!(
            "`--set {}`: there are {count} data sets",
            path.join(".")
        ))?
        .insert(path[2].clone(), value);
        return Ok(());
    }
    let mut from = Value::Table(document);
    let mut into = table;
    let (last, tables) = path.split_last().expect("at least two parts");
    for part in tables {
        from = from
            .as_table_mut()
            .and_then(|t| t.remove(part))
            .ok_or("nothing to set")?;
        let entry = into
            .entry(part.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        into = entry
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is no table"))?;
    }
    let value = from
        .as_table_mut()
        .and_then(|t| t.remove(last))
        .ok_or("nothing to set")?;
    into.insert(last.clone(), value);
    Ok(())
}
