//! What can go wrong with a network, its weights and its peer.

use marill_lattice::LatticeError;
use marill_ot::OtError;

/// What can go wrong. Every variant says where; none says what was secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    #[error("layer `{layer}`: {what}\nhint: {hint}")]
    Shape {
        layer: String,
        what: String,
        hint: &'static str,
    },
    #[error("weights: {what}\nhint: {hint}")]
    Weights { what: String, hint: &'static str },
    #[error(
        "layer `{layer}` leaves the range of {bits} bits, of which {scale} are fractional\n\
         hint: inputs are normalized images; weights of another range need a wider ring"
    )]
    Range {
        layer: String,
        bits: u32,
        scale: u32,
    },
    #[error(
        "the parties evaluate different networks\n\
         hint: start both with the same network, image, width and classes, and the same version"
    )]
    Networks,
    #[error("whoever watched the layers ended the run")]
    Stopped,
    #[error("layer `{layer}`: {source}")]
    Lattice { layer: String, source: LatticeError },
    #[error("layer `{layer}`: {source}")]
    Protocol { layer: String, source: OtError },
}
