//! Which rotation a configuration asks for, in the spelling of transformers 4 (`rope_theta`,
//! `rope_scaling`) or 5 (`rope_parameters`).

use serde_json::{Map, Value};

use super::{Account, Known, shortened};
use crate::{
    ModelError,
    rotation::{RopeScaling, longrope_attention, yarn_attention},
};

/// The types, by their names.
const TYPES: [(&str, Known); 6] = [
    ("default", keys(&[])),
    ("linear", keys(&["factor"])),
    ("dynamic", keys(&["factor", ORIGINAL])),
    (
        "llama3",
        keys(&["factor", "low_freq_factor", "high_freq_factor", ORIGINAL]),
    ),
    (
        "yarn",
        keys(&[
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            ORIGINAL,
        ]),
    ),
    (
        "longrope",
        keys(&[
            "factor",
            "attention_factor",
            "short_factor",
            "long_factor",
            ORIGINAL,
        ]),
    ),
];

const ORIGINAL: &str = "original_max_position_embeddings";

/// What a table may have beside the keys of its type.
pub(super) const ANY_TYPE: Known = Known {
    used: &["rope_theta", "rope_type", "type"],
    harmless: &[ORIGINAL],
    neutral: &[
        ("factor", &["1.0"]),
        ("partial_rotary_factor", &["1.0"]),
        ("attention_factor", &["1.0"]),
        // How far the scaling was trained, which changes nothing that is computed.
        ("finetuned", &["true", "false"]),
    ],
};

const fn keys(used: &'static [&'static str]) -> Known {
    Known {
        used,
        harmless: &[],
        neutral: &[],
    }
}

/// The base of the frequencies and their scaling; `theta` where no key names a base.
///
/// # Errors
/// [`ModelError::Unaccounted`] for a type or key that is not computed, [`ModelError::Corrupt`] for
/// keys that contradict each other.
pub(crate) fn rotation(
    account: &Account<'_>,
    theta: f64,
    max_position_embeddings: usize,
) -> Result<(f64, Option<RopeScaling>), ModelError> {
    let mut base = account
        .number("rope_theta")?
        .map(|theta| ("rope_theta".to_owned(), theta));
    let mut found: Option<(&str, Option<RopeScaling>)> = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(table) = account.table(key)? else {
            continue;
        };
        if let Some((kind, value)) = table.iter().find(|(_, value)| value.is_object()) {
            let why = "is a table: layers that rotate differently are not computed";
            return Err(account.refuse(&format!("{key}.{kind}"), value, why));
        }
        let table = Table {
            account,
            key,
            table,
        };
        let scaling = table.scaling(max_position_embeddings)?;
        if let Some((other, _)) = found.as_ref().filter(|(_, other)| *other != scaling) {
            let reason = format!("`{other}` and `{key}` contradict each other");
            return Err(ModelError::corrupt(&account.path, reason));
        }
        found = Some((key, scaling));
        let Some(new) = table.number("rope_theta")? else {
            continue;
        };
        let place = format!("{key}.rope_theta");
        if let Some((other, old)) = base.filter(|(_, old)| *old != new) {
            let reason = format!("`{other}` = {old} and `{place}` = {new} contradict each other");
            return Err(ModelError::corrupt(&account.path, reason));
        }
        base = Some((place, new));
    }
    let scaling = found.and_then(|(_, scaling)| scaling);
    Ok((base.map_or(theta, |(_, theta)| theta), scaling))
}

/// `rope_scaling` or `rope_parameters`.
struct Table<'a> {
    account: &'a Account<'a>,
    key: &'static str,
    table: Map<String, Value>,
}

