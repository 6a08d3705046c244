//! What a client is asked for, and what it answers.

use std::time::Duration;

use marill_mpc::{Comparison, Sampling};
use marill_net::RequestId;

use crate::{
    client::{
        cost::{Cost, Offline},
        progress::StepProgress,
        session::SecureSession,
    },
    terms::Correlations,
};

/// An answer to ask for.
#[derive(Clone, Default)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// None: as many as fit.
    pub max_tokens: Option<usize>,
    /// Go on after an end token, up to `max_tokens`.
    pub ignore_eos: bool,
    /// Before this many tokens neither an end token nor a stop text ends the answer. An end token
    /// that is chosen still appears: one token is revealed, no runner-up.
    pub min_tokens: usize,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Keep the boundary integers, for a comparison with the twin.
    pub keep_boundary: bool,
    /// How tokens are sampled; none: greedy decoding.
    pub sampling: Option<Sampling>,
    /// Go on in the session of an earlier answer whose tokens this prompt begins with, and let
    /// this one wait for a further prompt, where the server keeps sessions.
    pub keep: bool,
    /// Its name in the logs of all services that take part; none: a fresh one.
    pub id: Option<RequestId>,
}

/// What happens while an answer is made.
pub enum Event {
    /// `session`, `prefill` or `token`.
    Phase(&'static str),
    /// Behind the phase `prefill`, where the prompt is computed step by step together with a
    /// server.
    Step(StepProgress),
    /// Whole characters of the answer.
    Text(String),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop text.
    Stop,
    /// The limit of tokens or of the context.
    Length,
    /// The caller's own wish.
    Cancelled,
}

impl Finish {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop | Self::Cancelled => "stop",
            Self::Length => "length",
        }
    }
}

/// An answer and what it cost.
pub struct Answer {
    /// Its request's name in the services' logs.
    pub request_id: RequestId,
    pub text: String,
    /// The end token included.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Those of the prompt that an earlier turn's session had seen.
    pub cached_tokens: usize,
    pub finish: Finish,
    pub correlations: Correlations,
    /// What comparisons were made of, where a dealer's correlations are.
    pub comparison: Option<Comparison>,
    /// From asking the dealer to being ready for the prompt.
    pub open_seconds: f64,
    pub prefill: Cost,
    /// All steps after the prefill.
    pub decode: Cost,
    pub decode_steps: usize,
    /// Between client and server alone: what of this depends on no input, with what was made
    /// while the user read the answer before.
    pub offline: Option<Offline>,
    /// Boundary integers by step, where asked for.
    pub boundary: Vec<Vec<u64>>,
}

impl Answer {
    /// An answer without a token yet, of a session that took so long to open.
    pub(super) fn begun(
        request: &Request,
        id: &RequestId,
        session: &SecureSession,
        opened_in: Duration,
    ) -> Self {
        Self {
            request_id: id.clone(),
            text: String::new(),
            tokens: Vec::new(),
            prompt_tokens: request.prompt.len(),
            cached_tokens: 0,
            finish: Finish::Length,
            correlations: session.correlations,
            comparison: (session.correlations != Correlations::None).then_some(session.comparison),
            open_seconds: opened_in.as_secs_f64(),
            prefill: Cost::default(),
            decode: Cost::default(),
            decode_steps: 0,
            offline: None,
            boundary: Vec::new(),
        }
    }
}
