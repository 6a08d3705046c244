//! Requests as the OpenAI interface has them. What is not done is refused by name.

use axum::http::StatusCode;
use marill_model::Message;
use marill_mpc::Sampling;
use serde_json::{Map, Value};

use crate::{
    client::{Client, Request},
    error::{ClientError, HttpError},
    gateway::{
        field::{present, unsupported, with_param},
        fields,
    },
};

/// A request that can be run.
pub(super) struct Parsed {
    pub(super) request: Request,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// As vLLM has it: the ids of prompt and answer beside the text.
    pub(super) return_token_ids: bool,
}

const MAX_STOPS: usize = 4;

pub(super) fn chat(body: &[u8], client: &Client) -> Result<Parsed, HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    fields::check(&fields)?;
    if present(&fields, "prompt").is_some() {
        return Err(unsupported(
            "prompt",
            "`prompt` belongs to `/v1/completions`; a conversation is in `messages`",
        ));
    }
    let messages = messages(&fields)?;
    let prompt = match goes_on(&fields, &messages)? {
        false => client.chat_prompt(&messages),
        true => client.continued_prompt(&messages),
    };
    let prompt = prompt.map_err(|error| invalid("messages", error.to_string()))?;
    finish(&fields, prompt, client, "messages")
}

pub(super) fn completion(body: &[u8], client: &Client) -> Result<Parsed, HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    fields::check(&fields)?;
    for name in [
        "messages",
        "add_generation_prompt",
        "continue_final_message",
    ] {
        if present(&fields, name).is_some() {
            return Err(unsupported(
                name,
                format!("`{name}` belongs to `/v1/chat/completions`"),
            ));
        }
    }
    let prompt = match present(&fields, "prompt") {
        Some(Value::String(text)) => plain(client, text)?,
        Some(Value::Array(parts)) => match parts.as_slice() {
            [] => return Err(invalid("prompt", "`prompt` is empty")),
            [Value::String(text)] => plain(client, text)?,
            [Value::Array(ids)] => tokens(ids, client.vocabulary())?,
            [Value::Number(_), ..] => tokens(parts, client.vocabulary())?,
            [Value::String(_) | Value::Array(_), rest @ ..]
                if rest.iter().any(|part| part.is_number()) =>
            {
                return Err(invalid(
                    "prompt",
                    "`prompt` mixes texts, lists and token ids",
                ));
            }
            [part, ..] if !part.is_string() && !part.is_array() => {
                return Err(invalid(
                    "prompt",
                    "`prompt` holds something that is neither a text nor a token id",
                ));
            }
            _ => {
                return Err(unsupported(
                    "prompt",
                    "more than one prompt in a request is not supported",
                ));
            }
        },
        _ => {
            return Err(invalid(
                "prompt",
                "`prompt` needs to be a text or a list of token ids",
            ));
        }
    };
    finish(&fields, prompt, client, "prompt")
}

fn plain(client: &Client, text: &str) -> Result<Vec<u32>, HttpError> {
    client
        .plain_prompt(text)
        .map_err(|error| invalid("prompt", error.to_string()))
}

/// Token ids as they stand, each inside the vocabulary.
fn tokens(parts: &[Value], vocabulary: usize) -> Result<Vec<u32>, HttpError> {
    let id = |(index, part): (usize, &Value)| match part.as_u64() {
        Some(id) if id < vocabulary as u64 => Ok(id as u32),
        _ if part.is_number() => {
            let message = format!(
                "`prompt[{index}]` is {part}, and token ids go from 0 to {}",
                vocabulary.saturating_sub(1)
            );
            Err(invalid("prompt", message))
        }
        _ => Err(invalid(
            "prompt",
            format!("`prompt[{index}]` is no token id"),
        )),
    };
    parts.iter().enumerate().map(id).collect()
}

