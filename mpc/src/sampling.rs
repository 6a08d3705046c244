//! Sampled tokens: temperature and top-k inside the secure program.
//!
//! # Functionality
//! With logits `l` (the final norm applied, temperature 1), a public temperature `T` and
//! independent standard Gumbel noise `g`, `argmax_i(l_i + T·g_i)` is a sample of `softmax(l / T)`
//! (Gumbel-max; Maddison, Tarlow, Minka, "A* Sampling", NIPS '14, section 2). With top-k, elements
//! below the k-th largest logit drop out first. The client learns the index, the server nothing;
//! temperature and k are public, as they belong to the request.
//!
//! # The noise is the server's own input
//! E1 samples it from its operating system's generator, afresh for every token, and adds it to its
//! own share of the logits: no round, no byte, no correction. Consequences, stated because each is
//! a choice:
//! - Views are those of the greedy program over other values, so its simulators carry over: an
//!   input of E1's own is an input. The client cannot know the noise, hence cannot turn answers
//!   into inequalities between chosen logits (with noise of its own choice it could read logits off
//!   bit by bit: Carlini et al., "Stealing Part of a Production Language Model", ICML '24, section
//!   5).
//! - An honest but curious server learns nothing: its noise is independent of everything it
//!   receives.
//! - A server that deviates can choose the noise, and so the token, as it could by answering with
//!   another adapter; nobody notices. Whether the client then stops tells such a server one bit a
//!   token about a comparison of its choice. That is outside the semi-honest model, like every
//!   other deviation.
//! - Who asks the same prompt `n` times learns the distribution up to `1/sqrt(n)`: more of the
//!   model than the arg-max tells, at the price of `n` answers. A server may refuse sampling.
//! - No seed of a client's can repeat an answer.
//!
//! # Error
//! Logits and noise have [`FRAC_BITS`] fractional bits, each rounded once, so that the gap of two
//! sums is off by at most `ε = 2^-15/T` in units of the temperature. A gap below `ε` between the
//! best two has a probability of at most `ε·e^ε` (the gap to the best of the others is logistic;
//! summed over winners, `Σ p(1-p) <= 1`), so the total variation distance to `softmax` of the
//! program's own logits is at most `3.1e-5/T`. The noise is `-ln(-ln(1 - u))` with `u` of 63 bits:
//! no value is above 44 or below -3.7, and the chance that a vocabulary of 50,000 meets a value
//! whose grid is coarser than half a unit is below 1e-9.

use marill_crypto::Prg;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::spec::{NormKind, ProgramSpec, SpecError};

/// Fractional bits of sampled logits and of their noise.
pub const FRAC_BITS: u32 = 16;
/// Fractional bits that logits can have as the head makes them: 14 and those of a weight.
pub const RAW_FRAC_BITS: u32 = 38;
/// Width of a wire of sampled logits.
pub(crate) const WIDTH: u32 = 32;
/// Sampled logits must stay below `2^RANGE_BITS` units: 256.
pub(crate) const RANGE_BITS: u32 = 24;
/// Subtracted from a logit that drops out: above the range of logits and noise together, below a
/// quarter of the wire.
pub(crate) const PENALTY: u64 = 1 << 29;
/// The highest temperature, as in OpenAI's interface.
pub const MAX_TEMPERATURE: f64 = 2.0;

/// How a session's tokens are sampled; none of this is secret.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Sampling {
    temperature: f64,
    top_k: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    temperature: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
}

impl Sampling {
    /// `None` where the choice has no freedom: at temperature 0, or with a `top_k` of 1.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] for a temperature outside `[0, 2]` or a `top_k` of 0.
    pub fn new(temperature: f64, top_k: Option<u32>) -> Result<Option<Self>, SpecError> {
        if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
            let problem = format!("must lie between 0 and {MAX_TEMPERATURE}");
            return Err(SpecError::Invalid {
                field: "temperature",
                problem,
            });
        }
        if top_k == Some(0) {
            return Err(SpecError::Invalid {
                field: "top_k",
                problem: "must be at least 1".into(),
            });
        }
        Ok((temperature > 0.0 && top_k != Some(1)).then_some(Self { temperature, top_k }))
    }

    #[must_use]
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    #[must_use]
    pub fn top_k(&self) -> Option<u32> {
        self.top_k
    }

    /// The noise's factor.
    pub(crate) fn noise_scale(&self, spec: &ProgramSpec) -> f64 {
        self.temperature * unit(spec)
    }
}

