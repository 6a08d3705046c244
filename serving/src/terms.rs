//! What both ends of a session agree on: setting, who computes as E0, correlations, the program.

use marill_mpc::{Comparison, PrivateProducts, ProgramSpec, PublicWeights, two_party::LpnSet};
use marill_net::peer_text;
use marill_numeric::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::SessionError;

/// Raised with every change to the frames or to the program's order of operations.
pub const PROTOCOL_VERSION: u32 = 10;

/// The version since which a step's own messages are what they are: figures that were measured of
/// them hold since then.
pub const STEP_VERSION: u32 = 6;

/// Sets of LPN by which sessions without a dealer make silent transfers, by name: what a client
/// says that it can. One that says nothing has the first.
#[must_use]
pub fn lpn_sets() -> Vec<String> {
    LpnSet::ALL.map(|set| set.name().to_string()).to_vec()
}

/// The set that suits a program, where the client has it.
pub(crate) fn agreed_set(suits: LpnSet, client: &[String]) -> LpnSet {
    match client.iter().any(|name| name == suits.name()) {
        true => suits,
        false => LpnSet::B10,
    }
}

/// Who produces correlations, and when. The protocol of the evaluators is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting {
    /// A dealer, in advance or meanwhile.
    #[default]
    Dealer,
    /// Three parties with an honest majority: the dealer takes part in every session and produces
    /// correlations while it runs, a bounded window early. Files are refused.
    ThreeParties,
    /// Client and server alone, by oblivious transfer: no dealer and no correlations.
    TwoParties,
}

impl Setting {
    pub const ALL: [Self; 3] = [Self::Dealer, Self::ThreeParties, Self::TwoParties];
    /// Those in which a dealer makes correlations.
    pub const DEALT: [Self; 2] = [Self::Dealer, Self::ThreeParties];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dealer => "dealer",
            Self::ThreeParties => "3pc",
            Self::TwoParties => "2pc",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|setting| setting.as_str() == text)
    }
}

/// Who computes as E0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum E0 {
    /// The client itself.
    #[default]
    Client,
    /// A computing party; the client sends shares and gets shares.
    Party,
}

impl E0 {
    pub const ALL: [Self; 2] = [Self::Client, Self::Party];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Party => crate::compat::E0_PARTY,
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "party" => Some(Self::Party),
            _ => Self::ALL.into_iter().find(|e0| e0.as_str() == text),
        }
    }
}

/// Which correlations a session uses; named in the handshake, so that neither side chooses alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Correlations {
    /// The dealer streams them while the session runs.
    #[default]
    Live,
    /// The server has them in a file.
    #[serde(rename = "ahead")]
    Preprocessed,
    /// There are none, as there is no dealer.
    None,
}

impl Correlations {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Preprocessed => "ahead",
            Self::None => "none",
        }
    }
}

/// What both ends of a session must agree on before any seed is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionParameters {
    pub protocol: u32,
    pub partition_id: String,
    /// Covers shapes, head groups, ring and fraction bits, tables and rounding.
    pub spec_sha256: String,
    /// Covers every public integer that the program computes with.
    pub public_sha256: String,
    pub setting: String,
    pub e0: String,
    pub rounding: String,
    pub reveal: String,
    /// What comparisons are made of; the client chooses among what the server offers.
    #[serde(default, rename = "material")]
    pub comparison: Comparison,
    /// How private LoRA updates are made where there is a dealer; the server chooses.
    #[serde(default, skip_serializing_if = "PrivateProducts::is_masks")]
    pub private_products: PrivateProducts,
}

impl SessionParameters {
    /// The parameters that this build offers for a partition.
    pub fn new(
        partition_id: &str,
        spec: &ProgramSpec,
        public: &PublicWeights,
        setting: Setting,
    ) -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            partition_id: partition_id.to_string(),
            spec_sha256: spec_sha256(spec),
            public_sha256: public.digest().to_string(),
            setting: setting.as_str().into(),
            e0: E0::Client.as_str().into(),
            rounding: spec.numeric.rounding.to_string(),
            reveal: "token".into(),
            comparison: Comparison::OneHot,
            private_products: PrivateProducts::Masks,
        }
    }

    /// The same with private updates that are made so.
    #[must_use]
    pub fn with_private_products(mut self, products: PrivateProducts) -> Self {
        self.private_products = products;
        self
    }

    /// The same with these comparisons.
    #[must_use]
    pub fn with_comparison(mut self, comparison: Comparison) -> Self {
        self.comparison = comparison;
        self
    }

    /// The same with this E0.
    #[must_use]
    pub fn with_e0(mut self, e0: E0) -> Self {
        self.e0 = e0.as_str().into();
        self
    }

    /// Client and server compute alone.
    #[must_use]
    pub fn is_two_party(&self) -> bool {
        self.setting == Setting::TwoParties.as_str()
    }

    /// Neither evaluator is the client.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.e0 == E0::Party.as_str()
    }

    /// That these parameters are of this program, for parties that see no partition.
    ///
    /// # Errors
    /// What differs.
    pub fn check_program(&self, spec: &ProgramSpec) -> Result<(), String> {
        let rounding = spec.numeric.rounding.as_str();
        if self.rounding != rounding {
            return Err(format!(
                "its program has rounding `{rounding}`, its session parameters say `{}`",
                self.rounding
            ));
        }
        if spec_sha256(spec) != self.spec_sha256 {
            return Err("its program has another digest than its session parameters say".into());
        }
        let of_updates =
            spec.lora_rank > 0 && !spec.is_full_rank() && !spec.architecture.is_encoder();
        if self.private_products == PrivateProducts::Lattice && !of_updates {
            return Err("its program has no private products by lattice".into());
        }
        Ok(())
    }

    /// # Errors
    /// [`SessionError::Mismatch`] naming the first field that differs.
    pub fn check(&self, theirs: &Self) -> Result<(), SessionError> {
        let our_version = self.protocol.to_string();
        let their_version = theirs.protocol.to_string();
        let our_comparison = self.comparison.to_string();
        let their_comparison = theirs.comparison.to_string();
        let our_products = self.private_products.as_str().to_string();
        let their_products = theirs.private_products.as_str().to_string();
        let fields = [
            ("protocol", &our_version, &their_version),
            // Before the digests that cover it, which would say less.
            ("rounding", &self.rounding, &theirs.rounding),
            ("partition_id", &self.partition_id, &theirs.partition_id),
            ("spec_sha256", &self.spec_sha256, &theirs.spec_sha256),
            ("public_sha256", &self.public_sha256, &theirs.public_sha256),
            ("setting", &self.setting, &theirs.setting),
            ("e0", &self.e0, &theirs.e0),
            ("reveal", &self.reveal, &theirs.reveal),
            ("comparison", &our_comparison, &their_comparison),
            ("private_products", &our_products, &their_products),
        ];
        match fields.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            None => Ok(()),
            Some((field, ours, theirs)) => Err(SessionError::Mismatch {
                field,
                ours: ours.clone(),
                theirs: peer_text(theirs),
            }),
        }
    }
}

/// Digest of a program: of its JSON, whose floats survive a round trip unchanged.
pub fn spec_sha256(spec: &ProgramSpec) -> String {
    hex(&Sha256::digest(
        serde_json::to_vec(spec).expect("a spec has string keys only"),
    ))
}
