//! Which maps of a model an adapter of PEFT changes, by the patterns of its configuration.
//!
//! PEFT compares names of modules as the model has them, `model.layers.3.self_attn.q_proj`, with
//! Python's `re`: `fullmatch` for a text, whole names or ends of names for a list.

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::{ModelError, account::Account};

/// Steps that a pattern may take on one name: names are short, and a file is foreign.
const MOST_STEPS: usize = 100_000;
/// Longest pattern.
const LONGEST: usize = 4_096;

/// `target_modules` or `exclude_modules`.
enum Names {
    All,
    Pattern(Box<Regex>),
    Ends(Vec<String>),
}

/// What `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern` say.
pub(super) struct Selection {
    targets: Names,
    excluded: Names,
    /// `None` for every layer.
    layers: Option<Vec<usize>>,
}

/// A table from patterns of names to numbers: `rank_pattern`, `alpha_pattern`.
pub(super) struct Patterns {
    /// Each as the file has it, as it is compared, and its number.
    entries: Vec<(String, Regex, f64)>,
}

/// The layer of a module's name.
fn layer_of(name: &str, patterns: &[Regex]) -> Option<usize> {
    patterns.iter().find_map(|pattern| {
        let found = pattern.captures(name).ok()??;
        found.get(1)?.as_str().parse().ok()
    })
}

fn regex(account: &Account<'_>, key: &str, pattern: &str) -> Result<Regex, ModelError> {
    let wrong = |why: &str| account.refuse(key, &Value::from(pattern), why);
    if pattern.len() > LONGEST {
        return Err(wrong("is too long a pattern"));
    }
    RegexBuilder::new(pattern)
        .backtrack_limit(MOST_STEPS)
        .build()
        .map_err(|error| wrong(&format!("is no pattern that is understood here: {error}")))
}

/// A text, or a list of texts.
fn texts(account: &Account<'_>, key: &str) -> Result<Option<Vec<String>>, ModelError> {
    let Some(value) = account.keys.get(key) else {
        return Ok(None);
    };
    let all = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list
            .iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    };
    let wrong = || account.refuse(key, value, "is neither a text nor a list of texts");
    all.map(Some).ok_or_else(wrong)
}

impl Names {
    fn read(account: &Account<'_>, key: &str) -> Result<Option<Self>, ModelError> {
        let Some(names) = texts(account, key)? else {
            return Ok(None);
        };
        let is_text = account.keys[key].is_string();
        Ok(Some(match names.as_slice() {
            [all] if is_text && all.eq_ignore_ascii_case("all-linear") => Self::All,
            [pattern] if is_text => {
                let whole = format!("^(?:{pattern})$");
                Self::Pattern(Box::new(regex(account, key, &whole)?))
            }
            _ => Self::Ends(names),
        }))
    }

    fn has(&self, name: &str) -> Result<bool, String> {
        match self {
            Self::All => Ok(true),
            Self::Pattern(pattern) => pattern.is_match(name).map_err(|error| error.to_string()),
            Self::Ends(ends) => Ok(ends.iter().any(|end| {
                name.strip_suffix(end.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })),
        }
    }
}

impl Selection {
    pub(super) fn read(account: &Account<'_>) -> Result<Self, ModelError> {
        let targets = Names::read(account, "target_modules")?;
        let targets = targets.ok_or_else(|| account.missing("target_modules"))?;
        let excluded = Names::read(account, "exclude_modules")?;
        let layers = layers(account)?;
        if layers.is_some() && !matches!(targets, Names::Ends(_)) {
            let value = &account.keys["layers_to_transform"];
            let why = "belongs to a list of `target_modules`, and they are a pattern";
            return Err(account.refuse("layers_to_transform", value, why));
        }
        let patterns = match texts(account, "layers_pattern")? {
            Some(names) if !names.iter().all(String::is_empty) => names,
            _ => vec![r"[^.]*".into()],
        };
        let patterns = patterns.iter().map(|name| {
            let place = format!(r"^.*\.(?:{name})\.(\d+)\.");
            regex(account, "layers_pattern", &place)
        });
        let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
        // Names of this crate's models have their layers in one place.
        let probe = "model.layers.0.self_attn.q_proj";
        if layers.is_some() && layer_of(probe, &patterns) != Some(0) {
            let value = account.keys.get("layers_pattern").unwrap_or(&Value::Null);
            let why = "is not where the layers of this model are, `layers`";
            return Err(account.refuse("layers_pattern", value, why));
        }
        Ok(Self {
            targets,
            excluded: excluded.unwrap_or(Names::Ends(Vec::new())),
            layers,
        })
    }

    /// Whether the map `name` of a layer has factors.
    pub(super) fn has(&self, layer: usize, name: &str) -> Result<bool, String> {
        if self.excluded.has(name)? {
            return Ok(false);
        }
        // PEFT asks for the layer only where a name is not written out.
        let written = matches!(&self.targets, Names::Ends(ends) if ends.iter().any(|e| e == name));
        let listed = self
            .layers
            .as_ref()
            .is_none_or(|layers| layers.contains(&layer));
        Ok(written || listed && self.targets.has(name)?)
    }

    /// The layers that are named one by one, where they are.
    pub(super) fn layers(&self) -> Option<&[usize]> {
        self.layers.as_deref()
    }
}

/// `layers_to_transform`: a number, or a list that is not empty.
fn layers(account: &Account<'_>) -> Result<Option<Vec<usize>>, ModelError> {
    let key = "layers_to_transform";
    let Some(value) = account.keys.get(key) else {
        return Ok(None);
    };
    let one = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
    let layers: Option<Vec<usize>> = match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => one(value).map(|layer| vec![layer]),
    };
    let layers = layers.ok_or_else(|| account.refuse(key, value, "is no list of layers"))?;
    Ok((!layers.is_empty()).then_some(layers))
}

impl Patterns {
    pub(super) fn read(account: &Account<'_>, key: &str) -> Result<Self, ModelError> {
        let table: Map<String, Value> = account.table(key)?.unwrap_or_default();
        let entries = table.iter().map(|(pattern, value)| {
            let place = format!("{key}.{pattern}");
            let number = value
                .as_f64()
                .ok_or_else(|| account.refuse(&place, value, "is no number"))?;
            // As PEFT asks it: the whole name, or an end of it behind a dot.
            let whole = format!(r"^(?:.*\.)?(?:{pattern})$");
            Ok((pattern.clone(), regex(account, &place, &whole)?, number))
        });
        let entries = entries.collect::<Result<_, ModelError>>()?;
        Ok(Self { entries })
    }

    /// The number of the patterns that `name` meets. PEFT takes the first one of the file; here
    /// they must agree.
    pub(super) fn get(&self, name: &str) -> Result<Option<f64>, String> {
        let mut found: Option<(&str, f64)> = None;
        for (pattern, compared, value) in &self.entries {
            if !compared.is_match(name).map_err(|error| error.to_string())? {
                continue;
            }
            match found {
                Some((other, number)) if number != *value => {
                    return Err(format!(
                        "`{other}` and `{pattern}` both mean `{name}` and have other numbers"
                    ));
                }
                _ => found = Some((pattern, *value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }
}
