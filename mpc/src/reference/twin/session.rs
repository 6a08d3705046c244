//! A whole session of the twin: prompt, tokens, and what tests and scoring ask of them.

use std::sync::Arc;

use marill_numeric::Rounding;

use crate::{
    error::{ProtocolError, ProtocolResult},
    program,
    program::{
        cache::Cache,
        encoder,
        padding::{check_remaining_context, pad_prompt},
    },
    reference::{
        range::Headroom,
        twin::{Noise, PlaintextEngine, RoundingRandomness},
    },
    sampling::{self, Sampling},
    spec::NormKind,
    weights::{PrivateWeights, PublicWeights},
};

impl Cache<PlaintextEngine> {
    fn copy(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            bias: self.bias.clone(),
            sampling: self.sampling,
            len: self.len,
        }
    }

    fn rewind(&mut self, positions: usize) {
        let keep = positions.min(self.len);
        for tensor in self
            .layers
            .iter_mut()
            .flat_map(|(keys, values)| [keys, values])
            .flatten()
        {
            tensor.rows = keep;
            tensor.data.truncate(keep * tensor.cols);
        }
        self.len = keep;
    }
}

/// Cached rows that prompts begin with: padding and tokens.
pub struct TwinBeginning {
    cache: Cache<PlaintextEngine>,
}

/// A whole session on plain integers: what a secure session must answer.
pub struct Twin {
    weights: Arc<PublicWeights>,
    engine: PlaintextEngine,
    cache: Cache<PlaintextEngine>,
    sampling: Option<Sampling>,
}

impl Twin {
    #[must_use]
    pub fn new(weights: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        let rank = weights.spec.lora_rank;
        let engine =
            PlaintextEngine::new(private, rank).with_rounding(weights.spec.numeric.rounding);
        let cache = Cache::new(&weights.spec);
        Self {
            weights,
            engine,
            cache,
            sampling: None,
        }
    }

    /// As [`Self::new`], rounding half up whatever the spec says: what a session that rounds
    /// stochastically is near to, and the same every time.
    #[must_use]
    pub fn exact(weights: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        let twin = Self::new(weights, private);
        Self {
            engine: twin.engine.with_rounding(Rounding::Exact),
            ..twin
        }
    }

    /// Runs a prompt (`n · hidden_size` encoded boundary activations) and returns the first token
    /// of the answer.
    ///
    /// # Errors
    /// [`ProtocolError::Range`] when a value leaves its wire's range, [`ProtocolError::TooLong`]
    /// past the context.
    pub fn prefill(&mut self, boundary: &[u64]) -> ProtocolResult<u32> {
        self.reset();
        let (padded, bias, bucket) = pad_prompt(&self.weights.spec, boundary)?;
        self.step(&padded, Some(&bias), bucket)
    }

    /// The first `positions` cached rows, padding included.
    #[must_use]
    pub fn beginning(&self, positions: usize) -> TwinBeginning {
        let mut cache = self.cache.copy();
        cache.rewind(positions);
        TwinBeginning { cache }
    }

    /// Runs a prompt whose first rows, padding included, are those of `beginning`; `boundary` has
    /// the others. Every row depends on itself and those before it alone, so where rounding is
    /// exact the integers are those of [`Self::prefill`].
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn prefill_behind(
        &mut self,
        beginning: &TwinBeginning,
        boundary: &[u64],
    ) -> ProtocolResult<u32> {
        let spec = &self.weights.spec;
        let rows = boundary.len() / spec.hidden_size;
        if rows == 0 || !boundary.len().is_multiple_of(spec.hidden_size) {
            return Err(ProtocolError::MissingInput);
        }
        check_remaining_context(spec, beginning.cache.len(), rows)?;
        self.cache = beginning.cache.copy().with_sampling(self.sampling);
        self.step(boundary, None, rows)
    }