impl TryFrom<Unchecked> for Sampling {
    type Error = SpecError;

    fn try_from(raw: Unchecked) -> Result<Self, SpecError> {
        // A peer must not name parameters that mean greedy: there the dealer's program is another.
        let problem = "samples no token".to_owned();
        Self::new(raw.temperature, raw.top_k)?.ok_or(SpecError::Invalid {
            field: "sampling",
            problem,
        })
    }
}

impl From<Sampling> for Unchecked {
    fn from(sampling: Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
        }
    }
}

/// The program that chooses a token, as far as a dealer has to know it: neither the temperature nor
/// k changes a shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The most likely token.
    #[default]
    Greedy,
    /// Sampled among all tokens.
    Temperature,
    /// Sampled among the k most likely.
    TopK,
}

impl Selection {
    pub const ALL: [Self; 3] = [Self::Greedy, Self::Temperature, Self::TopK];

    #[must_use]
    pub fn of(sampling: Option<Sampling>) -> Self {
        match sampling {
            None => Self::Greedy,
            Some(Sampling { top_k: None, .. }) => Self::Temperature,
            Some(_) => Self::TopK,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Temperature => "temperature",
            Self::TopK => "top_k",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|selection| selection.as_str() == text)
    }

    /// Some parameters of this program, for those who need its shape only.
    pub(crate) fn shape(self) -> Option<Sampling> {
        match self {
            Self::Greedy => None,
            Self::Temperature => Some(Sampling {
                temperature: 1.0,
                top_k: None,
            }),
            Self::TopK => Some(Sampling {
                temperature: 1.0,
                top_k: Some(2),
            }),
        }
    }
}

/// What a logit of one is in the program. A norm leaves out by how much the root of the width is
/// more or less than a power of two: an arg-max does not see a common factor, so the noise makes up
/// for it.
pub(crate) fn unit(spec: &ProgramSpec) -> f64 {
    let missing = match spec.architecture.norm() {
        NormKind::Rms => spec.norm_rest().recip(),
        NormKind::Layer | NormKind::PostLayer => 1.0,
    };
    missing * f64::from(FRAC_BITS).exp2()
}

/// No Gumbel value that [`gumbel`] makes is larger in magnitude.
pub(crate) const LARGEST_NOISE: f64 = 44.5;

/// Independent standard Gumbel values times `scale`, rounded to integers.
pub(crate) fn gumbel(prg: &mut Prg, n: usize, scale: f64) -> Zeroizing<Vec<u64>> {
    // Gumbel by inversion: -ln(-ln u).
    let words = Zeroizing::new(prg.words(n));
    let unit = (-63f64).exp2();
    let value = |word: &u64| {
        // The least u is 2^-64, so the double logarithm is finite at both ends.
        let u = (((word >> 1) as f64 + 0.5) * unit).min(1.0 - f64::EPSILON);
        let noise = -(-(-u).ln_1p()).ln();
        (noise * scale).round() as i64 as u64
    };
    Zeroizing::new(words.iter().map(value).collect())
}

/// The search for the k-th largest logit.
///
/// `PASSES` digits of `DIGIT_BITS` bits from the top: each pass counts how many logits lie below
/// each of `2^DIGIT_BITS - 1` candidates and compares the counts with k, all under sharing. What is
/// found is the greatest candidate that at least k logits reach, on a grid of 2^-9 over
/// `[-256, 256)`: logits within 1/512 of the k-th stay too.
pub(crate) mod search {
    /// Bits of the threshold that a pass finds.
    pub const DIGIT_BITS: u32 = 2;
    pub const PASSES: u32 = 9;
    /// One step of the grid in units of logits.
    pub const GRID_BITS: u32 = super::FRAC_BITS - 9;
    /// Candidates of a pass beyond the threshold so far.
    pub const CANDIDATES: usize = (1 << DIGIT_BITS) - 1;
    /// Width of a logit less a candidate: both in `[-2^24, 2^24)`, so that the sign is right.
    pub const WIDTH: u32 = 28;
    /// Width of a count less k.
    pub const COUNT_WIDTH: u32 = 24;
    /// Where the search starts.
    pub const LOWEST: u64 = (1u64 << (DIGIT_BITS * PASSES + GRID_BITS - 1)).wrapping_neg();

    /// Distance of neighboring candidates in a pass.
    pub const fn step(pass: u32) -> u64 {
        1 << (DIGIT_BITS * (PASSES - 1 - pass) + GRID_BITS)
    }
}
