//! The objects of `/v1/responses`: one response, and the events of its making.

use axum::response::sse::Event as SseEvent;
use serde_json::{Map, Value, json};

use super::frame::{cost, fresh_id, unix_seconds};
use crate::{
    client::{Answer, Client, Finish},
    error::HttpError,
};

/// A response and how far its events are.
pub(super) struct ResponseFrame {
    id: String,
    /// Of its one message.
    item: String,
    created: u64,
    model: String,
    /// Fields of the request that it repeats.
    repeated: Map<String, Value>,
    /// Of the next event.
    number: u64,
    said: String,
}

impl ResponseFrame {
    /// Names the answer, to its caller and at `/status`.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn new(client: &Client, repeated: Map<String, Value>) -> Result<Self, HttpError> {
        Ok(Self {
            id: fresh_id("resp_")?,
            item: fresh_id("msg_")?,
            created: unix_seconds(),
            model: client.model_name.clone(),
            repeated,
            number: 0,
            said: String::new(),
        })
    }

    /// The whole response in this state, with fields that depend on it.
    fn object(&self, status: &str, more: Value) -> Value {
        let mut object = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "background": false, "error": null, "incomplete_details": null, "model": self.model,
            "output": [], "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null }, "service_tier": "default",
            // What is not kept cannot be fetched later.
            "store": false, "text": { "format": { "type": "text" }, "verbosity": "medium" },
            "tool_choice": "auto", "tools": [], "top_logprobs": 0, "truncation": "disabled",
            "usage": null,
        });
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(self.repeated.clone());
            object.extend(more);
        }
        object
    }

    fn message(&self, status: &str, content: Value) -> Value {
        json!({
            "id": self.item, "type": "message", "status": status, "role": "assistant",
            "content": content,
        })
    }

    pub(super) fn whole(&self, answer: &Answer) -> Value {
        let status = status(answer);
        let details = match status {
            "incomplete" => json!({ "reason": "max_output_tokens" }),
            _ => Value::Null,
        };
        let message = self.message(status, json!([part(&answer.text)]));
        self.object(
            status,
            json!({
                "output": [message], "usage": usage(answer), "incomplete_details": details,
                "marill": cost(answer),
            }),
        )
    }

    /// An event with its place among all.
    fn event(&mut self, kind: &'static str, fields: Value) -> SseEvent {
        let mut event = json!({ "type": kind, "sequence_number": self.number });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        self.number += 1;
        SseEvent::default().event(kind).data(event.to_string())
    }

    /// As [`Self::event`], about the text.
    fn text_event(&mut self, kind: &'static str, (name, value): (&str, Value)) -> SseEvent {
        let mut fields = json!({ "item_id": self.item, "output_index": 0, "content_index": 0 });
        fields[name] = value;
        if name != "part" {
            fields["logprobs"] = json!([]);
        }
        self.event(kind, fields)
    }

    pub(super) fn opening(&mut self) -> Vec<SseEvent> {
        let begun = json!({ "response": self.object("in_progress", json!({})) });
        let item = self.message("in_progress", json!([]));
        vec![
            self.event("response.created", begun.clone()),
            self.event("response.in_progress", begun),
            self.event(
                "response.output_item.added",
                json!({ "output_index": 0, "item": item }),
            ),
            self.text_event("response.content_part.added", ("part", part(""))),
        ]
    }

    pub(super) fn piece(&mut self, text: &str) -> Vec<SseEvent> {
        self.said.push_str(text);
        vec![self.text_event("response.output_text.delta", ("delta", json!(text)))]
    }

    pub(super) fn last(&mut self, answer: &Answer) -> Vec<SseEvent> {
        let response = json!({ "response": self.whole(answer) });
        let item = self.message(status(answer), json!([part(&answer.text)]));
        let end = match status(answer) {
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        vec![
            self.text_event("response.output_text.done", ("text", json!(answer.text))),
            self.text_event("response.content_part.done", ("part", part(&answer.text))),
            self.event(
                "response.output_item.done",
                json!({ "output_index": 0, "item": item }),
            ),
            self.event(end, response),
        ]
    }

    /// The official codes are few; the message says more.
    pub(super) fn failed(&mut self, error: &HttpError) -> Vec<SseEvent> {
        let code = match error.status.as_u16() {
            429 => "rate_limit_exceeded",
            _ => "server_error",
        };
        let id = error.request_id.as_ref().map(|id| id.as_str());
        let said = self.message("incomplete", json!([part(&self.said)]));
        let response = self.object(
            "failed",
            json!({
                "error": { "code": code, "message": error.message, "request_id": id },
                "output": [said],
            }),
        );
        vec![self.event("response.failed", json!({ "response": response }))]
    }
}

/// An answer that ends at a limit is not complete.
fn status(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Length => "incomplete",
        Finish::Stop | Finish::Cancelled => "completed",
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn usage(answer: &Answer) -> Value {
    let input = answer.prompt_tokens;
    let output = answer.tokens.len();
    json!({
        "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
        "input_tokens_details": {
            "cached_tokens": answer.cached_tokens, "cache_write_tokens": 0,
        },
        "output_tokens_details": { "reasoning_tokens": 0 },
    })
}
