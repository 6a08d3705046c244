//! How a session's two engines begin, and what is refused.

use std::sync::Arc;

use marill_net::Channel;
use marill_ot::Source;
use marill_two_party::{OtError, Session};

use crate::{
    error::{ProtocolError, ProtocolResult},
    sampling::{Sampling, Selection},
    spec::{MapSpec, ProgramSpec},
    two_party::{FactorBits, Gates, Preparation, TwoParty, tally_preparations},
    weights::{FullRankMap, PrivateWeights},
};

/// Most bits of an element: quantization keeps them below `2^30`.
const MOST_FACTOR_BITS: u32 = 31;

impl TwoParty {
    /// Whether two parties run this program and choose tokens in this way.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`].
    pub fn check(spec: &ProgramSpec, sampling: Option<Sampling>) -> Result<(), ProtocolError> {
        supported(sampling)?;
        if spec.is_full_rank() {
            // Whether any parameters hold the noise of such matrices.
            let prompt = Preparation {
                rows: spec.bucket(1),
                steps: 1,
            };
            tally_preparations(spec, Selection::Greedy, &[prompt], None)?;
        }
        Ok(())
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
        supported(None)?;
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
        supported(None)?;
        check_private(spec, &private)?;
        let widest = |of: fn(&crate::weights::Lora) -> &Vec<u64>| {
            let elements = private.lora.iter().flat_map(of);
            elements.map(|v| signed_bits(*v)).max().unwrap_or(1)
        };
        let whole = private.full.iter().flat_map(FullRankMap::weights);
        let factor_bits = FactorBits {
            a: whole
                .map(signed_bits)
                .max()
                .unwrap_or(1)
                .max(widest(|lora| &lora.a)),
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

pub(super) fn supported(sampling: Option<Sampling>) -> ProtocolResult<()> {
    if sampling.is_some_and(|sampling| sampling.top_k().is_some()) {
        return Err(ProtocolError::Unsupported { what: TOP_K });
    }
    Ok(())
}

pub(super) fn check_private(spec: &ProgramSpec, private: &PrivateWeights) -> ProtocolResult<()> {
    let num_maps = |there: bool| if there { spec.num_maps() } else { 0 };
    let fits = private.full.len() == num_maps(spec.is_full_rank())
        && private.lora.len() == num_maps(spec.lora_rank > 0);
    let shapes = || {
        let maps = spec.maps().zip(&private.lora);
        let fits = |(map, lora): (MapSpec, &crate::weights::Lora)| {
            map.factor_lens() == [lora.a.len(), lora.b.len()]
        };
        let matrices = spec.maps().zip(private.full.iter());
        let same = |(map, full): (MapSpec, &FullRankMap)| {
            [map.rows, map.cols] == [full.matrix.rows(), full.matrix.cols()]
        };
        maps.into_iter().all(fits) && { matrices }.all(same)
    };
    if fits && shapes() {
        Ok(())
    } else {
        Err(ProtocolError::AdapterMismatch)
    }
}
