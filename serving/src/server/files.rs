//! Files in pieces: those of the public part, and what lies on this machine for one client.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;

use crate::web::HttpError;

/// A download holds one piece and what the connection's buffer takes: peers that read nothing cost little.
const PIECE_BYTES: usize = 128 << 10;

/// Answers with the file. A piece is read when the peer has taken the one before, so that no thread waits for a peer.
pub(super) async fn send(path: PathBuf, bytes: u64) -> Result<Response, HttpError> {
    let gone = |error: std::io::Error| {
        tracing::error!("a published file cannot be read: {error}");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "file", "the file cannot be read")
    };
    let opened = tokio::task::spawn_blocking(move || File::open(path)).await;
    let file = opened.map_err(std::io::Error::other).flatten().map_err(gone)?;
    let pieces = futures_util::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
            read.map(|_| (piece, file))
        });
        match read.await.map_err(std::io::Error::other).flatten() {
            Ok((piece, _)) if piece.is_empty() => None,
            Ok((piece, file)) => Some((Ok(Bytes::from(piece)), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes)
        .body(Body::from_stream(pieces));
    response.map_err(|error| gone(std::io::Error::other(error)))
}
