//! Every field of a request is one that is done, one whose neutral value passes, or one that
//! changes nothing; any other is refused by name.

pub(super) mod responses;

use serde_json::{Map, Value, json};

use crate::{
    error::HttpError,
    gateway::field::{present, unsupported},
};

/// What is known of the fields of some addresses.
struct Known {
    /// What the gateway does.
    done: &'static [&'static str],
    /// What changes nothing.
    nothing: &'static [&'static str],
    /// What asks for something that is not offered, unless it has one of these values.
    neutral: fn(&str) -> Option<(Vec<Value>, &'static str)>,
}

/// Of `/v1/chat/completions` and `/v1/completions`.
const COMPLETIONS: Known = Known {
    done: &DONE,
    nothing: &NOTHING,
    neutral,
};

/// What the gateway does.
pub(super) const DONE: [&str; 18] = [
    "add_generation_prompt",
    "continue_final_message",
    "ignore_eos",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "min_p",
    "min_tokens",
    "model",
    "prompt",
    "return_token_ids",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
    // No answer can be repeated with it: docs/serving.md.
    "seed",
];

/// About the caller's accounts and the service's scheduling: an answer is the same with and
/// without.
const NOTHING: [&str; 11] = [
    "cache_salt",
    "metadata",
    "parallel_tool_calls",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

const ONE: &str = "only one answer per request is supported";
const TOOLS: &str = "tools are not supported";
const TOKENS_ONLY: &str = "only tokens are revealed, never their probabilities";
const PENALTIES: &str = "penalties are not supported: logits stay secret, and the program that \
    chooses a token is fixed";
const TEXT: &str = "only plain text is supported";
const TEMPLATE: &str = "the model's own template is used";
const GREEDY: &str = "tokens are greedy, or sampled by `temperature` and `top_k`";

/// Fields that ask for something that is not offered, unless they have one of these values.
fn neutral(name: &str) -> Option<(Vec<Value>, &'static str)> {
    Some(match name {
        "n" | "best_of" => (vec![json!(1)], ONE),
        "tools" | "functions" => (vec![json!([])], TOOLS),
        "tool_choice" => (vec![json!("none"), json!("auto")], TOOLS),
        "function_call" => (vec![json!("none"), json!("auto")], TOOLS),
        "logprobs" => (vec![json!(false)], TOKENS_ONLY),
        "top_logprobs" | "prompt_logprobs" => (vec![json!(0)], TOKENS_ONLY),
        "presence_penalty" | "frequency_penalty" => (vec![json!(0)], PENALTIES),
        "repetition_penalty" | "length_penalty" => (vec![json!(1)], PENALTIES),
        "no_repeat_ngram_size" => (vec![json!(0)], PENALTIES),
        "logit_bias" => (vec![json!({})], "a bias on logits is not supported"),
        "bad_words" | "allowed_token_ids" | "logits_processors" => (
            vec![json!([])],
            "which tokens are possible cannot be changed",
        ),
        "stop_token_ids" => (
            vec![json!([])],
            "answers end at the model's own end tokens and at the texts in `stop`",
        ),
        "response_format" => (vec![json!({ "type": "text" })], TEXT),
        "modalities" => (vec![json!(["text"])], TEXT),
        "audio" | "prediction" | "web_search_options" | "structured_outputs" => {
            (vec![json!({})], TEXT)
        }
        "verbosity" | "reasoning_effort" => (
            vec![json!("medium")],
            "there is one model, which takes no such wish",
        ),
        "guided_json" | "guided_regex" | "guided_choice" | "guided_grammar" | "grammar"
        | "json_schema" => (vec![], TEXT),
        "echo" => (vec![json!(false)], "echoing the prompt is not supported"),
        "suffix" => (vec![json!("")], "a suffix is not supported"),
        "truncate_prompt_tokens" => (
            vec![],
            "a prompt is never cut: one that is too long is refused",
        ),
        "chat_template" => (vec![], TEMPLATE),
        "chat_template_kwargs" => (vec![json!({})], TEMPLATE),
        "documents" => (vec![json!([])], TEMPLATE),
        "typical_p" => (vec![json!(1)], GREEDY),
        "tfs_z" => (vec![json!(1)], GREEDY),
        "mirostat" | "dynatemp_range" | "xtc_probability" | "dry_multiplier" => {
            (vec![json!(0)], GREEDY)
        }
        "use_beam_search" | "early_stopping" => (vec![json!(false)], GREEDY),
        "include_stop_str_in_output" => (
            vec![json!(false)],
            "texts that end an answer are not part of it",
        ),
        "skip_special_tokens" => (
            vec![json!(true)],
            "special tokens are not written out; `return_token_ids` tells them",
        ),
        "spaces_between_special_tokens" => {
            (vec![json!(true)], "special tokens are not written out")
        }
        "add_special_tokens" => (
            vec![],
            "the tokenizer's own rule is used; a list of ids is taken as it stands",
        ),
        _ => return None,
    })
}

/// # Errors
/// 400 with the name of the first field that asks for something which is not done, or that is not
/// known.
fn check_known(fields: &Map<String, Value>, known: &Known) -> Result<(), HttpError> {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        if [known.done, known.nothing]
            .concat()
            .contains(&name.as_str())
        {
            continue;
        }
        match (known.neutral)(name) {
            Some((values, _)) if values.iter().any(|neutral| is(value, neutral)) => {}
            Some((_, reason)) => return Err(unsupported(name, format!("`{name}`: {reason}"))),
            None => {
                return Err(unsupported(
                    name,
                    format!("`{name}` is no field that is known here"),
                ));
            }
        }
    }
    Ok(())
}

