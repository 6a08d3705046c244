//! What can go wrong between the two parties.

use marill_net::NetError;

/// What can go wrong between the two parties. Every variant says where; none says what was secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtError {
    #[error("lost the peer in step `{step}`: {source}")]
    Peer {
        step: &'static str,
        source: NetError,
    },
    #[error("the peer sent {got} bytes in step `{step}` where {expected} belong")]
    Frame {
        step: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("the peer's message in step `{step}` is malformed: {reason}")]
    Malformed {
        step: &'static str,
        reason: &'static str,
    },
    #[error(
        "the parties disagree about {what}: {own} here, {peer} at the peer\n\
         hint: start both with the same options, and with the same version"
    )]
    Parameters {
        what: &'static str,
        own: u64,
        peer: u64,
    },
    #[error(
        "the parties make transfers in different ways: {own} here, {peer} at the peer\n\
         hint: start both with the same source of transfers and the same set"
    )]
    Sources { own: String, peer: String },
    #[error("what one party received is not what the other sent\nhint: the link changes messages")]
    Transcript,
    #[error("saved base transfers are damaged: {0}\nhint: delete the file, and make new ones")]
    Saved(&'static str),
}