    /// Whether the twin rounds half up, so that the same input gives the same integers.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.engine.is_exact()
    }

    /// What entered the output head in the last step, in units of activations.
    #[must_use]
    pub fn last_hidden(&self) -> Vec<f64> {
        let unit = f64::from(self.weights.spec.numeric.residual_frac_bits).exp2();
        self.engine
            .last_hidden
            .iter()
            .map(|&v| v as i64 as f64 / unit)
            .collect()
    }

    /// Runs one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, boundary: &[u64]) -> ProtocolResult<u32> {
        check_remaining_context(&self.weights.spec, self.cache.len(), 1)?;
        self.step(boundary, None, 1)
    }

    /// Runs a text through an encoder that reveals its pooled row: `hidden_size` values of the
    /// residual scale.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn embed(&mut self, boundary: &[u64]) -> ProtocolResult<Vec<u64>> {
        let (padded, bias, bucket) = pad_prompt(&self.weights.spec, boundary)?;
        let row = encoder::embed(
            &mut self.engine,
            &self.weights,
            Some(&padded),
            Some(&bias),
            bucket,
        )?;
        row.ok_or(ProtocolError::MissingInput)
    }

    fn step(&mut self, boundary: &[u64], bias: Option<&[u64]>, rows: usize) -> ProtocolResult<u32> {
        let token = program::step(
            &mut self.engine,
            &self.weights,
            &mut self.cache,
            Some(boundary),
            bias,
            rows,
        )?;
        token.ok_or(ProtocolError::MissingInput)
    }

    /// Cached positions, padding included.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cache.len()
    }

    /// Goes back to an earlier position behind a prompt: later steps find what they would have
    /// found then.
    pub fn rewind(&mut self, positions: usize) {
        self.cache.rewind(positions);
    }

    /// Forgets the session.
    pub fn reset(&mut self) {
        self.cache = Cache::new(&self.weights.spec).with_sampling(self.sampling);
    }

    /// Keeps every value that later steps open, for comparison with another engine.
    pub fn start_trace(&mut self) {
        self.engine.trace = Some(Vec::new());
    }

    /// From here on, looks how near every value comes to the edge of its wire.
    pub fn start_measuring(&mut self) {
        self.engine.least_headroom = Some(None);
    }

    /// The label that came nearest since [`Self::start_measuring`].
    #[must_use]
    pub fn least_headroom(&self) -> Option<Headroom> {
        self.engine.least_headroom.flatten()
    }

    /// Returns self with sampling, by noise of its own, so that it samples what a session samples
    /// and equals none.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.sampling = sampling;
        self.reset();
        self
    }

    /// Takes the noise of a recorded session from here on.
    pub fn take_noise(&mut self, noise: Vec<u64>) {
        self.engine.noise = Noise::Given(noise.into_iter());
    }

    /// Rounds by the randomness of a recorded session from here on.
    pub fn take_randomness(&mut self, randomness: Vec<u64>) {
        self.engine.rounding = RoundingRandomness::Given(randomness.into_iter());
    }

    /// The values recorded since [`Self::start_trace`], by label.
    pub fn take_trace(&mut self) -> Vec<(&'static str, Vec<u64>)> {
        self.engine.trace.take().unwrap_or_default()
    }

    /// The logits of the last step in floating point, with the final norm applied: for scoring
    /// only.
    #[must_use]
    pub fn last_logits(&self) -> Vec<f32> {
        let spec = &self.weights.spec;
        if self.engine.sampled {
            let unit = sampling::unit(spec);
            return self
                .engine
                .logits
                .iter()
                .map(|&v| (v as i64 as f64 / unit) as f32)
                .collect();
        }
        // The program leaves out the last norm; it is made up for in floats.
        let head = f64::from(self.weights.lm_head_frac_bits).exp2();
        if spec.architecture.norm() != NormKind::Rms {
            let unit = f64::from(spec.map_input_frac_bits()).exp2() * head;
            return self
                .engine
                .logits
                .iter()
                .map(|&v| (v as i64 as f64 / unit) as f32)
                .collect();
        }
        let residual = f64::from(spec.numeric.residual_frac_bits).exp2();
        // rms = sqrt(Σ h²/n + epsilon).
        let squares: f64 = self
            .engine
            .last_hidden
            .iter()
            .map(|&v| (v as i64 as f64 / residual).powi(2))
            .sum();
        let rms = (squares / spec.hidden_size as f64 + spec.rms_norm_eps).sqrt();
        let unit = residual * head * rms;
        self.engine
            .logits
            .iter()
            .map(|&v| (v as i64 as f64 / unit) as f32)
            .collect()
    }
}
