//! Checks a document against the table of keys.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Problem, compat,
    error::Lines,
    schema::{
        hints::{hint, value_hint},
        keys::{
            Kind::{self, AtLeast, Number, OneOf, Path, Positive, Text, UpTo, Whole, Within},
            NEEDED, ROOT, join,
        },
    },
};

/// Syntax errors of a file that are told.
const SYNTAX_ERRORS: usize = 5;

struct Checker<'a> {
    file: &'a str,
    lines: Lines<'a>,
    /// Overrides need not be whole tables.
    partial: bool,
    problems: Vec<Problem>,
}

pub(super) fn check(text: &str, name: &str, partial: bool) -> Vec<Problem> {
    let mut checker = Checker {
        file: name,
        lines: Lines::of(text),
        partial,
        problems: Vec::new(),
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    // What is no TOML at all is wrong in every line.
    let more = errors.len().saturating_sub(SYNTAX_ERRORS);
    for (nth, error) in errors.iter().take(SYNTAX_ERRORS).enumerate() {
        let hint = (more > 0 && nth + 1 == SYNTAX_ERRORS)
            .then(|| format!("{more} more such errors; is it a TOML file?"));
        checker.add(
            error.message().to_owned(),
            hint,
            error.span().unwrap_or(0..0),
        );
    }
    checker.table("", root.get_ref(), ROOT, 0..0);
    // As they stand in the file; what is missing altogether comes last.
    let place = |p: &Problem| {
        p.place
            .as_ref()
            .map_or((usize::MAX, 0), |p| (p.line, p.column))
    };
    checker.problems.sort_by_key(place);
    checker.problems
}

impl Checker<'_> {
    fn add(&mut self, message: String, hint: Option<String>, span: Range<usize>) {
        self.problems
            .push(Problem::at(message, hint, self.file, &self.lines, span));
    }

    fn table(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        keys: &'static [(&'static str, Kind)],
        span: Range<usize>,
    ) {
        for (key, value) in table.iter() {
            let name = compat::key(path, key.get_ref().as_ref());
            match keys.iter().find(|(k, _)| *k == name) {
                Some((_, kind)) => self.value(&join(path, name), value, *kind),
                None => {
                    let names: Vec<&str> = keys.iter().map(|(k, _)| *k).collect();
                    let hint = hint(path, name, &names);
                    self.add(
                        format!("unknown key `{}`", join(path, name)),
                        hint,
                        key.span(),
                    );
                }
            }
        }
        if self.partial {
            return;
        }
        let has = |key: &str| table.iter().any(|(k, _)| k.get_ref().as_ref() == key);
        if path.is_empty() {
            for needed in ["model", "dataset", "output"] {
                if !has(needed) {
                    let shape = if needed == "dataset" {
                        "[[dataset]]"
                    } else {
                        needed
                    };
                    self.problems.push(Problem {
                        message: format!("{}: the table `{shape}` is missing", self.file),
                        hint: None,
                        place: None,
                    });
                }
            }
        }
        for (_, needed) in NEEDED.iter().filter(|(p, _)| *p == path) {
            for key in needed.iter().filter(|k| !has(k)) {
                self.add(
                    format!("`{}` is missing", join(path, key)),
                    None,
                    span.clone(),
                );
            }
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, kind: Kind) {
        let span = value.span();
        let inner = value.get_ref();
        match kind {
            Kind::Table(keys) => match inner.as_table() {
                Some(table) => self.table(path, table, keys, span),
                None => self.wrong(path, "a table", inner, span),
            },
            Kind::Tables(keys) => match inner.as_array() {
                Some(rows) => {
                    for row in rows {
                        self.value(path, row, Kind::Table(keys));
                    }
                }
                None => self.wrong(
                    path,
                    &format!("a list of tables: `[[{path}]]`"),
                    inner,
                    span,
                ),
            },
            Kind::Texts | Kind::Paths | Kind::Some(_) | Kind::Wholes => match inner.as_array() {
                Some(rows) => {
                    let each = match kind {
                        Kind::Some(words) => OneOf(words),
                        Kind::Paths => Path,
                        Kind::Wholes => Whole(0),
                        _ => Text,
                    };
                    for row in rows {
                        self.value(path, row, each);
                    }
                }
                None => self.wrong(path, kind.list(), inner, span),
            },
            Kind::Text | Kind::Path if inner.as_str().is_none() => {
                self.wrong(path, "a text", inner, span)
            }
            Kind::Path => {
                if let Some(reason) = inner.as_str().and_then(|name| no_path(path, name)) {
                    self.add(format!("`{path}` {reason}"), None, span);
                }
            }
            Kind::Flag if inner.as_bool().is_none() => {
                self.wrong(path, "true or false", inner, span)
            }
            Kind::Text | Kind::Flag => {}
            Kind::OneOf(words) => self.one_of(path, inner, words, span),
            Kind::Whole(_)
            | Kind::Within(..)
            | Kind::Number(..)
            | Kind::AtLeast(_)
            | Kind::Positive
            | Kind::UpTo(_) => self.number(path, inner, kind, span),
        }
    }

    fn one_of(
        &mut self,
        path: &str,
        value: &DeValue<'_>,
        words: &'static [&'static str],
        span: Range<usize>,
    ) {
        match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let list = words
                    .iter()
                    .map(|w| format!("`{w}`"))
                    .collect::<Vec<_>>()
                    .join(", ");
                self.add(
                    format!("`{path}` is one of {list}, not `{word}`"),
                    value_hint(path, word, words),
                    span,
                );
            }
            None => {
                let flag = value.as_bool().map(|flag| flag.to_string());
                let hint = flag.and_then(|flag| value_hint(path, &flag, words));
                self.add(wrong(path, "a text", value), hint, span);
            }
        }
    }

    fn number(&mut self, path: &str, value: &DeValue<'_>, kind: Kind, span: Range<usize>) {
        let digits = |text: &str| text.replace('_', "");
        let whole = value
            .as_integer()
            .and_then(|i| i64::from_str_radix(&digits(i.as_str()), i.radix()).ok());
        let number = whole.map(|i| i as f64).or_else(|| {
            value
                .as_float()
                .and_then(|f| digits(f.as_str()).parse().ok())
        });
        match (kind, whole, number) {
            (Whole(least) | Within(least, _), Some(value), _) if value < least => {
                let hint = match path {
                    "lora.rank" => {
                        Some("drop the `[lora]` table to train the private layers as a whole")
                    }
                    _ if path.starts_with("lora.ranks.") => {
                        Some("leave the module out of `lora.target_modules` to leave it as it is")
                    }
                    _ => None,
                }
                .map(str::to_owned);
                self.add(format!("`{path}` must be at least {least}"), hint, span);
            }
            (Within(_, most), Some(value), _) if value > most => {
                self.add(format!("`{path}` must be at most {most}"), None, span);
            }
            // Digits that no 64 bits hold.
            (Whole(_) | Within(..), None, _) if value.as_integer().is_some() => {
                self.add(
                    format!("`{path}` is too large or too small a number"),
                    None,
                    span,
                );
            }
            (Whole(_) | Within(..), None, _) => self.wrong(path, "a whole number", value, span),
            (AtLeast(least), _, Some(value)) if !(value >= least && value.is_finite()) => {
                self.add(format!("`{path}` must be at least {least:e}"), None, span);
            }
            (UpTo(most), _, Some(value)) if !(value > 0.0 && value <= most) => {
                self.add(
                    format!("`{path}` must be above 0, and at most {most}"),
                    None,
                    span,
                );
            }
            (Number(low, high), _, Some(value)) if !(low..=high).contains(&value) => {
                self.add(
                    format!("`{path}` must be between {low} and {high}"),
                    None,
                    span,
                );
            }
            (Positive, _, Some(value)) if !(value > 0.0 && value.is_finite()) => {
                self.add(format!("`{path}` must be above 0"), None, span);
            }
            (Number(..) | AtLeast(_) | Positive | UpTo(_), _, None) => {
                self.wrong(path, "a number", value, span)
            }
            _ => {}
        }
    }

    fn wrong(&mut self, path: &str, expected: &str, found: &DeValue<'_>, span: Range<usize>) {
        // Other tools have texts where tables are here: `optimizer = "adamw_8bit"`.
        let hint = found.as_str().and_then(|text| match path {
            "optimizer" => value_hint("optimizer.kind", text, &[]).or_else(|| {
                Some(format!(
                    "`[optimizer]` is a table; `kind = \"{text}\"` in it"
                ))
            }),
            "dataset" => Some(format!("`[[dataset]]`, and in it `path = \"{text}\"`")),
            "model" => Some(format!("`[model]`, and in it `base_model = \"{text}\"`")),
            "output" => Some(format!("`[output]`, and in it `dir = \"{text}\"`")),
            _ => None,
        });
        self.add(wrong(path, expected, found), hint, span);
    }
}

/// The message about a value of another type.
fn wrong(path: &str, expected: &str, found: &DeValue<'_>) -> String {
    format!(
        "`{path}` takes {expected}, not {}",
        with_article(found.type_str())
    )
}

/// What is wrong with the name of a file or folder.
fn no_path(key: &str, name: &str) -> Option<&'static str> {
    use std::path::Component;
    if name.trim().is_empty() {
        return Some("is empty");
    }
    if name.contains('\0') {
        return Some("has a NUL in it, which no file name can have");
    }
    // `/`, `//` and `/tmp/..` alike.
    let depth =
        std::path::Path::new(name)
            .components()
            .try_fold(0usize, |depth, part| match part {
                Component::RootDir | Component::Prefix(_) => Some(0),
                Component::CurDir => Some(depth),
                Component::ParentDir => Some(depth.saturating_sub(1)),
                Component::Normal(_) => Some(depth + 1),
            });
    let is_root = std::path::Path::new(name).has_root() && depth == Some(0);
    (key == "output.dir" && is_root).then_some("is the root folder; name a folder of its own")
}

fn with_article(kind: &str) -> String {
    format!(
        "{} {kind}",
        if kind.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        }
    )
}
