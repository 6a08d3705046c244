//! The user's side: the public part and the plaintext prefix, evaluator E0 of every session.

mod cache;
mod comparison;
mod connection;
mod cost;
mod detokenize;
mod opener;
mod outsourced;
mod precompute;
mod prefixes;
mod session;
mod state;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use marill_model::{ChatTemplate, Message, Tokenizer, plain_chat, render_chat};
use marill_mpc::{Comparison, ProgramSpec, Sampling};
use marill_net::{Endpoint, WireCount, http::HttpClient, peer_text};
use marill_partition::{Partition, PartitionError};

pub use crate::client::{
    cache::Supported,
    comparison::ComparisonChoice,
    cost::Cost,
    opener::{CorrelationPreference, SessionOpener},
    session::SecureSession,
    state::ClientState,
};
use crate::{
    client::{detokenize::TextStream, prefixes::Prefixes},
    error::{ClientError, ServingError, SessionError},
    terms::{Correlations, E0, SessionParameters, Setting},
};

/// Which services to use and where to keep what is downloaded.
#[derive(Clone)]
pub struct ClientOptions {
    pub server: Endpoint,
    pub dealer: Endpoint,
    pub api_key: Option<String>,
    /// Downloads: the public part and masked adapters.
    pub cache: PathBuf,
    /// This client's random name and its record of sessions.
    pub state: PathBuf,
    /// Sessions that may run at once; they share the prefix's weights and have a cache each.
    pub max_sessions: usize,
    pub source: CorrelationPreference,
    /// The computing party that computes in the client's place, where the server wants one.
    pub party: Option<Endpoint>,
    pub comparison: ComparisonChoice,
}

/// Fetches what is missing of the public part; also says how the server offers to compute.
///
/// # Errors
/// As [`Client::connect`].
pub fn fetch(
    options: &ClientOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Supported), ServingError> {
    let server = HttpClient::new(options.server.clone(), options.api_key.clone());
    cache::fetch(&server, &options.cache, progress)
}

/// Opens a partition's public part that was downloaded; what is damaged is named with its folder.
///
/// # Errors
/// [`ClientError::BadCache`].
pub(crate) fn open_cached(folder: &Path) -> Result<Partition, ServingError> {
    Partition::open_public(folder).map_err(|source| match source {
        PartitionError::Schema { .. } | PartitionError::Spec(_) => ServingError::Partition(source),
        source => {
            let folder = folder.into();
            let source = Box::new(source);
            ClientError::BadCache { folder, source }.into()
        }
    })
}

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
}

