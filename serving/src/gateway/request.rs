//! Requests as the OpenAI interface has them: unknown fields are ignored, unsupported ones refused by name.

use axum::http::StatusCode;
use marill_model::Message;
use marill_mpc::Sampling;
use serde_json::{Map, Value};

use crate::ServingError;
use crate::client::{Client, Request};
use crate::web::HttpError;

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
    refuse_unsupported(&fields)?;
    let messages = messages(&fields)?;
    let prompt = client.chat_prompt(&messages).map_err(|error| invalid("messages", error.to_string()))?;
    finish(&fields, prompt, client, "messages")
}

pub(super) fn completion(body: &[u8], client: &Client) -> Result<Parsed, HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    refuse_unsupported(&fields)?;
    let prompt = match present(&fields, "prompt") {
        Some(Value::String(text)) => plain(client, text)?,
        Some(Value::Array(parts)) => match parts.as_slice() {
            [Value::String(text)] => plain(client, text)?,
            [Value::Number(_), ..] => tokens(parts)?,
            _ => return Err(unsupported("prompt", "more than one prompt in a request is not supported")),
        },
        _ => return Err(invalid("prompt", "`prompt` needs to be a text or a list of token ids")),
    };
    finish(&fields, prompt, client, "prompt")
}

fn plain(client: &Client, text: &str) -> Result<Vec<u32>, HttpError> {
    client.plain_prompt(text).map_err(|error| invalid("prompt", error.to_string()))
}

fn tokens(parts: &[Value]) -> Result<Vec<u32>, HttpError> {
    let id = |part: &Value| part.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = parts.iter().map(id).collect();
    ids.ok_or_else(|| invalid("prompt", "`prompt` holds something that is no token id"))
}

fn finish(fields: &Map<String, Value>, prompt: Vec<u32>, client: &Client, param: &str) -> Result<Parsed, HttpError> {
    if let Err(error) = client.room(prompt.len()) {
        let code = match error {
            ServingError::PromptTooLong { .. } => "context_length_exceeded",
            _ => "invalid_value",
        };
        return Err(with_param(StatusCode::BAD_REQUEST, param, code, error.to_string()));
    }
    let max_tokens = match positive(fields, "max_completion_tokens")? {
        Some(limit) => Some(limit),
        None => positive(fields, "max_tokens")?,
    };
    let options = present(fields, "stream_options").and_then(|options| options.get("include_usage"));
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
        include_usage: options.and_then(Value::as_bool).unwrap_or(false),
    })
}

/// `temperature` and vLLM's `top_k`. A request without a temperature gets the most likely tokens; one that samples must
/// not ask for a cut that is not offered.
fn sampling(fields: &Map<String, Value>, client: &Client) -> Result<Option<Sampling>, HttpError> {
    let sampling = drawn(fields)?;
    client.check_sampling(sampling).map_err(|error| unsupported("temperature", format!("`temperature`: {error}")))?;
    Ok(sampling)
}

fn drawn(fields: &Map<String, Value>) -> Result<Option<Sampling>, HttpError> {
    let temperature = match present(fields, "temperature") {
        None => 0.0,
        Some(value) => value.as_f64().ok_or_else(|| invalid("temperature", "`temperature` needs to be a number"))?,
    };
    let top_k = match present(fields, "top_k").map(|value| (value.as_i64(), value)) {
        // vLLM's words for all tokens.
        None | Some((Some(0 | -1), _)) => None,
        Some((Some(k @ 1..), _)) => Some(u32::try_from(k).unwrap_or(u32::MAX)),
        Some(_) => return Err(invalid("top_k", "`top_k` needs to be a whole number of at least 1, or -1 for all")),
    };
    let sampling = Sampling::new(temperature, top_k).map_err(|error| invalid("temperature", error.to_string()))?;
    for (name, neutral) in [("top_p", 1.0), ("min_p", 0.0)] {
        let value = present(fields, name).map(|value| value.as_f64());
        if sampling.is_some() && value.is_some_and(|value| value != Some(neutral)) {
            let reason = "only `temperature` and `top_k` shape the draw";
            return Err(unsupported(name, format!("`{name}`: {reason}")));
        }
    }
    Ok(sampling)
}