/// Whether the last turn is the assistant's own beginning of the answer. An assistant's turn that
/// is last could mean two things, so the request has to say which.
fn goes_on(fields: &Map<String, Value>, messages: &[Message]) -> Result<bool, HttpError> {
    let (continued, name) = (
        boolean(fields, "continue_final_message")?,
        "continue_final_message",
    );
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

fn finish(
    fields: &Map<String, Value>,
    prompt: Vec<u32>,
    client: &Client,
    param: &str,
) -> Result<Parsed, HttpError> {
    if let Err(error) = client.room(prompt.len()) {
        let code = match error {
            ClientError::PromptTooLong { .. } => "context_length_exceeded",
            _ => "invalid_value",
        };
        return Err(with_param(
            StatusCode::BAD_REQUEST,
            param,
            code,
            error.to_string(),
        ));
    }
    let max_tokens = match positive(fields, "max_completion_tokens")? {
        Some(limit) => Some(limit),
        None => positive(fields, "max_tokens")?,
    };
    let options = present(fields, "stream_options").and_then(Value::as_object);
    let include_usage = options.map_or(Ok(false), |options| boolean(options, "include_usage"))?;
    Ok(Parsed {
        request: Request {
            prompt,
            max_tokens,
            ignore_eos: boolean(fields, "ignore_eos")?,
            min_tokens: minimum(fields, max_tokens)?,
            stop: stops(fields)?,
            keep_boundary: false,
            sampling: sampling(fields, client)?,
        },
        stream: boolean(fields, "stream")?,
        return_token_ids: boolean(fields, "return_token_ids")?,
        include_usage,
    })
}

/// `temperature` and vLLM's `top_k`. A request without a temperature gets greedy decoding; one that
/// samples must not ask for a cut that is not offered.
fn sampling(fields: &Map<String, Value>, client: &Client) -> Result<Option<Sampling>, HttpError> {
    let sampling = sampled(fields)?;
    client
        .check_sampling(sampling)
        .map_err(|error| unsupported("temperature", format!("`temperature`: {error}")))?;
    Ok(sampling)
}

fn sampled(fields: &Map<String, Value>) -> Result<Option<Sampling>, HttpError> {
    let temperature = match present(fields, "temperature") {
        None => 0.0,
        Some(value) => value
            .as_f64()
            .ok_or_else(|| invalid("temperature", "`temperature` needs to be a number"))?,
    };
    let top_k = match present(fields, "top_k").map(|value| (value.as_i64(), value)) {
        // vLLM's words for all tokens.
        None | Some((Some(0 | -1), _)) => None,
        Some((Some(k @ 1..), _)) => Some(u32::try_from(k).unwrap_or(u32::MAX)),
        Some(_) => {
            return Err(invalid(
                "top_k",
                "`top_k` needs to be a whole number of at least 1, or -1 for all",
            ));
        }
    };
    if !fields.contains_key("temperature") && matches!(top_k, Some(2..)) {
        let message = "`top_k` shapes sampling, and without `temperature` decoding is greedy";
        return Err(unsupported("top_k", message));
    }
    let sampling = Sampling::new(temperature, top_k)
        .map_err(|error| invalid("temperature", error.to_string()))?;
    for (name, neutral) in [("top_p", 1.0), ("min_p", 0.0)] {
        let Some(value) = present(fields, name) else {
            continue;
        };
        let value = value
            .as_f64()
            .ok_or_else(|| invalid(name, format!("`{name}` needs to be a number")))?;
        // A temperature of 0 is the most likely token whatever else is said; no temperature says
        // nothing of the kind.
        let is_greedy = sampling.is_none() && present(fields, "temperature").is_some();
        if value != neutral && !is_greedy {
            let reason = "only `temperature` and `top_k` shape sampling, and without \
                          `temperature` decoding is greedy";
            return Err(unsupported(name, format!("`{name}`: {reason}")));
        }
    }
    Ok(sampling)
}

/// `min_tokens`, as vLLM has it.
fn minimum(fields: &Map<String, Value>, max_tokens: Option<usize>) -> Result<usize, HttpError> {
    let Some(value) = present(fields, "min_tokens") else {
        return Ok(0);
    };
    let wanted = value
        .as_u64()
        .and_then(|wanted| usize::try_from(wanted).ok());
    match wanted {
        None => Err(invalid(
            "min_tokens",
            "`min_tokens` needs to be a whole number",
        )),
        Some(wanted) if max_tokens.is_some_and(|limit| wanted > limit) => Err(invalid(
            "min_tokens",
            "`min_tokens` is more than `max_tokens`",
        )),
        Some(wanted) => Ok(wanted),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, HttpError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad("invalid_json", "the body needs to be a JSON object")),
        Err(error) => Err(bad(
            "invalid_json",
            format!("the body is not JSON: {error}"),
        )),
    }
}

fn check_model(fields: &Map<String, Value>, served: &str) -> Result<(), HttpError> {
    match present(fields, "model") {
        None => Ok(()),
        Some(Value::String(name)) if name == served => Ok(()),
        Some(Value::String(name)) => Err(unknown_model(name, served)),
        Some(_) => Err(invalid("model", "`model` needs to be a text")),
    }
}

pub(super) fn unknown_model(name: &str, served: &str) -> HttpError {
    let message = format!("there is no model `{name}` here, only `{served}`");
    with_param(StatusCode::NOT_FOUND, "model", "model_not_found", message)
}