/// What happens while an answer is made.
pub enum Event {
    /// `session`, `prefill` or `token`.
    Phase(&'static str),
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
    pub text: String,
    /// The end token included.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    pub finish: Finish,
    pub correlations: Correlations,
    /// What comparisons were made of.
    pub comparison: Comparison,
    /// From asking the dealer to being ready for the prompt.
    pub open_seconds: f64,
    pub prefill: Cost,
    /// All steps after the prefill.
    pub decode: Cost,
    pub decode_steps: usize,
    /// Boundary integers by step, where asked for.
    pub boundary: Vec<Vec<u64>>,
}

/// A rendered conversation up to the end of its last turn's text, as transformers'
/// `continue_final_message` has it: what a template puts behind that is left out, and the text as
/// well where the template trims it. `None`: it is not found.
fn open_end(mut rendered: String, messages: &[Message]) -> Option<String> {
    let last = messages.last()?.content.as_str();
    let kept = if rendered.contains(last) {
        last
    } else {
        last.trim()
    };
    let end = rendered.rfind(kept)? + kept.len();
    rendered.truncate(end);
    Some(rendered)
}

/// Calls what opens a session, as often as it likes.
pub type Opening<'a> = &'a mut dyn FnMut(
    &mut dyn FnMut() -> Result<SecureSession, ServingError>,
) -> Result<SecureSession, ServingError>;

/// A model that is evaluated together with a server.
pub struct Client {
    pub model_name: String,
    pub parameters: SessionParameters,
    spec: ProgramSpec,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    public_layers: usize,
    prefixes: Prefixes,
    sessions: SessionOpener,
    source: CorrelationPreference,
    sampling: bool,
}

impl Client {
    /// Fetches what is missing of the public part and checks every digest; `progress` hears of
    /// downloads.
    ///
    /// # Errors
    /// An unreachable server, a wrong digest, a partition that this build cannot run.
    pub fn connect(
        options: &ClientOptions,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, ServingError> {
        let (folder, supported) = fetch(options, progress)?;
        Self::open(&open_cached(&folder)?, options, supported)
    }

    /// Uses a partition that is on this machine already; its private part is not read.
    ///
    /// # Errors
    /// As [`Self::connect`], without the downloads.
    pub fn with_partition(
        partition: &Partition,
        options: &ClientOptions,
    ) -> Result<Self, ServingError> {
        let supported = Supported {
            setting: Setting::Dealer,
            e0: E0::Client,
            sampling: true,
            dcf: true,
        };
        Self::open(partition, options, supported)
    }

    fn open(
        partition: &Partition,
        options: &ClientOptions,
        supported: Supported,
    ) -> Result<Self, ServingError> {
        let sessions = SessionOpener::new(partition, options, supported)?;
        let prefix = partition.prefix()?;
        let mut prefixes: Vec<_> = (1..options.max_sessions).map(|_| prefix.fork()).collect();
        prefixes.push(prefix);
        Ok(Self {
            model_name: peer_text(&partition.manifest.name),
            tokenizer: partition.tokenizer().clone(),
            chat_template: partition.chat_template().cloned(),
            public_layers: partition.manifest.transforms.frozen_layers,
            prefixes: Prefixes::new(prefixes),
            spec: sessions.spec.clone(),
            parameters: sessions.parameters.clone(),
            sessions,
            source: options.source,
            sampling: supported.sampling,
        })
    }

    /// Bytes on the sockets to the server and to the dealer since the start, headers included.
    pub fn wire_counts(&self) -> (&Arc<WireCount>, &Arc<WireCount>) {
        (&self.sessions.server.count, &self.sessions.dealer.count)
    }

    pub fn server(&self) -> &HttpClient {
        &self.sessions.server
    }

    /// Server and dealer, or the computing party in the dealer's place, are all on this machine:
    /// whoever runs it sees everything.
    pub fn is_demonstration(&self) -> bool {
        let third = self
            .sessions
            .party
            .as_ref()
            .unwrap_or(&self.sessions.dealer);
        self.sessions.server.endpoint.is_here() && third.endpoint.is_here()
    }

    /// Layers that run here in clear.
    pub fn public_layers(&self) -> usize {
        self.public_layers
    }

    /// Layers that are evaluated together with the server.
    pub fn private_layers(&self) -> usize {
        self.spec.num_layers
    }

    /// Most tokens of prompt and answer together, padding included.
    pub fn max_positions(&self) -> usize {
        self.spec.max_positions
    }

    /// Token ids of a conversation, ready to be answered; a model without a template gets the
    /// contents line by line.
    ///
    /// # Errors
    /// [`ServingError::Model`] from the template or the tokenizer.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ServingError> {
        match &self.chat_template {
            // A template writes the token that begins a text itself.
            Some(template) => Ok(self
                .tokenizer
                .encode(&render_chat(template, messages, true)?)?),
            None => self.plain_prompt(&plain_chat(
                messages.iter().map(|message| message.content.as_str()),
            )),
        }
    }

    /// Token ids of a conversation whose last turn is the beginning of the answer: what follows
    /// continues it.
    ///
    /// # Errors
    /// As [`Self::chat_prompt`].
    pub fn continued_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ServingError> {
        // Nothing of it is there yet.
        if let [before @ .., last] = messages
            && last.content.trim().is_empty()
        {
            return self.chat_prompt(before);
        }
        match &self.chat_template {
            Some(template) => {
                let text = open_end(render_chat(template, messages, false)?, messages);
                Ok(self
                    .tokenizer
                    .encode(&text.ok_or(ClientError::NoContinuation)?)?)
            }
            None => {
                let text = plain_chat(messages.iter().map(|message| message.content.as_str()));
                self.plain_prompt(text.strip_suffix('\n').unwrap_or(&text))
            }
        }
    }

    /// Token ids are below this number.
    pub fn vocabulary(&self) -> usize {
        self.spec.vocab_size
    }

