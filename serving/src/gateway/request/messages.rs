//! The conversation of a request.

use marill_model::Message;
use serde_json::{Map, Value};

use crate::{
    error::HttpError,
    gateway::{
        field::{boolean, invalid, present, unsupported},
        fields,
    },
};

/// Whether the last turn is the assistant's own beginning of the answer. An assistant's turn that
/// is last could mean two things, so the request has to say which.
pub(super) fn goes_on(
    fields: &Map<String, Value>,
    messages: &[Message],
) -> Result<bool, HttpError> {
    let continued = boolean(fields, "continue_final_message")?;
    let name = "continue_final_message";
    let opened = match present(fields, "add_generation_prompt") {
        None => None,
        Some(_) => Some(boolean(fields, "add_generation_prompt")?),
    };
    let is_last = messages
        .last()
        .is_some_and(|message| message.role == "assistant");
    match (is_last, continued, opened) {
        (_, true, Some(true)) => Err(invalid(
            name,
            "`continue_final_message` and `add_generation_prompt` exclude each other",
        )),
        (false, true, _) => Err(invalid(
            name,
            "`continue_final_message`: the last message is not the assistant's",
        )),
        (true, true, _) => Ok(true),
        (_, false, Some(false)) => Err(unsupported(
            "add_generation_prompt",
            "`add_generation_prompt`: without it there is nothing to answer; \
             `continue_final_message` continues a turn",
        )),
        (true, false, None) => {
            let param = format!("messages[{}]", messages.len() - 1);
            let message = "the last message is the assistant's: `continue_final_message` (true) \
                continues it, `add_generation_prompt` (true) begins a new turn after it";
            Err(unsupported(&param, message))
        }
        (_, false, _) => Ok(false),
    }
}

pub(super) fn messages(fields: &Map<String, Value>) -> Result<Vec<Message>, HttpError> {
    let Some(Value::Array(items)) = present(fields, "messages") else {
        return Err(invalid("messages", "`messages` needs to be a list"));
    };
    if items.is_empty() {
        return Err(invalid("messages", "`messages` is empty"));
    }
    items
        .iter()
        .enumerate()
        .map(|(index, item)| message(index, item))
        .collect()
}

/// Beside role and content; those of answers of the interface are given back with the next
/// question.
const MESSAGE_FIELDS: [&str; 3] = ["role", "content", "name"];

fn message(index: usize, item: &Value) -> Result<Message, HttpError> {
    let param = format!("messages[{index}]");
    let Value::Object(fields) = item else {
        return Err(invalid(&param, format!("`{param}` needs to be an object")));
    };
    let asks = |(name, value): &(&String, &Value)| {
        !MESSAGE_FIELDS.contains(&name.as_str()) && !fields::idle(value)
    };
    if let Some((name, _)) = fields.iter().find(asks) {
        return Err(unsupported(
            &param,
            format!("`{param}.{name}` is not supported"),
        ));
    }
    let role = match item["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(role) => {
            return Err(unsupported(
                &param,
                format!("the role `{role}` is not supported"),
            ));
        }
        None => {
            return Err(invalid(
                &param,
                format!("`{param}.role` needs to be a text"),
            ));
        }
    };
    let content = match &item["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(
                |part| match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => Ok(text),
                    _ => Err(unsupported(
                        &param,
                        format!("`{param}.content` holds something else than text"),
                    )),
                },
            )
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
        // An answer that was a call of a tool, or that was broken off before its first token.
        Value::Null if role == "assistant" => String::new(),
        _ => {
            return Err(invalid(
                &param,
                format!("`{param}.content` needs to be a text"),
            ));
        }
    };
    Ok(Message {
        role: role.to_string(),
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_last_assistant_turn_is_continued_only_on_request() {
        let turn = |role: &str| Message {
            role: role.into(),
            content: "x".into(),
        };
        let [asked, begun] = [vec![turn("user")], vec![turn("user"), turn("assistant")]];
        let of = |json, messages: &[Message]| {
            goes_on(&fields(json), messages).map_err(|error| error.param.unwrap())
        };
        assert_eq!(of(serde_json::json!({}), &asked), Ok(false));
        assert_eq!(
            of(serde_json::json!({ "add_generation_prompt": true }), &asked),
            Ok(false)
        );
        assert_eq!(
            of(
                serde_json::json!({ "continue_final_message": true }),
                &begun
            ),
            Ok(true)
        );
        assert_eq!(
            of(
                serde_json::json!({
                    "continue_final_message": true, "add_generation_prompt": false
                }),
                &begun
            ),
            Ok(true)
        );
        assert_eq!(
            of(serde_json::json!({ "add_generation_prompt": true }), &begun),
            Ok(false)
        );
        for (json, messages, param) in [
            (serde_json::json!({}), &begun, "messages[1]"),
            (
                serde_json::json!({ "continue_final_message": false }),
                &begun,
                "messages[1]",
            ),
            (
                serde_json::json!({ "continue_final_message": true }),
                &asked,
                "continue_final_message",
            ),
            (
                serde_json::json!({ "continue_final_message": "yes" }),
                &begun,
                "continue_final_message",
            ),
            (
                serde_json::json!({ "add_generation_prompt": false }),
                &asked,
                "add_generation_prompt",
            ),
            (
                serde_json::json!({
                    "continue_final_message": true, "add_generation_prompt": true
                }),
                &begun,
                "continue_final_message",
            ),
        ] {
            assert_eq!(of(json, messages), Err(param.to_string()));
        }
    }

    #[test]
    fn an_assistant_may_have_said_nothing_and_nobody_else() {
        for silent in [
            serde_json::json!({ "role": "assistant", "content": null }),
            serde_json::json!({ "role": "assistant" }),
        ] {
            assert_eq!(message(1, &silent).unwrap().content, "");
        }
        let answered = serde_json::json!({
            "role": "assistant", "content": "a", "refusal": null, "annotations": [], "audio": null,
            "tool_calls": [], "name": "m",
        });
        assert_eq!(message(1, &answered).unwrap().content, "a");
        for (wrong, said) in [
            (
                serde_json::json!({ "role": "user", "content": null }),
                "content",
            ),
            (serde_json::json!({ "role": "system" }), "content"),
            (
                serde_json::json!({ "role": "user", "content": 5 }),
                "content",
            ),
            (
                serde_json::json!({
                    "role": "assistant", "content": null, "tool_calls": [{ "id": "1" }]
                }),
                "tool_calls",
            ),
            (
                serde_json::json!({ "role": "assistant", "content": "a", "reasoning": "b" }),
                "reasoning",
            ),
            (
                serde_json::json!({ "role": "user", "content": ["a"] }),
                "content",
            ),
            (
                serde_json::json!({ "role": "user", "content": [{ "type": "text" }] }),
                "content",
            ),
            (serde_json::json!("hello"), "object"),
        ] {
            let error = message(1, &wrong).unwrap_err();
            assert!(
                error.param.as_deref() == Some("messages[1]") && error.message.contains(said),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn message_parts_are_joined_and_other_roles_refused() {
        let parts = serde_json::json!({
            "role": "developer",
            "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }],
        });
        assert_eq!(
            message(0, &parts).unwrap(),
            Message {
                role: "system".into(),
                content: "ab".into()
            }
        );
        let image = serde_json::json!({
            "role": "user", "content": [{ "type": "image_url", "image_url": {} }]
        });
        assert_eq!(
            message(3, &image).unwrap_err().param.as_deref(),
            Some("messages[3]")
        );
        assert!(message(0, &serde_json::json!({ "role": "tool", "content": "x" })).is_err());
    }
}
