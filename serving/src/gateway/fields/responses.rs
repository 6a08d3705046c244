//! The fields of `/v1/responses`.

use serde_json::{Map, Value, json};

use super::{GREEDY, Known, TEXT, TOKENS_ONLY, TOOLS, check_known, idle};
use crate::{
    error::HttpError,
    gateway::field::{invalid, present, unsupported},
};

const NOTHING_KEPT: &str = "answers are not kept: give the earlier turns in `input`";

const KNOWN: Known = Known {
    done: &[
        "ignore_eos",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "min_p",
        "min_tokens",
        "model",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "top_k",
        "top_p",
        // As at the other addresses.
        "seed",
    ],
    nothing: &[
        "max_tool_calls",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "user",
    ],
    neutral,
};

/// Those that are done.
#[cfg(test)]
pub(in crate::gateway) fn done() -> &'static [&'static str] {
    KNOWN.done
}

/// Fields that ask for something that is not offered, unless they have one of these values.
fn neutral(name: &str) -> Option<(Vec<Value>, &'static str)> {
    Some(match name {
        "access_programs" => (
            vec![json!([]), json!({})],
            "there are no such programs here",
        ),
        "background" => (
            vec![json!(false)],
            "answers are made while the client waits",
        ),
        "background_options" => (vec![json!({})], "answers are made while the client waits"),
        "context_management" => (vec![json!([])], "a prompt is never cut or summarized"),
        "conversation" | "previous_response_id" => (vec![], NOTHING_KEPT),
        "store" => (vec![json!(false)], NOTHING_KEPT),
        "include" => (vec![json!([])], "an answer has nothing further to include"),
        "prompt" => (
            vec![],
            "there are no stored prompts: `input` has the prompt",
        ),
        "reasoning" => (
            vec![json!({})],
            "there is one model, which takes no such wish",
        ),
        "tools" => (vec![json!([])], TOOLS),
        "tool_choice" => (vec![json!("none"), json!("auto")], TOOLS),
        "top_logprobs" => (vec![json!(0)], TOKENS_ONLY),
        "truncation" => (
            vec![json!("disabled")],
            "a prompt is never cut: one that is too long is refused",
        ),
        "image" => (vec![json!({})], TEXT),
        "modalities" => (vec![json!(["text"])], TEXT),
        "moderation" => (vec![json!({})], "nothing here reads prompts or answers"),
        "messages" => (
            vec![],
            "it belongs to `/v1/chat/completions`; here a conversation is in `input`",
        ),
        "max_tokens" | "max_completion_tokens" => (vec![], "here the limit is `max_output_tokens`"),
        "response_format" => (vec![], "here the format is `text.format`"),
        "return_token_ids" => (
            vec![json!(false)],
            "`/v1/chat/completions` and `/v1/completions` tell token ids",
        ),
        "mirostat" => (vec![json!(0)], GREEDY),
        _ => return None,
    })
}

/// # Errors
/// 400 with the name of the first field that asks for something which is not done, or that is not
/// known.
pub(in crate::gateway) fn check(fields: &Map<String, Value>) -> Result<(), HttpError> {
    let mut asked = fields.clone();
    // A wish whose parts are all absent.
    let no_wish = |value: &Value| {
        value
            .as_object()
            .is_some_and(|parts| parts.values().all(idle))
    };
    if present(fields, "reasoning").is_some_and(no_wish) {
        asked.remove("reasoning");
    }
    check_known(&asked, &KNOWN)?;
    check_parts(fields, "text", |name, value| match name {
        "format" => *value == json!({ "type": "text" }),
        "verbosity" => *value == json!("medium"),
        _ => idle(value),
    })?;
    check_parts(fields, "stream_options", |_, value| idle(value))
}

/// That each part of an object is one that changes nothing.
fn check_parts(
    fields: &Map<String, Value>,
    name: &str,
    passes: impl Fn(&str, &Value) -> bool,
) -> Result<(), HttpError> {
    let parts = match present(fields, name) {
        None => return Ok(()),
        Some(Value::Object(parts)) => parts,
        Some(_) => return Err(invalid(name, format!("`{name}` needs to be an object"))),
    };
    let asks = parts
        .iter()
        .find(|(part, value)| !value.is_null() && !passes(part, value));
    asks.map_or(Ok(()), |(part, _)| {
        Err(unsupported(
            name,
            format!("`{name}.{part}`: {TEXT}, in pieces as they come"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: Value) -> Result<(), HttpError> {
        check(body.as_object().unwrap())
    }

    /// Every field of the official interface, with a value that asks for something.
    #[test]
    fn what_responses_do_not_do_is_refused_by_name() {
        for (name, value) in [
            ("access_programs", json!({ "a": 1 })),
            ("background", json!(true)),
            ("background_options", json!({ "a": 1 })),
            ("context_management", json!([{ "type": "compaction" }])),
            ("conversation", json!("conv_1")),
            ("image", json!({ "quality": "high" })),
            ("include", json!(["message.output_text.logprobs"])),
            ("moderation", json!({ "input": true })),
            ("previous_response_id", json!("resp_1")),
            ("prompt", json!({ "id": "pmpt_1" })),
            ("reasoning", json!({ "effort": "high" })),
            ("store", json!(true)),
            ("stream_options", json!({ "include_obfuscation": true })),
            ("text", json!({ "format": { "type": "json_object" } })),
            ("text", json!({ "verbosity": "low" })),
            ("tool_choice", json!("required")),
            ("tools", json!([{ "type": "web_search" }])),
            ("top_logprobs", json!(2)),
            ("truncation", json!("auto")),
            ("max_tokens", json!(5)),
            ("messages", json!([])),
            ("response_format", json!({ "type": "text" })),
            ("made_up", json!(1)),
        ] {
            let error = checked(json!({ name: value })).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
            assert!(error.message.contains(name), "{}", error.message);
        }
    }

    #[test]
    fn what_changes_nothing_passes_at_responses() {
        checked(json!({
            "model": "m", "input": "a", "instructions": null, "background": false, "include": [],
            "metadata": { "a": "b" }, "parallel_tool_calls": true, "max_tool_calls": 3,
            "previous_response_id": null, "reasoning": { "effort": null }, "store": false,
            "stream": false, "stream_options": { "include_obfuscation": false },
            "text": { "format": { "type": "text" }, "verbosity": "medium" }, "tools": [],
            "tool_choice": "auto", "top_logprobs": 0, "truncation": "disabled", "user": "u",
            "prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "auto",
        }))
        .unwrap();
    }
}