/// `min_tokens`, as vLLM has it.
fn minimum(fields: &Map<String, Value>, max_tokens: Option<usize>) -> Result<usize, HttpError> {
    let Some(value) = present(fields, "min_tokens") else { return Ok(0) };
    let wanted = value.as_u64().and_then(|wanted| usize::try_from(wanted).ok());
    match wanted {
        None => Err(invalid("min_tokens", "`min_tokens` needs to be a whole number")),
        Some(wanted) if max_tokens.is_some_and(|limit| wanted > limit) => {
            Err(invalid("min_tokens", "`min_tokens` is more than `max_tokens`"))
        }
        Some(wanted) => Ok(wanted),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, HttpError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad("invalid_json", "the body needs to be a JSON object")),
        Err(error) => Err(bad("invalid_json", format!("the body is not JSON: {error}"))),
    }
}

/// A field that is there and not null.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
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

/// Fields whose value asks for something that is not offered; neutral values pass.
fn refuse_unsupported(fields: &Map<String, Value>) -> Result<(), HttpError> {
    let empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Bool(wish) => !wish,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    };
    let is = |value: &Value, number: u64| value.as_u64() == Some(number);
    let one = "only one answer per request is supported";
    type Neutral<'a> = &'a dyn Fn(&Value) -> bool;
    let rules: [(&str, Neutral<'_>, &str); 17] = [
        ("n", &|value| is(value, 1), one),
        ("best_of", &|value| is(value, 1), one),
        ("tools", &empty, "tools are not supported"),
        ("functions", &empty, "functions are not supported"),
        ("tool_choice", &|value| value == "none", "tools are not supported"),
        ("function_call", &|value| value == "none", "functions are not supported"),
        ("logprobs", &|value| value == &Value::Bool(false), "only tokens are revealed, never their probabilities"),
        ("top_logprobs", &empty, "only tokens are revealed, never their probabilities"),
        ("presence_penalty", &empty, "penalties are not supported"),
        ("frequency_penalty", &empty, "penalties are not supported"),
        ("logit_bias", &empty, "a bias on logits is not supported"),
        ("response_format", &|value| value["type"] == "text", "only plain text is supported"),
        ("modalities", &|value| value == &serde_json::json!(["text"]), "only text is supported"),
        ("audio", &empty, "only text is supported"),
        ("echo", &empty, "echoing the prompt is not supported"),
        ("suffix", &|value| value == "", "a suffix is not supported"),
        ("prediction", &empty, "predicted outputs are not supported"),
    ];
    for (name, neutral, reason) in rules {
        if present(fields, name).is_some_and(|value| !neutral(value)) {
            return Err(unsupported(name, format!("`{name}`: {reason}")));
        }
    }
    Ok(())
}

fn messages(fields: &Map<String, Value>) -> Result<Vec<Message>, HttpError> {
    let Some(Value::Array(items)) = present(fields, "messages") else {
        return Err(invalid("messages", "`messages` needs to be a list"));
    };
    if items.is_empty() {
        return Err(invalid("messages", "`messages` is empty"));
    }
    items.iter().enumerate().map(|(index, item)| message(index, item)).collect()
}

fn message(index: usize, item: &Value) -> Result<Message, HttpError> {
    let param = format!("messages[{index}]");
    let role = match item["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(role) => return Err(unsupported(&param, format!("the role `{role}` is not supported"))),
        None => return Err(invalid(&param, format!("`{param}.role` needs to be a text"))),
    };
    let content = match &item["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                _ => Err(unsupported(&param, format!("`{param}.content` holds something else than text"))),
            })
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
        _ => return Err(invalid(&param, format!("`{param}.content` needs to be a text"))),
    };
    Ok(Message { role: role.to_string(), content })
}

