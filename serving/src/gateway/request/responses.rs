//! Requests of `/v1/responses`: a text or a conversation, and what the answer repeats of them.

use marill_model::Message;
use serde_json::{Map, Value, json};

use super::{Parsed, check_model, finish, object};
use crate::{
    client::Client,
    error::HttpError,
    gateway::{
        field::{invalid, positive, present, unsupported},
        fields::{self, idle},
    },
};

/// Official bounds of `metadata`.
const MAX_METADATA: usize = 16;
const MAX_METADATA_CHARS: usize = 512;

/// A request that can be run, and the fields of it that the answer repeats.
pub(in crate::gateway) fn response(
    body: &[u8],
    client: &Client,
) -> Result<(Parsed, Map<String, Value>), HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    fields::responses::check(&fields)?;
    let instructions = match present(&fields, "instructions") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            return Err(unsupported(
                "instructions",
                "`instructions` needs to be a text; turns belong into `input`",
            ));
        }
    };
    let messages = conversation(instructions.as_deref(), &fields)?;
    let prompt = client
        .chat_prompt(&messages)
        .map_err(|error| invalid("input", error.to_string()))?;
    let limit = positive(&fields, "max_output_tokens")?;
    let parsed = finish(&fields, prompt, client, ("input", limit))?;
    let temperature = parsed
        .request
        .sampling
        .map_or(0.0, |sampling| sampling.temperature());
    let repeated = json!({
        "instructions": instructions, "max_output_tokens": limit, "temperature": temperature,
        "metadata": metadata(&fields)?, "top_p": 1.0, "user": present(&fields, "user"),
        "parallel_tool_calls": present(&fields, "parallel_tool_calls").unwrap_or(&json!(true)),
    });
    let Value::Object(repeated) = repeated else {
        unreachable!("it is written as an object");
    };
    Ok((parsed, repeated))
}

fn metadata(fields: &Map<String, Value>) -> Result<Value, HttpError> {
    let fits = |(name, value): (&String, &Value)| {
        let short = |text: &str| text.chars().count() <= MAX_METADATA_CHARS;
        short(name) && value.as_str().is_some_and(short)
    };
    match present(fields, "metadata") {
        None => Ok(json!({})),
        Some(Value::Object(parts)) if parts.len() <= MAX_METADATA && parts.iter().all(fits) => {
            Ok(json!(parts))
        }
        Some(_) => Err(invalid(
            "metadata",
            format!("`metadata` needs to be up to {MAX_METADATA} short texts by name"),
        )),
    }
}

/// The instructions and the turns of `input`.
fn conversation(
    instructions: Option<&str>,
    fields: &Map<String, Value>,
) -> Result<Vec<Message>, HttpError> {
    let turn = |role: &str, content: &str| Message {
        role: role.into(),
        content: content.into(),
    };
    let mut messages: Vec<Message> = instructions
        .iter()
        .map(|text| turn("system", text))
        .collect();
    match present(fields, "input") {
        Some(Value::String(text)) => messages.push(turn("user", text)),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                messages.push(message(index, item)?);
            }
        }
        _ => {
            return Err(invalid(
                "input",
                "`input` needs to be a text or a list of messages",
            ));
        }
    }
    if messages.last().is_some_and(|last| last.role == "assistant") {
        let message = "the last message of `input` is the assistant's: there is nothing to answer; \
            `/v1/chat/completions` continues one";
        return Err(unsupported("input", message));
    }
    Ok(messages)
}

/// Beside role and content; an answer's message is given back with the next question.
const MESSAGE_FIELDS: [&str; 6] = ["type", "role", "content", "id", "status", "phase"];

