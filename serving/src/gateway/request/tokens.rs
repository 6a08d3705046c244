//! Requests of `/tokenize` and `/detokenize`.

use serde_json::{Map, Value};

use super::{chat_tokens, check_model, object, tokens_of};
use crate::{
    client::Client,
    error::HttpError,
    gateway::{
        field::{boolean, invalid, present, unsupported},
        fields::idle,
    },
};

/// The prompt of a request as token ids.
pub(in crate::gateway) fn to_tokenize(body: &[u8], client: &Client) -> Result<Vec<u32>, HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    let is_chat = present(&fields, "messages").is_some();
    let known: &[&str] = match is_chat {
        true => &[
            "messages",
            "add_generation_prompt",
            "continue_final_message",
        ],
        false => &["prompt"],
    };
    check(&fields, known)?;
    // A template writes special tokens itself.
    let adds = match present(&fields, "add_special_tokens") {
        None => !is_chat,
        Some(_) => boolean(&fields, "add_special_tokens")?,
    };
    match present(&fields, "prompt") {
        _ if is_chat && adds => Err(unsupported(
            "add_special_tokens",
            "`add_special_tokens`: the model's template writes those of a conversation",
        )),
        _ if is_chat => chat_tokens(&fields, client),
        Some(Value::String(text)) => client
            .text_tokens(text, adds)
            .map_err(|error| invalid("prompt", error.to_string())),
        _ => Err(invalid(
            "prompt",
            "`prompt` needs to be a text, or `messages` a conversation",
        )),
    }
}

/// The token ids of a request.
pub(in crate::gateway) fn to_detokenize(
    body: &[u8],
    client: &Client,
) -> Result<Vec<u32>, HttpError> {
    let fields = object(body)?;
    check_model(&fields, &client.model_name)?;
    check(&fields, &["tokens"])?;
    match present(&fields, "tokens") {
        Some(Value::Array(ids)) => tokens_of("tokens", ids, client.vocabulary()),
        _ => Err(invalid(
            "tokens",
            "`tokens` needs to be a list of token ids",
        )),
    }
}

/// That no other field asks for anything.
fn check(fields: &Map<String, Value>, known: &[&str]) -> Result<(), HttpError> {
    let common = ["model", "add_special_tokens"];
    let asks = fields.iter().find(|(name, value)| {
        !known.contains(&name.as_str()) && !common.contains(&name.as_str()) && !idle(value)
    });
    asks.map_or(Ok(()), |(name, _)| {
        let known = [&common[..1], known].concat().join("`, `");
        Err(unsupported(
            name,
            format!("`{name}` is not done here; the fields are `{known}`"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_fields_of_tokenize_are_refused_by_name() {
        let of = |body: Value| check(body.as_object().unwrap(), &["prompt"]);
        assert!(of(json!({ "model": "m", "prompt": "a", "return_token_strs": false })).is_ok());
        for name in [
            "return_token_strs",
            "tools",
            "chat_template",
            "mm_processor_kwargs",
        ] {
            let refused = of(json!({ "prompt": "a", name: { "a": 1 } })).unwrap_err();
            assert_eq!(refused.param.as_deref(), Some(name));
        }
    }
}
