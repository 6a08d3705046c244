//! Files in pieces: those of the public part, and what lies on this machine for one client.

use std::{fs::File, io::Read, path::PathBuf};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::Response,
};

use crate::error::HttpError;

/// A download holds one piece and what the connection's buffer takes: peers that read nothing cost
/// little.
const PIECE_BYTES: usize = 128 << 10;

/// Answers with the file. A piece is read when the peer has taken the one before, so that no thread
/// waits for a peer.
pub(super) async fn send(path: PathBuf, bytes: u64) -> Result<Response, HttpError> {
    let gone = |error: std::io::Error| {
        tracing::error!("a published file cannot be read: {error}");
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "file",
            "the file cannot be read",
        )
    };
    let opened = tokio::task::spawn_blocking(move || File::open(path)).await;
    let file = opened
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(gone)?;
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_file_comes_whole_in_small_pieces_as_it_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let content: Vec<u8> = (0..1_000_003u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let response = send(path.clone(), content.len() as u64).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "1000003");
        let mut pieces = response.into_body().into_data_stream();
        let mut got = pieces.next().await.unwrap().unwrap().to_vec();
        assert_eq!(got.len(), PIECE_BYTES);
        // What was not asked for has not been read: it is there as it is now.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(PIECE_BYTES as u64)
            .unwrap();
        assert!(pieces.next().await.is_none());
        std::fs::write(&path, &content).unwrap();
        let mut pieces = send(path.clone(), content.len() as u64)
            .await
            .unwrap()
            .into_body()
            .into_data_stream();
        got.clear();
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            got.extend(piece);
        }
        assert!(got == content);
        assert!(send(folder.path().join("gone"), 1).await.is_err());
    }
}
