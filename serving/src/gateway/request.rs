//! Requests as the OpenAI interface has them. What is not done is refused by name.

mod decoding;
mod messages;
mod responses;
mod tokens;

use axum::http::StatusCode;
use serde_json::{Map, Value};

pub(super) use self::{
    responses::response,
    tokens::{to_detokenize, to_tokenize},
};
use crate::{
    client::{Client, Request},
    error::{ClientError, HttpError},
    gateway::{
        field::{bad, boolean, invalid, positive, present, unsupported, with_param},
        fields,
        request::{
            decoding::{minimum, sampling, stops},
            messages::{goes_on, messages},
        },
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
    let prompt = chat_tokens(&fields, client)?;
    finish(&fields, prompt, client, ("messages", limit(&fields)?))
}

/// Token ids of the conversation in `messages`.
fn chat_tokens(fields: &Map<String, Value>, client: &Client) -> Result<Vec<u32>, HttpError> {
    let messages = messages(fields)?;
    let prompt = match goes_on(fields, &messages)? {
        false => client.chat_prompt(&messages),
        true => client.continued_prompt(&messages),
    };
    prompt.map_err(|error| invalid("messages", error.to_string()))
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
            [Value::Array(ids)] => tokens_of("prompt", ids, client.vocabulary())?,
            [Value::Number(_), ..] => tokens_of("prompt", parts, client.vocabulary())?,
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
    finish(&fields, prompt, client, ("prompt", limit(&fields)?))
}

fn plain(client: &Client, text: &str) -> Result<Vec<u32>, HttpError> {
    client
        .plain_prompt(text)
        .map_err(|error| invalid("prompt", error.to_string()))
}

/// Token ids as they stand in the field `param`, each inside the vocabulary.
fn tokens_of(param: &str, parts: &[Value], vocabulary: usize) -> Result<Vec<u32>, HttpError> {
    let id = |(index, part): (usize, &Value)| match part.as_u64() {
        Some(id) if id < vocabulary as u64 => Ok(id as u32),
        _ if part.is_number() => {
            let message = format!(
                "`{param}[{index}]` is {part}, and token ids go from 0 to {}",
                vocabulary.saturating_sub(1)
            );
            Err(invalid(param, message))
        }
        _ => Err(invalid(param, format!("`{param}[{index}]` is no token id"))),
    };
    parts.iter().enumerate().map(id).collect()
}

/// The most tokens of an answer, where the request says so.
fn limit(fields: &Map<String, Value>) -> Result<Option<usize>, HttpError> {
    match positive(fields, "max_completion_tokens")? {
        Some(limit) => Ok(Some(limit)),
        None => positive(fields, "max_tokens"),
    }
}

/// A request of this prompt, which came in `param`.
fn finish(
    fields: &Map<String, Value>,
    prompt: Vec<u32>,
    client: &Client,
    (param, max_tokens): (&str, Option<usize>),
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
            keep: false,
            id: None,
        },
        stream: boolean(fields, "stream")?,
        return_token_ids: boolean(fields, "return_token_ids")?,
        include_usage,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_inside_the_vocabulary() {
        let of = |ids: Value| {
            tokens_of("prompt", ids.as_array().unwrap(), 100).map_err(|error| error.param.unwrap())
        };
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
}
