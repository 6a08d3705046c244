//! Every key of a checkpoint's files is used, known to change nothing, or refused by name: a key
//! that is overlooked is a model that computes something else and says nothing.

pub(crate) mod families;
mod known;
pub(crate) mod rope;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

pub(crate) use known::{DECODER, GENERATION, GGUF, TOKENIZER};
use serde_json::{Map, Value};

use crate::ModelError;

/// The keys of one kind of file.
pub(crate) struct Known {
    /// The loader reads these.
    pub used: &'static [&'static str],
    /// Whatever their value, they change no answer. `general.*` stands for all that begin so.
    pub harmless: &'static [&'static str],
    /// They change no answer at these values, written as JSON. `null` is always one of them.
    pub neutral: &'static [(&'static str, &'static [&'static str])],
}

impl Known {
    fn neutral(&self, key: &str) -> Option<&'static [&'static str]> {
        self.neutral
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, values)| *values)
    }

    fn has(&self, key: &str) -> bool {
        self.neutral(key).is_some() || self.used.contains(&key) || self.changes_nothing(key)
    }

    fn changes_nothing(&self, key: &str) -> bool {
        let is = |name: &&str| {
            name.strip_suffix('*')
                .map_or(*name == key, |prefix| key.starts_with(prefix))
        };
        self.harmless.iter().any(is)
    }
}

/// What a user says may be left out: keys of files, names of tensors, tokens. A `*` stands for any
/// text without a dot, so that one entry speaks for all layers; at the end it stands for anything.
#[derive(Clone, Copy)]
pub(crate) struct Ignored<'a> {
    pub entries: &'a [String],
    /// Entries that stood for something so far.
    met: &'a RefCell<BTreeSet<String>>,
}

impl<'a> Ignored<'a> {
    pub fn new(entries: &'a [String], met: &'a RefCell<BTreeSet<String>>) -> Self {
        Self { entries, met }
    }

    /// Of a name that the files have.
    pub fn has(self, name: &str) -> bool {
        let found: Vec<&String> = self
            .entries
            .iter()
            .filter(|entry| matches(entry, name))
            .collect();
        self.met.borrow_mut().extend(found.iter().copied().cloned());
        !found.is_empty()
    }

    /// Entries that stood for nothing.
    pub fn in_vain(self) -> Vec<String> {
        self.entries
            .iter()
            .filter(|entry| !self.met.borrow().contains(*entry))
            .cloned()
            .collect()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    if let Some(prefix) = pattern
        .strip_suffix(".*")
        .filter(|prefix| !prefix.contains('*'))
    {
        return name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('.'));
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let name: Vec<&str> = name.split('.').collect();
    pattern.len() == name.len() && pattern.iter().zip(&name).all(|(p, n)| *p == "*" || p == n)
}

/// A JSON file of a checkpoint that is being accounted for.
pub(crate) struct Account<'a> {
    pub path: PathBuf,
    pub keys: Map<String, Value>,
    ignored: Ignored<'a>,
}

impl<'a> Account<'a> {
    /// Reads a JSON object, without keys that are `null` (absent, in these files) or ignored.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Corrupt`].
    pub fn read(path: &Path, ignored: Ignored<'a>) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|e| ModelError::corrupt(path, e))?;
        let Value::Object(mut keys) = value else {
            return Err(ModelError::corrupt(path, "is no JSON object"));
        };
        keys.retain(|key, value| !ignored.has(key) && !value.is_null());
        Ok(Self {
            path: path.into(),
            keys,
            ignored,
        })
    }

    /// Keys that are no JSON file's.
    pub fn new(path: &Path, mut keys: Map<String, Value>, ignored: Ignored<'a>) -> Self {
        keys.retain(|key, _| !ignored.has(key));
        Self {
            path: path.into(),
            keys,
            ignored,
        }
    }

    /// As [`Self::read`], for a file that may be missing.
    pub fn read_if_there(path: &Path, ignored: Ignored<'a>) -> Result<Self, ModelError> {
        if path.is_file() {
            return Self::read(path, ignored);
        }
        Ok(Self {
            path: path.into(),
            keys: Map::new(),
            ignored,
        })
    }