    /// Whether the model has a chat template; without one, a conversation is its contents, line by
    /// line.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// Token ids of a text as it stands, behind the token that begins a text where the model has
    /// one.
    ///
    /// # Errors
    /// [`ServingError::Model`] from the tokenizer.
    pub fn plain_prompt(&self, text: &str) -> Result<Vec<u32>, ServingError> {
        Ok(self.tokenizer.encode_plain(text)?)
    }

    /// Checks that a prompt leaves room for an answer; returns the most tokens that the answer can
    /// have.
    ///
    /// # Errors
    /// [`ClientError::PromptEmpty`], [`ClientError::PromptTooLong`].
    pub fn room(&self, prompt_tokens: usize) -> Result<usize, ClientError> {
        if prompt_tokens == 0 {
            return Err(ClientError::PromptEmpty);
        }
        let bucket = self.spec.bucket(prompt_tokens);
        if bucket > self.spec.max_positions {
            let limit = (1..=self.spec.max_positions)
                .rev()
                .find(|&n| self.spec.bucket(n) <= self.spec.max_positions);
            return Err(ClientError::PromptTooLong {
                tokens: prompt_tokens,
                limit: limit.unwrap_or(0),
            });
        }
        // The prefill itself yields one token without a position of its own.
        Ok(self.spec.max_positions - bucket + 1)
    }

    /// Checks that the server samples tokens where this is asked for.
    ///
    /// # Errors
    /// [`SessionError::GreedyOnly`].
    pub fn check_sampling(&self, sampling: Option<Sampling>) -> Result<(), SessionError> {
        if sampling.is_some() && !self.sampling {
            Err(SessionError::GreedyOnly)
        } else {
            Ok(())
        }
    }

