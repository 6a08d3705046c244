//! What E1 computes with.

use std::sync::{Arc, OnceLock};

use marill_mpc::{
    Comparison, PrivateProducts, PrivateWeights, ProgramSpec, PublicWeights,
    two_party::{LpnSet, lpn_set_for},
};
use marill_numeric::hex;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    error::SessionError,
    preprocessing::{self, PreprocessRequest, SealingKey},
    terms::{SessionParameters, Setting},
};

/// What E1 computes with.
pub struct SecureModel {
    pub parameters: SessionParameters,
    pub spec: ProgramSpec,
    pub public: Arc<PublicWeights>,
    pub private: Arc<PrivateWeights>,
    /// As in [`crate::server::ServerOptions`].
    pub allow_sampling: bool,
    /// As in [`crate::server::ServerOptions`].
    pub allow_dcf: bool,
    pub(super) private_sha256: String,
    lpn_set: OnceLock<LpnSet>,
}

impl SecureModel {
    pub fn new(
        partition_id: &str,
        spec: ProgramSpec,
        public: PublicWeights,
        private: PrivateWeights,
        setting: Setting,
    ) -> Self {
        let private_sha256 = hex(&Sha256::digest(Zeroizing::new(private.to_bytes())));
        let parameters = SessionParameters::new(partition_id, &spec, &public, setting);
        Self {
            parameters,
            spec,
            public: Arc::new(public),
            private: Arc::new(private),
            allow_sampling: true,
            allow_dcf: true,
            private_sha256,
            lpn_set: OnceLock::new(),
        }
    }

    /// What comparisons may be made of.
    pub(super) fn comparisons(&self) -> &'static [Comparison] {
        if self.allow_dcf && !self.parameters.is_two_party() {
            &[Comparison::OneHot, Comparison::Dcf]
        } else {
            &[Comparison::OneHot]
        }
    }

    /// What a client may choose of them: nothing where two parties compute alone.
    pub(super) fn offered_comparisons(&self) -> &'static [Comparison] {
        match self.parameters.is_two_party() {
            true => &[],
            false => self.comparisons(),
        }
    }

    /// How private updates are made: nothing where two parties compute alone.
    pub(super) fn offered_products(&self) -> Option<PrivateProducts> {
        let dealt = !self.parameters.is_two_party();
        dealt.then_some(self.parameters.private_products)
    }

    /// By which set of LPN two parties make transfers for this program; counted once.
    pub(super) fn lpn_set(&self) -> Result<LpnSet, SessionError> {
        if let Some(set) = self.lpn_set.get() {
            return Ok(*set);
        }
        let set = lpn_set_for(&self.spec)?;
        Ok(*self.lpn_set.get_or_init(|| set))
    }

    /// An order for correlations that are sealed to `key`.
    pub fn request(&self, key: &SealingKey) -> PreprocessRequest {
        PreprocessRequest {
            format: preprocessing::FORMAT,
            parameters: self.parameters.clone(),
            spec: self.spec.clone(),
            private_sha256: self.private_sha256.clone(),
            server_key: key.public(),
        }
    }
}