fn messages(fields: &Map<String, Value>) -> Result<Vec<Message>, HttpError> {
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

fn stops(fields: &Map<String, Value>) -> Result<Vec<String>, HttpError> {
    let wrong = || {
        invalid(
            "stop",
            format!("`stop` needs to be a text or up to {MAX_STOPS} texts, none of them empty"),
        )
    };
    let stops = match present(fields, "stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| item.as_str().map(str::to_string))
                .collect();
            texts.ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    match stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
        true => Err(wrong()),
        false => Ok(stops),
    }
}

fn positive(fields: &Map<String, Value>, name: &str) -> Result<Option<usize>, HttpError> {
    match present(fields, name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number @ 1..) => Ok(Some(usize::try_from(number).unwrap_or(usize::MAX))),
            _ => Err(invalid(
                name,
                format!("`{name}` needs to be a number of at least 1"),
            )),
        },
    }
}

fn boolean(fields: &Map<String, Value>, name: &str) -> Result<bool, HttpError> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(name, format!("`{name}` needs to be true or false"))),
    }
}

fn bad(code: &'static str, message: impl Into<String>) -> HttpError {
    HttpError::new(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        code,
        message,
    )
}

fn invalid(param: &str, message: impl Into<String>) -> HttpError {
    with_param(StatusCode::BAD_REQUEST, param, "invalid_value", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn ids_are_inside_the_vocabulary() {
        let of =
            |ids: Value| tokens(ids.as_array().unwrap(), 100).map_err(|error| error.param.unwrap());
        assert_eq!(of(serde_json::json!([0, 99, 5])), Ok(vec![0, 99, 5]));
        assert_eq!(of(serde_json::json!([])), Ok(vec![]));
        for wrong in [
            serde_json::json!([1, 100]),
            serde_json::json!([-1]),
            serde_json::json!([1.5]),
            serde_json::json!([1e30]),
            serde_json::json!([4294967296u64]),
            serde_json::json!([1, "2"]),
            serde_json::json!([null]),
        ] {
            assert_eq!(of(wrong), Err("prompt".to_string()));
        }
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
    fn a_temperature_draws_and_nothing_else_does() {
        let of = |json| sampled(&fields(json)).map_err(|error| error.param.unwrap());
        let sampling = |temperature, top_k| Ok(Sampling::new(temperature, top_k).unwrap());
        assert_eq!(of(serde_json::json!({})), Ok(None));
        assert_eq!(
            of(serde_json::json!({ "temperature": 0, "top_p": 0.5, "top_k": 7 })),
            Ok(None)
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 0.7, "top_p": 1, "seed": 5 })),
            sampling(0.7, None)
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 1, "top_k": 40, "min_p": 0 })),
            sampling(1.0, Some(40))
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 1, "top_k": -1 })),
            sampling(1.0, None)
        );
        for (json, param) in [
            (serde_json::json!({ "temperature": 2.5 }), "temperature"),
            (serde_json::json!({ "temperature": "hot" }), "temperature"),
            (
                serde_json::json!({ "temperature": 1, "top_k": 1.5 }),
                "top_k",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_k": -2 }),
                "top_k",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_p": 0.9 }),
                "top_p",
            ),
            (
                serde_json::json!({ "temperature": 1, "min_p": 0.1 }),
                "min_p",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_p": "0.9" }),
                "top_p",
            ),
            (serde_json::json!({ "top_p": 0.9 }), "top_p"),
            (serde_json::json!({ "min_p": 0.05 }), "min_p"),
            (serde_json::json!({ "top_k": 40 }), "top_k"),
        ] {
            assert_eq!(of(json), Err(param.to_string()));
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

    #[test]
    fn a_minimum_is_a_number_below_the_maximum() {
        let of = |json, limit| minimum(&fields(json), limit);
        assert_eq!(
            of(serde_json::json!({ "min_tokens": 3 }), Some(3)).unwrap(),
            3
        );
        assert_eq!(
            of(serde_json::json!({ "min_tokens": null }), None).unwrap(),
            0
        );
        for (json, limit) in [
            (serde_json::json!({ "min_tokens": 4 }), Some(3)),
            (serde_json::json!({ "min_tokens": -1 }), None),
        ] {
            assert_eq!(
                of(json, limit).unwrap_err().param.as_deref(),
                Some("min_tokens")
            );
        }
    }

    #[test]
    fn stops_are_texts() {
        assert_eq!(
            stops(&fields(serde_json::json!({ "stop": "x" }))).unwrap(),
            ["x"]
        );
        assert!(
            stops(&fields(serde_json::json!({ "stop": [] })))
                .unwrap()
                .is_empty()
        );
        for wrong in [
            serde_json::json!([""]),
            serde_json::json!([1]),
            serde_json::json!(["a", "b", "c", "d", "e"]),
        ] {
            assert!(stops(&fields(serde_json::json!({ "stop": wrong }))).is_err());
        }
    }
}
