//! What a session keeps between steps.

use crate::{engine::Engine, sampling::Sampling, spec::ProgramSpec};

/// What a session keeps between steps: cached keys and values of every layer, and the padding's
/// bias.
pub struct Cache<E: Engine> {
    pub(crate) layers: Vec<(Option<E::Wire>, Option<E::Wire>)>,
    pub(crate) bias: Option<E::Wire>,
    pub(crate) sampling: Option<Sampling>,
    pub(crate) len: usize,
}

impl<E: Engine> Cache<E> {
    #[must_use]
    pub fn new(spec: &ProgramSpec) -> Self {
        Self {
            layers: (0..spec.num_layers).map(|_| (None, None)).collect(),
            bias: None,
            sampling: None,
            len: 0,
        }
    }

    /// Returns self with sampling; none: greedy decoding.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.sampling = sampling;
        self
    }

    /// Cached positions, padding included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
