//! Conversations: `messages` with `role` and `content`, or ShareGPT's `conversations` with `from`
//! and `value`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Record;

/// One turn of a conversation; `role` is `system`, `user` or `assistant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

/// The roles that chat templates know.
const ROLES: [&str; 3] = ["system", "user", "assistant"];
/// ShareGPT's names for them.
const SHARED: [(&str, &str); 3] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("system", "system"),
];
/// Parts of a row or a turn that would change what is said or learned, and are not offered.
const NOT_OFFERED: [&str; 11] = [
    "system",
    "system_prompt",
    "tools",
    "tool_calls",
    "functions",
    "function_call",
    "weight",
    "images",
    "audio",
    "reasoning_content",
    "refusal",
];

/// The turns of a chat, and the last one's words: it must be the assistant's, and answers the ones
/// before.
pub(crate) fn turns(record: &Record) -> Result<(Vec<Turn>, String), String> {
    let present = |key: &str| record.get(key).filter(|value| !value.is_null());
    let (column, listed) = match (present("messages"), present("conversations")) {
        (Some(turns), None) => ("messages", turns),
        (None, Some(turns)) => ("conversations", turns),
        (Some(_), Some(_)) => return Err("the row has both `messages` and `conversations`".into()),
        (None, None) => return Err("the row has neither `messages` nor `conversations`".into()),
    };
    offered(record)?;
    let listed = listed
        .as_array()
        .ok_or_else(|| format!("`{column}` is no list of turns"))?;
    let mut turns = Vec::with_capacity(listed.len());
    for (nth, turn) in (1..).zip(listed) {
        turns.push(read(turn).map_err(|reason| format!("`{column}`, turn {nth}: {reason}"))?);
    }
    match turns.pop() {
        Some(last) if last.role == "assistant" => Ok((turns, last.content)),
        _ => Err(format!("`{column}` must end with the assistant's turn")),
    }
}

fn read(turn: &Value) -> Result<Turn, String> {
    let turn = turn.as_object().ok_or("it is no object")?;
    offered(turn)?;
    let text = |key: &str| match turn.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{key}` is no text")),
        None => Err(format!("it has no `{key}`")),
    };
    if turn.contains_key("role") || !turn.contains_key("from") {
        let role = text("role")?;
        if !ROLES.contains(&role.as_str()) {
            return Err(unknown("role", &role, &ROLES));
        }
        return Ok(Turn {
            role,
            content: text("content")?,
        });
    }
    let from = text("from")?;
    let Some((_, role)) = SHARED.iter().find(|(name, _)| *name == from) else {
        return Err(unknown("from", &from, &SHARED.map(|(name, _)| name)));
    };
    Ok(Turn {
        role: (*role).into(),
        content: text("value")?,
    })
}

fn unknown(key: &str, found: &str, known: &[&str]) -> String {
    let known = known
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    format!("`{key}` is `{found}`, and a chat knows {known} only")
}

/// Refuses what would be left out in silence; nothing, empty lists and texts and a weight of 1 say
/// nothing.
fn offered(part: &Map<String, Value>) -> Result<(), String> {
    for key in NOT_OFFERED {
        let says_nothing = match part.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Number(weight)) => key == "weight" && weight.as_f64() == Some(1.0),
            Some(_) => false,
        };
        if !says_nothing {
            let hint = if key.starts_with("system") {
                "make it the first turn"
            } else {
                "leave it out of the rows"
            };
            return Err(format!("`{key}` is not offered\n\nhint: {hint}"));
        }
    }
    Ok(())
}
