//! What an engine is asked about one prompt, and what it says.

use crate::EvalError;

/// What is asked about one prompt.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Continuations whose likelihoods are asked for.
    pub continuations: Vec<Vec<u32>>,
    /// Most tokens of a greedy answer; without a number none is asked for.
    pub max_new_tokens: Option<usize>,
}

/// What is said to a [`Request`].
#[derive(Debug)]
pub struct Reply {
    /// Natural logarithm of the probability of each continuation, summed over its tokens.
    pub scores: Result<Vec<f64>, EvalError>,
    /// The greedy answer, empty where none was asked for.
    pub answer: Result<Vec<u32>, EvalError>,
}

/// Hears the replies that are complete, each with the number of its request, in any order; an error
/// ends it all.
pub type Listener<'a> = dyn FnMut(Vec<(usize, Reply)>) -> Result<(), EvalError> + 'a;