impl Table<'_> {
    fn place(&self, name: &str) -> String {
        format!("{}.{name}", self.key)
    }

    fn refuse(&self, name: &str, why: &str) -> ModelError {
        let value = self.table.get(name).cloned().unwrap_or_default();
        self.account.refuse(&self.place(name), &value, why)
    }

    fn wrong(&self, name: &str, what: &str) -> ModelError {
        let value = self.table.get(name).cloned().unwrap_or_default();
        let value = shortened(&value.to_string());
        let reason = format!("`{}` = {value} is no {what}", self.place(name));
        ModelError::corrupt(&self.account.path, reason)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let value = self.table.get(name);
        value
            .map(|value| value.as_f64().ok_or_else(|| self.wrong(name, "number")))
            .transpose()
    }

    fn needed(&self, name: &str) -> Result<f64, ModelError> {
        let missing = || self.refuse(name, "is no number, and this `rope_type` needs one");
        self.number(name)?.ok_or_else(missing)
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        let list = self.table.get(name).and_then(Value::as_array);
        let list = list.ok_or_else(|| self.refuse(name, "is no list of numbers"))?;
        let numbers = list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
        numbers.ok_or_else(|| self.wrong(name, "list of numbers"))
    }

    /// The context before the scaling: a key beside the table comes first, as some models have it.
    fn original(&self) -> Result<Option<usize>, ModelError> {
        if let Some(original) = self.account.size(ORIGINAL)? {
            return Ok(Some(original));
        }
        let Some(value) = self.table.get(ORIGINAL) else {
            return Ok(None);
        };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size > 0);
        size.map(Some)
            .ok_or_else(|| self.wrong(ORIGINAL, "number of positions"))
    }

    /// The type that the table names; the one that scales nothing where it names none.
    fn known(&self) -> Result<(&'static str, &'static Known), ModelError> {
        let mut found = &TYPES[0];
        for name in ["type", "rope_type"] {
            let Some(kind) = self.table.get(name) else {
                continue;
            };
            found = TYPES
                .iter()
                .find(|(known, _)| kind.as_str() == Some(known))
                .ok_or_else(|| {
                    let names = TYPES.map(|(name, _)| format!("\"{name}\"")).join(" or ");
                    self.refuse(name, &format!("is not computed, only {names}"))
                })?;
        }
        Ok((found.0, &found.1))
    }

    fn scaling(&self, positions: usize) -> Result<Option<RopeScaling>, ModelError> {
        let (kind, known) = self.known()?;
        let prefix = self.place("");
        self.account
            .check_table(&prefix, &self.table, &[known, &ANY_TYPE])?;
        let original = self.original()?;
        Ok(Some(match kind {
            "linear" => RopeScaling::Linear {
                factor: self.needed("factor")?,
            },
            "dynamic" => {
                if original.is_some_and(|original| original != positions) {
                    let why =
                        format!("is not computed, only `max_position_embeddings` ({positions})");
                    return Err(self.refuse(ORIGINAL, &why));
                }
                RopeScaling::Dynamic {
                    factor: self.needed("factor")?,
                }
            }
            "llama3" => RopeScaling::Llama3 {
                factor: self.needed("factor")?,
                low_freq_factor: self.needed("low_freq_factor")?,
                high_freq_factor: self.needed("high_freq_factor")?,
                original_max_position_embeddings: original.unwrap_or(positions),
            },
            "yarn" => self.yarn(original.unwrap_or(positions), positions)?,
            "longrope" => self.longrope(original.unwrap_or(positions), positions)?,
            _ => return Ok(None),
        }))
    }

    fn yarn(&self, original: usize, positions: usize) -> Result<RopeScaling, ModelError> {
        let ratio = positions as f64 / original as f64;
        let factor = self.number("factor")?.unwrap_or(ratio);
        let mscale = self.number("mscale")?;
        let all_dim = self.number("mscale_all_dim")?;
        let attention = self.number("attention_factor")?;
        // A zero counts as absent, as it does in transformers.
        let turns = |name: &str, usual: f64| -> Result<f64, ModelError> {
            Ok(self.number(name)?.filter(|n| *n != 0.0).unwrap_or(usual))
        };
        let truncate = match self.table.get("truncate") {
            None => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(_) => return Err(self.refuse("truncate", "is neither true nor false")),
        };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor: attention.unwrap_or_else(|| yarn_attention(factor, mscale, all_dim)),
            beta_fast: turns("beta_fast", 32.0)?,
            beta_slow: turns("beta_slow", 1.0)?,
            original_max_position_embeddings: original,
            truncate,
        })
    }

    fn longrope(&self, original: usize, positions: usize) -> Result<RopeScaling, ModelError> {
        let ratio = positions as f64 / original as f64;
        let attention = self.number("attention_factor")?;
        let factor = self.number("factor")?.unwrap_or(ratio);
        // Versions of transformers differ in which one counts.
        if attention.is_none() && (factor - ratio).abs() > 1e-6 * ratio {
            let why = format!(
                "is not `max_position_embeddings` over `{ORIGINAL}`, which is {ratio}; \
                 `attention_factor` says which one is meant"
            );
            return Err(self.refuse("factor", &why));
        }
        Ok(RopeScaling::Longrope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            attention_factor: attention.unwrap_or_else(|| longrope_attention(factor, original)),
            original_max_position_embeddings: original,
        })
    }
}
