//! What a client, or a computing party, wants comparisons to be made of.

use marill_mpc::{Comparison, ProgramSpec, spec::BUCKET};
use marill_plan::{Network, estimates};

use crate::error::SessionError;

/// Keys before the decoded token by which protocols are compared.
const TYPICAL_KEYS: usize = 128;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ComparisonChoice {
    /// One-hot, or what the other end of the connection to a computing party asks for.
    #[default]
    Open,
    /// Or no session.
    OneHot,
    /// Or no session.
    Dcf,
    /// What the server offers and waits least for this network, or as [`Self::Open`].
    Quickest(Network),
}

impl ComparisonChoice {
    /// The protocol of sessions with a server that offers DCF or does not.
    ///
    /// # Errors
    /// [`SessionError::NoDcf`].
    pub(super) fn decide(
        self,
        spec: &ProgramSpec,
        dcf_supported: bool,
    ) -> Result<Comparison, SessionError> {
        match self {
            Self::Open | Self::OneHot => Ok(Comparison::OneHot),
            Self::Dcf if dcf_supported => Ok(Comparison::Dcf),
            Self::Dcf => Err(SessionError::NoDcf {
                reason: "the server accepts one-hot only",
            }),
            Self::Quickest(_) if !dcf_supported => Ok(Comparison::OneHot),
            Self::Quickest(network) => {
                let cached = spec
                    .bucket(TYPICAL_KEYS)
                    .min(spec.max_positions.saturating_sub(1) / BUCKET * BUCKET);
                Ok(estimates(spec, &network, cached, 1)?[0].comparison)
            }
        }
    }

    /// Whether no other protocol will do.
    pub(super) fn insists(self) -> bool {
        matches!(self, Self::OneHot | Self::Dcf)
    }
}