    /// Generates in one session of its own; `on_event` may break off after any token.
    ///
    /// Here all parties are on this machine, which is a demonstration and no privacy; a real client
    /// names a server and a dealer elsewhere.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use marill_partition::{
    ///     ExportOptions, Partition, export,
    ///     testing::{tiny_adapter, tiny_base, tiny_transforms},
    /// };
    /// use marill_serving::{
    ///     client::{Client, ClientOptions, Request},
    ///     local::Parties,
    ///     server::SecureModel,
    ///     terms::Setting,
    /// };
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let (at, out) = (folder.path(), folder.path().join("out"));
    /// # let base = tiny_base(&at.join("base"), 1)?;
    /// # let transforms = tiny_transforms(&base.config, true);
    /// # let adapter = tiny_adapter(&base.config, &transforms, 2)?;
    /// # export(&base, &transforms, &adapter, &out, &ExportOptions::default())?;
    /// let partition = Partition::open(&out)?;
    /// let (spec, id) = (partition.program_spec().clone(), partition.partition_id());
    /// let public = partition.public_weights()?;
    /// let private = partition.private_weights(&public)?;
    /// let model = SecureModel::new(id, spec, public, private, Setting::Dealer);
    /// let parties = Parties::start(model, &at.join("services"), 1)?;
    ///
    /// let options = ClientOptions {
    ///     server: parties.server.clone(),
    ///     dealer: parties.dealer.clone(),
    ///     api_key: None,
    ///     cache: at.join("cache"),
    ///     state: at.join("client"),
    ///     max_sessions: 1,
    ///     source: Default::default(),
    ///     party: None,
    ///     comparison: Default::default(),
    /// };
    /// let client = Client::with_partition(&Partition::open_public(&out)?, &options)?;
    /// let request = Request {
    ///     prompt: client.plain_prompt("hello")?,
    ///     max_tokens: Some(2),
    ///     ignore_eos: true,
    ///     ..Request::default()
    /// };
    /// let answer = client.generate(&request, &mut |_| ControlFlow::Continue(()))?;
    /// assert_eq!(answer.tokens.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SessionError::GreedyOnly`], a prompt that does not fit, a lost or refusing peer, a failed
    /// step.
    pub fn generate(
        &self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, ServingError> {
        self.generate_once_open(request, &mut |open| open(), on_event)
    }

    /// As [`Self::generate`]; `opening` is given what opens the session and may try it again. The
    /// public layers of the prompt run once, before the first try: a pause between two tries says
    /// nothing of the prompt.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_once_open(
        &self,
        request: &Request,
        opening: Opening<'_>,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, ServingError> {
        self.check_sampling(request.sampling)?;
        let limit = self
            .room(request.prompt.len())?
            .min(request.max_tokens.unwrap_or(usize::MAX));
        let mut prefix = self.prefixes.take();
        let _ = on_event(Event::Phase("session"));
        // Before anyone hears of this session: a prefix takes longer for a longer prompt, and the
        // server could else read the length inside its bucket off the pause before the first frame.
        let prefix_started = Instant::now();
        let mut prompt = Some(self.spec.encode(&prefix.forward(&request.prompt)?)?);
        let prefix_seconds = prefix_started.elapsed().as_secs_f64();
        let started = Instant::now();
        let bucket = self.spec.bucket(request.prompt.len());
        // In the setting `3pc` and with a computing party there is nothing preprocessed.
        let preprocessed =
            self.parameters.setting == Setting::Dealer.as_str() && !self.parameters.is_shared();
        let source = if preprocessed {
            self.source
        } else {
            CorrelationPreference::Live
        };
        let mut session = opening(&mut || {
            self.sessions
                .open_for(bucket, limit, source, request.sampling)
        })?;
        let open_seconds = started.elapsed().as_secs_f64();

        let mut text = TextStream::new(&self.tokenizer, &request.stop);
        let mut answer = Answer {
            text: String::new(),
            tokens: Vec::new(),
            prompt_tokens: request.prompt.len(),
            finish: Finish::Length,
            correlations: session.correlations,
            comparison: session.comparison,
            open_seconds,
            prefill: Cost::default(),
            decode: Cost::default(),
            decode_steps: 0,
            boundary: Vec::new(),
        };
        let mut input = request.prompt.clone();
        while answer.tokens.len() < limit {
            let is_prefill = answer.tokens.is_empty();
            if on_event(Event::Phase(if is_prefill { "prefill" } else { "token" })).is_break() {
                answer.finish = Finish::Cancelled;
                break;
            }
            let step_started = Instant::now();
            let boundary = match prompt.take() {
                Some(boundary) => boundary,
                None => self.spec.encode(&prefix.forward(&input)?)?,
            };
            let (token, mut cost) = if is_prefill {
                session.prefill(&boundary, input.len())?
            } else {
                session.decode(&boundary)?
            };
            cost.seconds = step_started.elapsed().as_secs_f64();
            if is_prefill {
                cost.seconds += prefix_seconds;
                answer.prefill = cost;
            } else {
                answer.decode += cost;
                answer.decode_steps += 1;
            }
            if request.keep_boundary {
                answer.boundary.push(boundary);
            }
            answer.tokens.push(token);
            let may_stop = answer.tokens.len() >= request.min_tokens;
            if may_stop && !request.ignore_eos && self.tokenizer.is_eos(token) {
                answer.finish = Finish::Stop;
                break;
            }
            let piece = text.push(token, may_stop)?;
            if !piece.text.is_empty() && on_event(Event::Text(piece.text)).is_break() {
                answer.finish = Finish::Cancelled;
                break;
            }
            if piece.stopped {
                answer.finish = Finish::Stop;
                break;
            }
            input = vec![token];
        }
        session.end();
        let rest = text.finish();
        if !rest.is_empty() && answer.finish != Finish::Cancelled {
            let _ = on_event(Event::Text(rest));
        }
        answer.text = text.into_text();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_goes_on_ends_with_its_own_words() {
        let turns = |last: &str| {
            let turn = |role: &str, content: &str| Message {
                role: role.into(),
                content: content.into(),
            };
            [turn("user", "One"), turn("assistant", last)]
        };
        let rendered = |last: &str| format!("<u>One</u><a>{last}</a>\n");
        let of = |rendered: String, last: &str| open_end(rendered, &turns(last));
        assert_eq!(
            of(rendered("The answer is "), "The answer is ").unwrap(),
            "<u>One</u><a>The answer is "
        );
        assert_eq!(
            of(rendered("The answer is"), " The answer is ").unwrap(),
            "<u>One</u><a>The answer is"
        );
        assert_eq!(
            of(rendered("One"), "One").unwrap(),
            "<u>One</u><a>One",
            "the last place, not the first"
        );
        assert_eq!(of(rendered("x"), "other"), None);
    }
}
