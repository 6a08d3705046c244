//! What a client, or an evaluator of its own, wants comparisons to be made of.

use marill_mpc::{
    DecoderSpec, Material,
    material::{Network, estimates},
    spec::BUCKET,
};

use crate::ServingError;

/// Keys before the decoded token by which materials are compared.
const TYPICAL_KEYS: usize = 128;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MaterialChoice {
    /// Digits, or what the other end of the line to an evaluator asks for.
    #[default]
    Open,
    /// Or no session.
    Digits,
    /// Or no session.
    Points,
    /// What the server offers and waits least for this network, or as [`Self::Open`].
    Quickest(Network),
}

impl MaterialChoice {
    /// The material of sessions with a server that offers points or does not.
    ///
    /// # Errors
    /// [`ServingError::NoPoints`].
    pub(super) fn decide(
        self,
        spec: &DecoderSpec,
        points_offered: bool,
    ) -> Result<Material, ServingError> {
        match self {
            Self::Open | Self::Digits => Ok(Material::Digits),
            Self::Points if points_offered => Ok(Material::Points),
            Self::Points => Err(ServingError::NoPoints {
                reason: "the server takes digits only",
            }),
            Self::Quickest(_) if !points_offered => Ok(Material::Digits),
            Self::Quickest(network) => {
                let cached = spec
                    .bucket(TYPICAL_KEYS)
                    .min(spec.max_positions.saturating_sub(1) / BUCKET * BUCKET);
                Ok(estimates(spec, &network, cached, 1)?[0].material)
            }
        }
    }

    /// Whether no other material will do.
    pub(super) fn insists(self) -> bool {
        matches!(self, Self::Digits | Self::Points)
    }
}
