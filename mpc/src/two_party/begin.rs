//! How a session's two engines begin, and what is refused.

use std::sync::Arc;

use marill_net::Channel;
use marill_ot::Source;
use marill_two_party::{OtError, Session};

use crate::{
    error::{ProtocolError, ProtocolResult},
    sampling::Sampling,
    spec::{MapSpec, ProgramSpec},
    two_party::{FactorBits, Gates, TwoParty},
    weights::PrivateWeights,
};

/// Most bits of an element: quantization keeps them below `2^30`.
const MOST_FACTOR_BITS: u32 = 31;

impl TwoParty {
    /// Whether two parties run this program and choose tokens in this way.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`].
    pub fn check(spec: &ProgramSpec, sampling: Option<Sampling>) -> Result<(), ProtocolError> {
        supported(spec, sampling)
    }
}

impl<C: Channel, S: Source> TwoParty<C, S> {
    /// E0. Waits for E1 to say how wide its factors are.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`] for a program that this engine does not run,
    /// [`ProtocolError::Peer`] when E1 is gone, [`ProtocolError::TwoParty`] when it says a width
    /// that no factor has.
    pub fn client(spec: &ProgramSpec, mut session: Session<C, S>) -> ProtocolResult<Self> {
        supported(spec, None)?;
        let told = session.link().receive("factor widths", 2)?;
        let factor_bits = FactorBits {
            a: told[0].into(),
            b: told[1].into(),
        };
        for bits in [factor_bits.a, factor_bits.b] {
            if !(1..=MOST_FACTOR_BITS).contains(&bits) {
                return Err(ProtocolError::TwoParty(OtError::Parameters {
                    what: "the bits of a factor",
                    own: MOST_FACTOR_BITS.into(),
                    peer: bits.into(),
                }));
            }
        }
        let gates = Gates::live(session);
        Ok(Self::new(spec, gates, None, factor_bits))
    }

    /// E1, with its private weights.
    ///
    /// # Errors
    /// As [`Self::client`], and [`ProtocolError::AdapterMismatch`] for weights of another model.
    pub fn server(
        spec: &ProgramSpec,
        private: Arc<PrivateWeights>,
        mut session: Session<C, S>,
    ) -> ProtocolResult<Self> {
        supported(spec, None)?;
        check_private(spec, &private)?;
        let widest = |of: fn(&crate::weights::Lora) -> &Vec<u64>| {
            let elements = private.lora.iter().flat_map(of);
            elements.map(|v| signed_bits(*v)).max().unwrap_or(1)
        };
        let factor_bits = FactorBits {
            a: widest(|lora| &lora.a),
            b: widest(|lora| &lora.b),
        };
        let told = [factor_bits.a as u8, factor_bits.b as u8];
        session.link().send("factor widths", &told)?;
        let gates = Gates::live(session);
        Ok(Self::new(spec, gates, Some(private), factor_bits))
    }
}

/// Bits of a signed integer, sign included.
pub(super) fn signed_bits(v: u64) -> u32 {
    let v = v as i64;
    let magnitude = if v < 0 { !v } else { v };
    65 - magnitude.leading_zeros()
}

/// What is refused of a sampled token.
pub const TOP_K: &str = "top-k";

pub(super) fn supported(spec: &ProgramSpec, sampling: Option<Sampling>) -> ProtocolResult<()> {
    let refused = |what| Err(ProtocolError::Unsupported { what });
    if spec.is_full_rank() {
        return refused("full-rank private weights (`private = \"full\"`)");
    }
    if sampling.is_some_and(|sampling| sampling.top_k().is_some()) {
        return refused(TOP_K);
    }
    Ok(())
}

pub(super) fn check_private(spec: &ProgramSpec, private: &PrivateWeights) -> ProtocolResult<()> {
    let expected = if spec.lora_rank == 0 {
        0
    } else {
        spec.num_maps()
    };
    let fits = private.full.is_empty() && private.lora.len() == expected;
    let shapes = || {
        let maps = spec.maps().zip(&private.lora);
        let fits = |(map, lora): (MapSpec, &crate::weights::Lora)| {
            map.factor_lens() == [lora.a.len(), lora.b.len()]
        };
        maps.into_iter().all(fits)
    };
    if fits && shapes() {
        Ok(())
    } else {
        Err(ProtocolError::AdapterMismatch)
    }
}
