//! Files of the public part, streamed in pieces.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;

use crate::web::HttpError;

const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead of a slow client.
const PIECES_AHEAD: usize = 4;

/// Answers with the file; a reader thread of the runtime's pool feeds it.
pub(super) async fn send(path: PathBuf, bytes: u64) -> Result<Response, HttpError> {
    let gone = |error: std::io::Error| {
        tracing::error!("a published file cannot be read: {error}");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "file", "the file cannot be read")
    };
    let mut file = File::open(path).map_err(gone)?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
            let item = match read {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes)
        .body(Body::from_stream(pieces));
    response.map_err(|error| gone(std::io::Error::other(error)))
}