    /// A table inside this file, without what is `null` or ignored as `key.inner`.
    pub fn table(&self, key: &str) -> Result<Option<Map<String, Value>>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Object(inner)) => {
                let mut inner = inner.clone();
                inner.retain(|name, value| {
                    !self.ignored.has(&format!("{key}.{name}")) && !value.is_null()
                });
                Ok(Some(inner))
            }
            Some(other) => Err(self.refuse(key, other, "is no table")),
        }
    }

    /// # Errors
    /// [`ModelError::Unaccounted`], naming the first key that is not known, or known at other
    /// values only. Of several lists the first one that has a key decides.
    pub fn check(&self, known: &[&Known]) -> Result<(), ModelError> {
        self.check_table("", &self.keys, known)
    }

    /// As [`Self::check`] for a table of [`Self::table`].
    pub fn check_table(
        &self,
        prefix: &str,
        keys: &Map<String, Value>,
        known: &[&Known],
    ) -> Result<(), ModelError> {
        for (key, value) in keys {
            let place = format!("{prefix}{key}");
            let Some(known) = known.iter().find(|known| known.has(key)) else {
                let why = "is not known to this version, so it is not computed";
                return Err(self.refuse(&place, value, why));
            };
            match known.neutral(key) {
                Some(values) if !values.iter().any(|neutral| same(neutral, value)) => {
                    let why = match values {
                        [] => String::from("is not computed"),
                        _ => format!("is not computed, only {}", values.join(" or ")),
                    };
                    return Err(self.refuse(&place, value, &why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The error for a key whose value has no place here.
    pub fn refuse(&self, key: &str, value: &Value, why: &str) -> ModelError {
        ModelError::unaccounted(
            &self.path,
            &format!("`{key}` = {}", shortened(&value.to_string())),
            key,
            why,
        )
    }

    pub fn ignored(&self) -> Ignored<'a> {
        self.ignored
    }

    /// Token ids, written as one number or a list; -1 stands for none.
    ///
    /// # Errors
    /// [`ModelError::Unaccounted`] for anything else.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(Vec::new());
        };
        let wrong = || self.refuse(key, value, "is no token id");
        let one = |value: &Value| match value.as_i64() {
            Some(-1) => Ok(None),
            Some(id) => u32::try_from(id).map(Some).map_err(|_| wrong()),
            None => Err(wrong()),
        };
        match value {
            Value::Array(list) => list
                .iter()
                .filter_map(|value| one(value).transpose())
                .collect(),
            value => Ok(one(value)?.into_iter().collect()),
        }
    }

    /// As [`Self::ids`] for a key that stands for one token.
    pub fn id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match self.ids(key)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(self.refuse(key, &self.keys[key], "is more than one token")),
        }
    }

    /// # Errors
    /// [`ModelError::Corrupt`] where it is no whole number from 1 on.
    pub fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value > 0 => Ok(Some(value)),
            _ => Err(self.wrong(key, value, "is no size, which is a whole number from 1 on")),
        }
    }

    /// # Errors
    /// [`ModelError::Corrupt`] where it is no number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.wrong(key, value, "is no number"))
    }

    /// # Errors
    /// [`ModelError::Corrupt`] where it is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.keys.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.wrong(key, value, "is no text"))
    }

    pub fn missing(&self, key: &str) -> ModelError {
        ModelError::corrupt(&self.path, format!("has no `{key}`"))
    }

    fn wrong(&self, key: &str, value: &Value, why: &str) -> ModelError {
        ModelError::corrupt(
            &self.path,
            format!("`{key}` = {} {why}", shortened(&value.to_string())),
        )
    }

    /// # Errors
    /// [`ModelError::Unaccounted`] where it is neither `true` nor `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.refuse(key, other, "is neither true nor false")),
        }
    }
}

/// 1 and 1.0 are the same number.
fn same(neutral: &str, value: &Value) -> bool {
    let neutral: Value = serde_json::from_str(neutral).expect("the lists are JSON");
    match (neutral.as_f64(), value.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => &neutral == value,
    }
}

/// A value for a message.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_part_of_a_name_or_for_its_end() {
        assert!(matches(
            "model.layers.*.self_attn.q_proj.bias",
            "model.layers.12.self_attn.q_proj.bias"
        ));
        assert!(!matches(
            "model.layers.*.bias",
            "model.layers.12.self_attn.q_proj.bias"
        ));
        assert!(matches(
            "quantize.imatrix.*",
            "quantize.imatrix.chunks_count"
        ));
        assert!(!matches("quantize.*", "quantized"));
        assert!(!matches("*", "a.b") && matches("*", "a"));
    }

    #[test]
    fn every_neutral_value_is_json() {
        let mut lists = vec![&DECODER, &GENERATION, &TOKENIZER, &GGUF, &rope::ANY_TYPE];
        lists.extend(families::FAMILIES.map(|family| &family.keys));
        for known in lists {
            for (key, values) in known.neutral {
                let wrong = values
                    .iter()
                    .find(|v| serde_json::from_str::<Value>(v).is_err());
                assert!(wrong.is_none(), "{key}: {wrong:?}");
                assert!(
                    !known.used.contains(key) && !known.changes_nothing(key),
                    "{key} stands twice"
                );
            }
        }
        assert!(same("1.0", &serde_json::json!(1)) && !same("false", &serde_json::json!(0)));
    }
}
