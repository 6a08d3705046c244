//! The server's private part, and its masked form.

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_numeric::{hex, ring};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{
    spec::{MapId, ProgramSpec, SpecError},
    weights::{
        AffineLayerFloats, FullRankMap, LayerFloats, Lora, LoraFloats, PublicMap, PublicWeights,
        QuantizedLayer, affine, expect_len, full, llama, lora::quantize_lora,
    },
};

/// The server's secret as integers: the adapter, or full-rank weights. Never printed.
#[derive(Default)]
pub struct PrivateWeights {
    /// The update of each map; empty when the rank is 0.
    pub(crate) lora: Vec<Lora>,
    /// Each map as a whole; empty where the spec keeps LoRA updates.
    pub(crate) full: Arc<Vec<FullRankMap>>,
}

/// The private weights plus a mask that only the server and the dealer can expand; sent to the
/// client once.
pub struct MaskedAdapter {
    /// The masked update of each map; empty when the rank is 0.
    pub(crate) lora: Vec<Lora>,
    /// `Ŵ` of each map, row-major `[out, in]`; empty where the spec keeps LoRA updates.
    pub(crate) full: Arc<Vec<Vec<u64>>>,
    /// Widths of the matrices of `full`.
    full_bits: Vec<u32>,
}

impl PrivateWeights {
    /// Quantizes an adapter, an update for each map in the order of [`ProgramSpec::maps`]. A
    /// missing one is a zero update, so that shapes tell nothing about it.
    ///
    /// # Errors
    /// [`SpecError::Length`] for a factor of the wrong size, [`SpecError::Invalid`] for a value
    /// that does not fit.
    pub fn from_floats(
        public: &PublicWeights,
        updates: Vec<Option<LoraFloats>>,
    ) -> Result<Self, SpecError> {
        let spec = &public.spec;
        // Factors and full-rank weights exclude each other: a spec names one.
        if spec.is_full_rank() {
            let problem = "keeps full-rank weights, not LoRA updates".to_owned();
            return Err(SpecError::Invalid {
                field: "private",
                problem,
            });
        }
        if spec.lora_rank == 0 {
            return Ok(Self::default());
        }
        expect_len("adapter maps", spec.num_maps(), updates.len())?;
        let lora = spec
            .maps()
            .zip(updates)
            .map(|(map, floats)| quantize_lora(public, &map, floats));
        Ok(Self {
            lora: lora.collect::<Result<_, _>>()?,
            full: Arc::default(),
        })
    }

    /// What is added to a map's product in clear; empty when there is nothing.
    pub(crate) fn row(&self, map: MapId) -> &[u64] {
        let full = self.full.get(map.index()).map(|full| &full.row);
        let row = full.or_else(|| self.lora.get(map.index()).map(|lora| &lora.row));
        row.map_or(&[], Vec::as_slice)
    }

    /// Everything in it as bytes, by which a server names its private part: little-endian 32-bit
    /// integers, `A` then `B` of each module, then the rows of 64 bits where there are any;
    /// full-rank weights with their scales and rows.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.lora.iter().flat_map(|l| l.a.iter().chain(&l.b));
        let rows = self
            .lora
            .iter()
            .flat_map(|l| l.row.iter().flat_map(|v| v.to_le_bytes()));
        let mut bytes: Vec<u8> = values
            .flat_map(|v| (*v as i64 as i32).to_le_bytes())
            .chain(rows)
            .collect();
        self.full
            .iter()
            .for_each(|map| map.append_bytes(&mut bytes));
        bytes
    }

    /// The private weights under the mask of one client, and the only form in which it leaves the
    /// server.
    ///
    /// The mask is a one-time pad: one `adapter_seed` belongs to one (client, partition), never to
    /// two adapters.
    #[must_use]
    pub fn mask(&self, spec: &ProgramSpec, adapter_seed: &Seed) -> MaskedAdapter {
        // Â = A + R_A, B̂ = B + R_B.
        let masks = adapter_masks(spec, adapter_seed);
        let add = |x: &[u64], r: &[u64]| {
            let mut masked = x.to_vec();
            ring::add_to(&mut masked, r);
            masked
        };
        let lora = self.lora.iter().zip(&masks).map(|(lora, mask)| Lora {
            a: add(&lora.a, &mask.a),
            b: add(&lora.b, &mask.b),
            row: Vec::new(),
        });
        MaskedAdapter {
            lora: lora.collect(),
            full: Arc::new(full::mask(&self.full, spec, adapter_seed)),
            full_bits: spec.maps().map(|map| map.private_bits).collect(),
        }
    }
}

