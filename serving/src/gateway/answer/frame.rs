//! The objects of an answer, whole or in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use marill_numeric::hex;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client, Finish},
    error::HttpError,
    gateway::answer::status::http_error,
    secret_files::random,
};

/// Which of the two interfaces was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Shape {
    Chat,
    Completion,
}

/// What all objects of one answer share.
#[derive(Clone)]
pub(super) struct Frame {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    /// The prompt's ids, where ids are asked for.
    prompt_token_ids: Option<Vec<u32>>,
}

impl Frame {
    pub(super) fn new(
        client: &Client,
        shape: Shape,
        prompt_token_ids: Option<Vec<u32>>,
    ) -> Result<Self, HttpError> {
        let prefix = if shape == Shape::Chat {
            "chatcmpl-"
        } else {
            "cmpl-"
        };
        Ok(Self {
            shape,
            id: fresh_id(prefix)?,
            created: unix_seconds(),
            model: client.model_name.clone(),
            prompt_token_ids,
        })
    }

    /// Names the answer, to its caller and at `/status`.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn object(&self, chunk: bool, choices: Value) -> Value {
        let object = match (self.shape, chunk) {
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
            (Shape::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices
        })
    }

    pub(super) fn whole(&self, answer: &Answer) -> Value {
        let finish = answer.finish.as_str();
        let choice = match self.shape {
            Shape::Chat => json!({
                "index": 0, "finish_reason": finish, "logprobs": null,
                "message": { "role": "assistant", "content": answer.text, "refusal": null },
            }),
            Shape::Completion => {
                json!({
                    "index": 0, "finish_reason": finish, "logprobs": null, "text": answer.text
                })
            }
        };
        let mut object = self.object(false, json!([choice]));
        object["usage"] = usage(answer);
        object["marill"] = cost(answer);
        self.add_ids(&mut object, answer);
        object
    }

    fn add_ids(&self, object: &mut Value, answer: &Answer) {
        if let Some(prompt) = &self.prompt_token_ids {
            object["prompt_token_ids"] = json!(prompt);
            object["choices"][0]["token_ids"] = json!(answer.tokens);
        }
    }

    /// The chunk that names the role, where there is one.
    pub(super) fn opening(&self) -> Option<Value> {
        let choice = json!({
            "index": 0, "finish_reason": null, "logprobs": null,
            "delta": { "role": "assistant", "content": "" },
        });
        (self.shape == Shape::Chat).then(|| self.object(true, json!([choice])))
    }

    pub(super) fn piece(&self, text: &str, finish: Option<Finish>) -> Value {
        let finish = finish.map(Finish::as_str);
        let choice = match self.shape {
            Shape::Chat => {
                let delta = if text.is_empty() {
                    json!({})
                } else {
                    json!({ "content": text })
                };
                json!({ "index": 0, "finish_reason": finish, "logprobs": null, "delta": delta })
            }
            Shape::Completion => {
                json!({ "index": 0, "finish_reason": finish, "logprobs": null, "text": text })
            }
        };
        self.object(true, json!([choice]))
    }

    pub(super) fn last(&self, answer: &Answer) -> Value {
        let mut object = self.piece("", Some(answer.finish));
        object["marill"] = cost(answer);
        self.add_ids(&mut object, answer);
        object
    }

    pub(super) fn usage_only(&self, answer: &Answer) -> Value {
        let mut object = self.object(true, json!([]));
        object["usage"] = usage(answer);
        object
    }
}

/// The prefix and random digits.
pub(super) fn fresh_id(prefix: &str) -> Result<String, HttpError> {
    let bytes = random::<12>().map_err(|error| http_error(&error.into()))?;
    Ok(format!("{prefix}{}", hex(bytes.as_slice())))
}

pub(super) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_secs())
}

fn usage(answer: &Answer) -> Value {
    let prompt = answer.prompt_tokens;
    let completion = answer.tokens.len();
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": answer.cached_tokens },
    })
}

/// What this answer cost on the wire between client and server.
pub(super) fn cost(answer: &Answer) -> Value {
    json!({
        "correlations": answer.correlations.as_str(), "material": answer.comparison,
        "rounds": answer.prefill.rounds + answer.decode.rounds,
        "bytes_sent": answer.prefill.bytes_sent + answer.decode.bytes_sent,
        "bytes_received": answer.prefill.bytes_received + answer.decode.bytes_received,
        "prefill_seconds": answer.prefill.seconds,
        "decode_seconds": answer.decode.seconds,
        "decode_steps": answer.decode_steps,
        "offline_bytes": answer.offline.map(|offline| offline.bytes),
        "offline_seconds": answer.offline.map(|offline| offline.seconds),
    })
}
