//! The scales and widths of the decoder program. Part of every manifest and of the handshake.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex;

/// A numeric format. Every field is public; two parties whose formats differ refuse each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericSpec {
    /// Version of the numeric format: tables, where values are truncated, tie rules.
    #[serde(rename = "law")]
    pub version: u32,
    /// Fractional bits of the residual stream.
    pub residual_frac_bits: u32,
    /// Fractional bits of normalized activations, queries, keys, values, gates.
    pub frac_bits: u32,
    /// Fractional bits of a product of two weights (`A·B`), and of public weights after alignment.
    pub weight_frac_bits: u32,
    /// Fractional bits of the rotary tables.
    pub rope_frac_bits: u32,
    /// `exact` or `stochastic`.
    pub rounding: Rounding,
    /// SHA-256 of the committed tables.
    pub tables: String,
}

/// How a truncation rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Half up, bit for bit the same in every engine.
    Exact,
    /// Up with a probability equal to the fraction dropped, by rounding randomness that the
    /// evaluators see.
    Stochastic,
}

impl Default for NumericSpec {
    fn default() -> Self {
        Self {
            version: 3,
            residual_frac_bits: 15,
            frac_bits: 14,
            weight_frac_bits: 24,
            rope_frac_bits: 12,
            rounding: Rounding::Exact,
            tables: crate::tables::digest(),
        }
    }
}

impl std::fmt::Display for Rounding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Rounding {
    pub const ALL: [Self; 2] = [Self::Exact, Self::Stochastic];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Stochastic => "stochastic",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|rounding| rounding.as_str() == text)
    }

    /// The largest error of a truncation, in units of its result; randomness of eight bits and what
    /// is dropped below them add a 64th.
    #[must_use]
    pub fn error(self) -> f64 {
        match self {
            Self::Exact => 0.5,
            Self::Stochastic => 1.0 + 1.0 / 64.0,
        }
    }
}

impl NumericSpec {
    /// The numbers of this version with a rounding.
    #[must_use]
    pub fn with_rounding(rounding: Rounding) -> Self {
        Self {
            rounding,
            ..Self::default()
        }
    }

    /// SHA-256 over the canonical JSON of the format, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let json = serde_json::to_string(self).expect("a plain struct serializes");
        hex(&Sha256::digest(json.as_bytes()))
    }
}