impl PrivateWeights {
    /// Quantizes the private layers of a full fine-tune: all maps with their norms' gains.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] when the spec keeps a LoRA update, [`SpecError::Length`] for a tensor
    /// of the wrong size, [`SpecError::Numeric`] for a weight that does not fit.
    pub fn full_from_floats(
        spec: &ProgramSpec,
        layers: &[LayerFloats<'_>],
    ) -> Result<Self, SpecError> {
        Self::full(spec, layers, llama::quantize_layer)
    }

    /// As [`Self::full_from_floats`] for GPT-2 and BERT. BERT's own norms are not taken: they stay
    /// public.
    ///
    /// # Errors
    /// As [`Self::full_from_floats`].
    pub fn full_from_affine_floats(
        spec: &ProgramSpec,
        layers: &[AffineLayerFloats<'_>],
    ) -> Result<Self, SpecError> {
        Self::full(spec, layers, affine::layer)
    }

    fn full<F: Sync>(
        spec: &ProgramSpec,
        layers: &[F],
        quantize: impl Fn(&ProgramSpec, usize, &F) -> Result<QuantizedLayer, SpecError> + Sync,
    ) -> Result<Self, SpecError> {
        spec.validate()?;
        if !spec.is_full_rank() {
            let problem = "keeps LoRA updates, not full-rank weights".to_owned();
            return Err(SpecError::Invalid {
                field: "private",
                problem,
            });
        }
        expect_len("private layers", spec.num_layers, layers.len())?;
        let layers = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| Ok(quantize(spec, l, floats)?.0))
            .collect::<Result<Vec<Vec<PublicMap>>, SpecError>>()?;
        let full = layers.into_iter().flatten().map(FullRankMap::from);
        Ok(Self {
            lora: Vec::new(),
            full: Arc::new(full.collect()),
        })
    }
}

impl MaskedAdapter {
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if !self.full.is_empty() {
            return full::to_bytes(&self.full_bits, &self.full);
        }
        let values = self.lora.iter().flat_map(|l| l.a.iter().chain(&l.b));
        values.flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Length of [`Self::to_bytes`] for a spec.
    #[must_use]
    pub fn bytes_of(spec: &ProgramSpec) -> usize {
        let factors = spec.maps().flat_map(|map| map.factor_lens()).sum::<usize>();
        factors * 8 + full::masked_bytes(spec)
    }

    /// # Errors
    /// [`SpecError::Corrupt`] when the length does not fit the spec.
    pub fn from_bytes(spec: &ProgramSpec, bytes: &[u8]) -> Result<Self, SpecError> {
        let full_bits = spec.maps().map(|map| map.private_bits).collect();
        if spec.is_full_rank() {
            return Ok(Self {
                lora: Vec::new(),
                full: Arc::new(full::from_bytes(spec, bytes)?),
                full_bits,
            });
        }
        let values = bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
        let lora = unflatten(spec, values.collect(), bytes.len() / 8 * 8 == bytes.len())?;
        Ok(Self {
            lora,
            full: Arc::default(),
            full_bits,
        })
    }

    /// SHA-256 in hex, for caching.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_bytes()))
    }
}

/// The masks `R_A`, `R_B` of every map, expanded from the seed that server and dealer share.
pub(crate) fn adapter_masks(spec: &ProgramSpec, adapter_seed: &Seed) -> Vec<Lora> {
    if spec.lora_rank == 0 {
        return Vec::new();
    }
    let mut prg = Prg::new(adapter_seed, "adapter mask");
    // One stream, A then B of every map: server and dealer expand the same.
    let lora = spec.maps().map(|map| {
        let [a, b] = map.factor_lens().map(|n| prg.words(n));
        let row = Vec::new();
        Lora { a, b, row }
    });
    lora.collect()
}

fn unflatten(spec: &ProgramSpec, values: Vec<u64>, whole: bool) -> Result<Vec<Lora>, SpecError> {
    // Compared before anything is taken: a short file must not become short factors.
    let expected: usize = spec.maps().flat_map(|map| map.factor_lens()).sum();
    if !whole || values.len() != expected {
        return Err(SpecError::Corrupt(format!(
            "{} values where {expected} belong",
            values.len(),
        )));
    }
    if spec.lora_rank == 0 {
        return Ok(Vec::new());
    }
    let mut values = values.into_iter();
    let lora = spec.maps().map(|map| {
        let [a, b] = map
            .factor_lens()
            .map(|n| values.by_ref().take(n).collect::<Vec<u64>>());
        let row = Vec::new();
        Lora { a, b, row }
    });
    Ok(lora.collect())
}