/// # Errors
/// 400 with the name of the first field that asks for something which is not done, or that is not
/// known.
pub(super) fn check(fields: &Map<String, Value>) -> Result<(), HttpError> {
    check_known(fields, &COMPLETIONS)?;
    if let Some(options) = present(fields, "stream_options") {
        let name = "stream_options";
        let Value::Object(options) = options else {
            return Err(unsupported(name, format!("`{name}` needs to be an object")));
        };
        let known = ["include_usage", "include_obfuscation"];
        if let Some((other, _)) = options
            .iter()
            .find(|(key, value)| !known.contains(&key.as_str()) && !idle(value))
        {
            return Err(unsupported(
                name,
                format!("`{name}.{other}` is no option that is known here"),
            ));
        }
    }
    Ok(())
}

/// Numbers are equal in either notation.
fn is(value: &Value, neutral: &Value) -> bool {
    match (value.as_f64(), neutral.as_f64()) {
        (Some(value), Some(neutral)) => value == neutral,
        _ => value == neutral,
    }
}

/// Asks for nothing.
pub(super) fn idle(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(query) => !query,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn checked(body: Value) -> Result<(), HttpError> {
        check(body.as_object().unwrap())
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (name, value) in [
            ("n", json!(2)),
            ("n", json!("1")),
            ("best_of", json!(4)),
            ("tools", json!([{}])),
            ("tool_choice", json!("required")),
            ("logprobs", json!(true)),
            ("logprobs", json!(0)),
            ("top_logprobs", json!(3)),
            ("presence_penalty", json!(0.5)),
            ("frequency_penalty", json!(-1)),
            ("repetition_penalty", json!(1.1)),
            ("logit_bias", json!({ "50256": -100 })),
            ("response_format", json!({ "type": "json_object" })),
            ("response_format", json!("text")),
            ("guided_choice", json!(["a"])),
            ("echo", json!(true)),
            ("suffix", json!("end")),
            ("stop_token_ids", json!([2])),
            ("chat_template", json!("{{ messages }}")),
            ("truncate_prompt_tokens", json!(100)),
            ("stream_options", json!({ "usage": true })),
            ("made_up", json!(true)),
            ("Temperature", json!(1)),
        ] {
            let error = checked(json!({ name: value })).unwrap_err();
            assert_eq!(
                (error.param.as_deref(), error.status),
                (Some(name), StatusCode::BAD_REQUEST)
            );
            assert!(error.message.contains(name), "{}", error.message);
        }
    }

    #[test]
    fn neutral_values_and_what_changes_nothing_pass() {
        checked(json!({
            "model": "x", "messages": [], "n": 1, "best_of": 1.0, "tools": [],
            "tool_choice": "none", "logprobs": false,
            "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "response_format": { "type": "text" }, "echo": false, "suffix": "", "user": "u",
            "metadata": { "a": "b" },
            "store": true, "seed": 5, "temperature": 0.5,
            "stream_options": { "include_usage": true }, "made_up": null,
            "service_tier": "auto", "skip_special_tokens": true, "use_beam_search": false,
        }))
        .unwrap();
    }
}