fn stops(fields: &Map<String, Value>) -> Result<Vec<String>, HttpError> {
    let wrong = || invalid("stop", format!("`stop` needs to be a text or up to {MAX_STOPS} texts, none of them empty"));
    let stops = match present(fields, "stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_string)).collect();
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
            _ => Err(invalid(name, format!("`{name}` needs to be a number of at least 1"))),
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
    HttpError::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
}

fn invalid(param: &str, message: impl Into<String>) -> HttpError {
    with_param(StatusCode::BAD_REQUEST, param, "invalid_value", message)
}

fn unsupported(param: &str, message: impl Into<String>) -> HttpError {
    with_param(StatusCode::BAD_REQUEST, param, "unsupported_parameter", message)
}

fn with_param(status: StatusCode, param: &str, code: &'static str, message: impl Into<String>) -> HttpError {
    let mut error = HttpError::new(status, "invalid_request_error", code, message);
    error.param = Some(param.to_string());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn unsupported_fields_are_refused_by_name_and_neutral_ones_pass() {
        for (name, value) in [
            ("n", serde_json::json!(2)),
            ("tools", serde_json::json!([{}])),
            ("logprobs", serde_json::json!(true)),
            ("response_format", serde_json::json!({ "type": "json_object" })),
        ] {
            let error = refuse_unsupported(&fields(serde_json::json!({ name: value }))).unwrap_err();
            assert_eq!((error.param.as_deref(), error.status), (Some(name), StatusCode::BAD_REQUEST));
        }
        let neutral = serde_json::json!({
            "n": 1, "tools": [], "logprobs": false, "temperature": 0.0, "top_p": 0.9, "seed": 5, "made_up": true,
            "logit_bias": null, "presence_penalty": 0,
        });
        refuse_unsupported(&fields(neutral)).unwrap();
    }

    #[test]
    fn a_temperature_draws_and_nothing_else_does() {
        let of = |json| drawn(&fields(json)).map_err(|error| error.param.unwrap());
        let sampling = |temperature, top_k| Ok(Sampling::new(temperature, top_k).unwrap());
        assert_eq!(of(serde_json::json!({})), Ok(None));
        assert_eq!(of(serde_json::json!({ "temperature": 0, "top_p": 0.5, "top_k": 7 })), Ok(None));
        assert_eq!(of(serde_json::json!({ "temperature": 0.7, "top_p": 1, "seed": 5 })), sampling(0.7, None));
        assert_eq!(of(serde_json::json!({ "temperature": 1, "top_k": 40, "min_p": 0 })), sampling(1.0, Some(40)));
        assert_eq!(of(serde_json::json!({ "temperature": 1, "top_k": -1 })), sampling(1.0, None));
        for (json, param) in [
            (serde_json::json!({ "temperature": 2.5 }), "temperature"),
            (serde_json::json!({ "temperature": "hot" }), "temperature"),
            (serde_json::json!({ "temperature": 1, "top_k": 1.5 }), "top_k"),
            (serde_json::json!({ "temperature": 1, "top_k": -2 }), "top_k"),
            (serde_json::json!({ "temperature": 1, "top_p": 0.9 }), "top_p"),
            (serde_json::json!({ "temperature": 1, "min_p": 0.1 }), "min_p"),
        ] {
            assert_eq!(of(json), Err(param.to_string()));
        }
    }

    #[test]
    fn message_parts_are_joined_and_other_roles_refused() {
        let parts = serde_json::json!({
            "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }],
        });
        assert_eq!(message(0, &parts).unwrap(), Message { role: "system".into(), content: "ab".into() });
        let image = serde_json::json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] });
        assert_eq!(message(3, &image).unwrap_err().param.as_deref(), Some("messages[3]"));
        assert!(message(0, &serde_json::json!({ "role": "tool", "content": "x" })).is_err());
    }

    #[test]
    fn a_minimum_is_a_number_below_the_maximum() {
        let of = |json, limit| minimum(&fields(json), limit);
        assert_eq!(of(serde_json::json!({ "min_tokens": 3 }), Some(3)).unwrap(), 3);
        assert_eq!(of(serde_json::json!({ "min_tokens": null }), None).unwrap(), 0);
        for (json, limit) in
            [(serde_json::json!({ "min_tokens": 4 }), Some(3)), (serde_json::json!({ "min_tokens": -1 }), None)]
        {
            assert_eq!(of(json, limit).unwrap_err().param.as_deref(), Some("min_tokens"));
        }
    }

    #[test]
    fn stops_are_texts() {
        assert_eq!(stops(&fields(serde_json::json!({ "stop": "x" }))).unwrap(), ["x"]);
        assert!(stops(&fields(serde_json::json!({ "stop": [] }))).unwrap().is_empty());
        for wrong in [serde_json::json!([""]), serde_json::json!([1]), serde_json::json!(["a", "b", "c", "d", "e"])] {
            assert!(stops(&fields(serde_json::json!({ "stop": wrong }))).is_err());
        }
    }
}