fn message(index: usize, item: &Value) -> Result<Message, HttpError> {
    let param = format!("input[{index}]");
    let refused = |what: String| Err(unsupported(&param, format!("`{param}`: {what}")));
    let Value::Object(fields) = item else {
        return Err(invalid(&param, format!("`{param}` needs to be an object")));
    };
    match item["type"].as_str() {
        Some("message") => {}
        None if item["type"].is_null() => {}
        Some(other) => return refused(format!("items of the type `{other}` are not supported")),
        None => {
            return Err(invalid(
                &param,
                format!("`{param}.type` needs to be a text"),
            ));
        }
    }
    let asks = |(name, value): &(&String, &Value)| {
        !MESSAGE_FIELDS.contains(&name.as_str()) && !idle(value)
    };
    if let Some((name, _)) = fields.iter().find(asks) {
        return refused(format!("`{name}` is not supported"));
    }
    let role = match item["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(role) => return refused(format!("the role `{role}` is not supported")),
        None => {
            return Err(invalid(
                &param,
                format!("`{param}.role` needs to be a text"),
            ));
        }
    };
    let content = match &item["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => match parts.iter().map(part).collect::<Option<Vec<_>>>() {
            Some(texts) => texts.concat(),
            None => return refused("`content` holds something else than text".into()),
        },
        _ => {
            return Err(invalid(
                &param,
                format!("`{param}.content` needs to be a text or a list of texts"),
            ));
        }
    };
    Ok(Message {
        role: role.into(),
        content,
    })
}

/// The text of a part of a message's content.
fn part(part: &Value) -> Option<&str> {
    matches!(
        part["type"].as_str(),
        Some("input_text" | "output_text" | "text")
    )
    .then(|| part["text"].as_str())
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<Vec<(String, String)>, String> {
        let fields = body.as_object().unwrap();
        let turns = conversation(body["instructions"].as_str(), fields);
        let turns = turns.map_err(|error| error.param.unwrap())?;
        Ok(turns
            .into_iter()
            .map(|turn| (turn.role, turn.content))
            .collect())
    }

    fn turns(turns: &[[&str; 2]]) -> Result<Vec<(String, String)>, String> {
        Ok(turns
            .iter()
            .map(|[role, text]| (role.to_string(), text.to_string()))
            .collect())
    }

    #[test]
    fn a_text_is_the_users_turn_behind_the_instructions() {
        assert_eq!(of(json!({ "input": "a" })), turns(&[["user", "a"]]));
        assert_eq!(
            of(json!({ "input": "a", "instructions": "b" })),
            turns(&[["system", "b"], ["user", "a"]])
        );
    }

    #[test]
    fn an_answers_message_is_taken_as_it_was_given() {
        let input = json!([
            { "role": "developer", "content": "s" },
            { "role": "user", "type": "message",
              "content": [{ "type": "input_text", "text": "a" }] },
            { "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
              "content": [{ "type": "output_text", "text": "b", "annotations": [],
                            "logprobs": [] }] },
            { "role": "user", "content": "c" },
        ]);
        let expected = [
            ["system", "s"],
            ["user", "a"],
            ["assistant", "b"],
            ["user", "c"],
        ];
        assert_eq!(of(json!({ "input": input })), turns(&expected));
    }

    #[test]
    fn items_that_are_no_text_are_refused_by_their_place() {
        let image = json!([{ "type": "input_image", "image_url": "x" }]);
        for (input, param) in [
            (json!(null), "input"),
            (json!([]), "input"),
            (json!(5), "input"),
            (json!([{ "role": "user", "content": "a" }, "b"]), "input[1]"),
            (json!([{ "role": "user", "content": image }]), "input[0]"),
            (json!([{ "role": "tool", "content": "a" }]), "input[0]"),
            (
                json!([{ "role": "user", "content": "a", "name": "n" }]),
                "input[0]",
            ),
            (
                json!([{ "type": "function_call_output", "output": "a" }]),
                "input[0]",
            ),
            (json!([{ "type": "item_reference", "id": "a" }]), "input[0]"),
            (json!([{ "role": "assistant", "content": "a" }]), "input"),
        ] {
            assert_eq!(of(json!({ "input": input })), Err(param.to_string()));
        }
    }

    #[test]
    fn metadata_is_short_texts() {
        let of = |value: Value| metadata(json!({ "metadata": value }).as_object().unwrap());
        assert_eq!(of(json!({ "a": "b" })).unwrap(), json!({ "a": "b" }));
        assert_eq!(of(json!(null)).unwrap(), json!({}));
        for bad in [
            json!({ "a": 1 }),
            json!([]),
            json!({ "a": "x".repeat(513) }),
        ] {
            assert_eq!(of(bad).unwrap_err().param.as_deref(), Some("metadata"));
        }
    }
}
