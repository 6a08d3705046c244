//! A decoder with its key-value cache: the float side of evaluation and generation.

use candle_core::{IndexOp, Tensor};

use crate::{Adapter, Cache, Checkpoint, Llama, ModelError, Rows, Transforms};

/// The whole model in floats with a key-value cache, for evaluation and generation.
pub struct FloatModel {
    decoder: Llama,
    caches: Vec<Cache>,
    len: usize,
}

impl FloatModel {
    /// A base model with what a fine-tune changed.
    ///
    /// # Errors
    /// [`ModelError`] when the adapter or the transforms do not fit the base.
    pub fn new(
        base: &Checkpoint,
        transforms: &Transforms,
        adapter: Option<&Adapter>,
    ) -> Result<Self, ModelError> {
        Ok(Self::from_decoder(tuned(base, transforms, adapter)?))
    }

    /// Wraps a decoder that is already built.
    pub fn from_decoder(decoder: Llama) -> Self {
        let caches = vec![Cache::default(); decoder.layers.len()];
        Self {
            decoder,
            caches,
            len: 0,
        }
    }

    /// Appends tokens to the cache and returns the logits behind the last one, `[vocab]`.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], [`ModelError::TokenOutOfRange`].
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let x = self.append(tokens)?;
        let last = self
            .decoder
            .finish(&x.i(tokens.len() - 1..)?.contiguous()?)?;
        Ok(self.decoder.logits(&last)?.flatten_all()?.to_vec1()?)
    }

    /// Appends tokens to the cache and returns the logits behind each of them, `[n, vocab]`.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], [`ModelError::TokenOutOfRange`].
    pub fn all_logits(&mut self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let x = self.append(tokens)?;
        self.decoder.logits(&self.decoder.finish(&x)?)
    }

    /// The residual stream after each layer for a sequence of its own: `[layers + 1]` of
    /// `n * hidden`, the embedding first. The cache is neither read nor changed.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], [`ModelError::TokenOutOfRange`].
    pub fn layer_outputs(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ModelError> {
        let rows = Rows::packed(&[tokens.len()]);
        let mut x = self.decoder.embed(tokens)?;
        let mut out = vec![x.flatten_all()?.to_vec1()?];
        for layer in 0..self.decoder.layers.len() {
            x = self.decoder.run(x, layer..layer + 1, &rows, None)?;
            out.push(x.flatten_all()?.to_vec1()?);
        }
        Ok(out)
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let x = self.decoder.embed(tokens)?;
        let rows = Rows::appended(self.len, tokens.len());
        let layers = self.decoder.layers.len();
        let x = self
            .decoder
            .run(x, 0..layers, &rows, Some(&mut self.caches))?;
        self.len += tokens.len();
        Ok(x)
    }

    /// Forgets the cached sequence.
    pub fn reset(&mut self) {
        self.caches.iter_mut().for_each(Cache::clear);
        self.len = 0;
    }

    /// Forgets the cached tokens behind the first `len`: prompts with a common beginning need not
    /// repeat it.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] from candle.
    pub fn truncate(&mut self, len: usize) -> Result<(), ModelError> {
        self.caches
            .iter_mut()
            .try_for_each(|cache| cache.truncate(len))?;
        self.len = self.len.min(len);
        Ok(())
    }

    /// Number of cached tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The model behind it.
    pub fn decoder(&self) -> &Llama {
        &self.decoder
    }
}

/// The decoder of a base model with what a fine-tune changed.
///
/// # Errors
/// [`ModelError`] when the adapter or the transforms do not fit the base.
pub(crate) fn tuned(
    base: &Checkpoint,
    transforms: &Transforms,
    adapter: Option<&Adapter>,
) -> Result<Llama, ModelError> {
    if let (Some(adapter), Some(lora)) = (adapter, &transforms.lora) {
        adapter.check(&base.config, lora, transforms.frozen_layers)?;
    }
    let factors = adapter.map_or_else(Default::default, |a| a.tensors.clone());
    let vb = base.var_builder_with(factors);
    Llama::new(base.config.llama()?, transforms, vb)
}
