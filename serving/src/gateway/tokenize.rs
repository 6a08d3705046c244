//! `/tokenize` and `/detokenize`, as vLLM has them: what a prompt is to the model, without asking
//! anyone else.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State};
use serde_json::{Value, json};

use crate::{
    error::{HttpError, StartError},
    gateway::{Gateway, answer::failed, request},
};

/// Token ids of a text or a conversation.
pub(super) async fn tokenize(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<Json<Value>, HttpError> {
    apart(move || {
        let client = gateway.client();
        let tokens = request::to_tokenize(&body, &client)?;
        Ok(json!({
            "count": tokens.len(), "max_model_len": client.max_positions(), "tokens": tokens,
            "token_strs": null,
        }))
    })
    .await
}

/// The text of token ids.
pub(super) async fn detokenize(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<Json<Value>, HttpError> {
    apart(move || {
        let client = gateway.client();
        let tokens = request::to_detokenize(&body, &client)?;
        let text = client.text_of(&tokens).map_err(|error| failed(&error))?;
        Ok(json!({ "prompt": text }))
    })
    .await
}

/// A long text takes a while, in which other requests are answered.
async fn apart(
    work: impl FnOnce() -> Result<Value, HttpError> + Send + 'static,
) -> Result<Json<Value>, HttpError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| failed(&StartError::from(error).into()))?;
    done.map(Json)
}
