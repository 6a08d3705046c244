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
const SHARED: [(&str, &str); 5] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("system", "system"),
    ("user", "user"),
    ("assistant", "assistant"),
];
/// Names of what tools and calls of tools say, in the forms that data sets have.
const TOOLS: [&str; 9] = [
    "tool",
    "function",
    "tool_call",
    "tool_calls",
    "tool_response",
    "function_call",
    "function_response",
    "function-call",
    "observation",
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
    let text = |key: &str| match turn.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{key}` is no text")),
        None => Err(format!("it has no `{key}`")),
    };
    let role = if turn.contains_key("role") {
        "role"
    } else {
        "from"
    };
    // What a tool says is part of a call that is not offered either; the turn's name says it best.
    if let Some(tool) = turn.get(role).and_then(Value::as_str)
        && TOOLS.contains(&tool)
    {
        return Err(format!(
            "`{role}` is `{tool}`, and turns of tools are not offered\n\n\
             hint: leave conversations with tools out of the rows"
        ));
    }
    offered(turn)?;
    if turn.contains_key("role") || !turn.contains_key("from") {
        let role = text("role")?;
        if !ROLES.contains(&role.as_str()) {
            return Err(unknown("role", &role, &ROLES));
        }
        return Ok(Turn {
            role,
            content: words(turn, "content")?,
        });
    }
    let from = text("from")?;
    let Some((_, role)) = SHARED.iter().find(|(name, _)| *name == from) else {
        return Err(unknown("from", &from, &SHARED.map(|(name, _)| name)));
    };
    Ok(Turn {
        role: (*role).into(),
        content: words(turn, "value")?,
    })
}

/// What a turn says: a text, or a list of parts that are texts, one behind another.
fn words(turn: &Map<String, Value>, key: &str) -> Result<String, String> {
    let parts = match turn.get(key) {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        Some(Value::Null) => return Err(format!("`{key}` is no text but null")),
        Some(_) => return Err(format!("`{key}` is no text and no list of parts")),
        None => return Err(format!("it has no `{key}`")),
    };
    let text = |nth: usize, part: &Value| {
        let refused = |why: &str| format!("`{key}`, part {nth} {why}");
        let part = part.as_object().ok_or_else(|| refused("is no object"))?;
        match part.get("type").and_then(Value::as_str) {
            Some("text") => {}
            Some(other) => {
                let why = format!("is of type `{other}`, and only `text` is learned");
                return Err(refused(&why));
            }
            None => return Err(refused("has no `type`")),
        }
        // Lists of parts that became columns have the keys of every type, most of them null.
        let odd = |(name, value): &(&String, &Value)| {
            !["type", "text", "cache_control"].contains(&name.as_str()) && !value.is_null()
        };
        if let Some((name, _)) = part.iter().find(odd) {
            return Err(refused(&format!("has `{name}`, which is not learned")));
        }
        let text = part.get("text").and_then(Value::as_str);
        text.map(str::to_owned)
            .ok_or_else(|| refused("has no `text`"))
    };
    (1..)
        .zip(parts)
        .map(|(nth, part)| text(nth, part))
        .collect()
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
