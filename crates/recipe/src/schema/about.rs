//! What every key of a recipe means, and what stands for one that is left out.

mod rows;
#[cfg(test)]
mod tests;

use self::rows::ABOUT;
use super::keys::{Kind, NEEDED, ROOT, join};

/// A key or table of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// `train.epochs`.
    pub path: String,
    /// `a number above 0, at most 1000000`.
    pub takes: String,
    /// The value in TOML that means the same as nothing; a sentence where that depends on other
    /// keys; empty where nothing stands for it.
    pub default: &'static str,
    /// Whether its table cannot do without it.
    pub needed: bool,
    pub about: &'static str,
}

impl Key {
    /// Whether it is a table of keys.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.takes.starts_with("a table") || self.takes.starts_with("tables")
    }

    /// The table that it is in; empty for the tables of the root.
    #[must_use]
    pub fn table(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// All keys, tables before their keys, in the order of the page.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut out = Vec::new();
    below("", ROOT, &mut out);
    out
}

fn below(path: &str, table: &[(&'static str, Kind)], out: &mut Vec<Key>) {
    for (name, kind) in table {
        let path_of_key = join(path, name);
        // Ranks of single modules are alike.
        if path == "lora.ranks" {
            continue;
        }
        let row = ABOUT.iter().find(|(key, ..)| *key == path_of_key);
        let (default, about) = row.map_or(("", ""), |(_, default, about)| (*default, *about));
        let is_needed = |(table, keys): &(&str, &[&str])| *table == path && keys.contains(name);
        let needed = match path {
            "" => ["model", "dataset", "output"].contains(name),
            _ => NEEDED.iter().any(is_needed),
        };
        out.push(Key {
            path: path_of_key.clone(),
            takes: takes(*kind),
            default,
            needed,
            about,
        });
        if let Kind::Table(keys) | Kind::Tables(keys) = kind {
            below(&path_of_key, keys, out);
        }
    }
}

fn takes(kind: Kind) -> String {
    let words = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
        quoted.join(", ")
    };
    match kind {
        Kind::Text => "a text".into(),
        Kind::Path => "a path".into(),
        Kind::OneOf(names) => words(names),
        Kind::Whole(least) => format!("a whole number from {least}"),
        Kind::Within(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Number(least, most) => format!("a number from {least} to {most}"),
        Kind::AtLeast(least) => format!("a number from {least:e}"),
        Kind::Positive => "a number above 0".into(),
        Kind::UpTo(most) => format!("a number above 0, at most {most}"),
        Kind::Flag => "`true`, `false`".into(),
        Kind::Texts => "a list of texts".into(),
        Kind::Wholes => "a list of whole numbers".into(),
        Kind::Paths => "a list of paths".into(),
        Kind::Some(names) => format!("a list out of {}", words(names)),
        Kind::Table(_) => "a table".into(),
        Kind::Tables(_) => "tables, one or more".into(),
    }
}
