//! Answers of a client: one session, a prefill, then token by token.

use std::{ops::ControlFlow, time::Instant};

use marill_mpc::Selection;
use marill_net::RequestId;

use crate::{
    client::{
        Answer, Client, CorrelationPreference, Event, Finish, Request, SecureSession, StepProgress,
        StepShape,
        cost::Offline,
        detokenize::TextStream,
        kept::{Borrowed, KeptSession},
    },
    error::ServingError,
    request_id,
    terms::Setting,
};

/// Calls what opens a session, as often as it likes.
pub type Opening<'a> = &'a mut dyn FnMut(
    &mut dyn FnMut() -> Result<SecureSession, ServingError>,
) -> Result<SecureSession, ServingError>;

/// What is told of an answer in the making; it may end it.
type OnEvent<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

impl Client {
    /// Generates in one session of its own; `on_event` may break off after any token.
    ///
    /// Here all parties are on this machine, which is a demonstration and no privacy; a real client
    /// names a server and a dealer elsewhere.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use marill_partition::{ExportOptions, Partition, export};
    /// use marill_serving::{
    ///     client::{Client, ClientOptions, Request},
    ///     local::Parties,
    ///     server::SecureModel,
    ///     terms::Setting,
    /// };
    /// use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};
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
    ///     setting: None,
    ///     private_products: None,
    ///     set_ups: marill_serving::SetUpLimits::CLIENT,
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
    /// [`GreedyOnly`], a prompt that does not fit, a lost or refusing peer, a failed step; any of
    /// these where [`Client::cutter`] ended it.
    ///
    /// [`GreedyOnly`]: crate::error::SessionError::GreedyOnly
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
        let id = request.id.clone().unwrap_or_else(request_id::fresh);
        if let Some(answer) = self.go_on(request, &id, limit, on_event)? {
            return Ok(answer);
        }
        let mut prefix = self.prefixes.take();
        let _ = on_event(Event::Phase("session"));
        // Before anyone hears of this session: a prefix takes longer for a longer prompt, and the
        // server could else read the length inside its bucket off the pause before the first frame.
        let input = self.input(&mut prefix, &request.prompt)?;
        let started = Instant::now();
        let bucket = self.spec.bucket(request.prompt.len());
        let source = self.preference();
        let sessions = self.sessions.named(&id);
        let session = opening(&mut || sessions.open_for(bucket, limit, source, request.sampling))?;
        let answer = Answer::begun(request, &id, &session, started.elapsed());
        let mut generation = Generation::new(self, request, limit, (session, prefix), answer);
        let token = match generation.begin((0, bucket), on_event) {
            true => Some(generation.prefill(input)?),
            false => None,
        };
        generation.run(token, on_event)?;
        Ok(generation.end(on_event))
    }

    /// As [`Self::generate`] in the session of an earlier answer whose tokens the prompt begins
    /// with; none where there is no such session, or its server has ended it meanwhile.
    fn go_on(
        &self,
        request: &Request,
        id: &RequestId,
        limit: usize,
        on_event: OnEvent<'_>,
    ) -> Result<Option<Answer>, ServingError> {
        // A comparison with the twin wants the whole prompt's boundary.
        if !request.keep || request.keep_boundary || limit == 0 {
            return Ok(None);
        }
        let room = (limit, self.spec.max_positions);
        let fits = |kept: &KeptSession| kept.fits(&request.prompt, request.sampling, room);
        let Some(kept) = self.prefixes.resume(fits) else {
            return Ok(None);
        };
        let _ = on_event(Event::Phase("session"));
        let started = Instant::now();
        let seen = kept.tokens.len();
        let positions = kept.positions;
        let (mut session, mut prefix, offline_before) = kept.wake();
        let input = self.input(&mut prefix, &request.prompt[seen..])?;
        // What is prepared is for single rows; a turn of several drops it.
        let left = match request.prompt.len() - seen {
            1 => session.prepared().unwrap_or(0).saturating_sub(1),
            _ => 0,
        };
        session.expect((limit - 1).saturating_sub(left));
        session.name_turn(id);
        let mut answer = Answer::begun(request, id, &session, started.elapsed());
        answer.cached_tokens = seen;
        let mut generation = Generation::new(self, request, limit, (session, prefix), answer);
        generation.offline_before = offline_before;
        let rows = request.prompt.len() - seen;
        if !generation.begin((positions, rows), on_event) {
            return Ok(Some(generation.end(on_event)));
        }
        match generation.extend(input) {
            Ok(token) => {
                generation.run(Some(token), on_event)?;
                Ok(Some(generation.end(on_event)))
            }
            Err(error) if self.cutter.is_cut() => Err(error),
            Err(error) => {
                tracing::info!("a kept session is gone, a new one begins: {error}");
                Ok(None)
            }
        }
    }

    /// Tokens behind the public layers.
    fn input(&self, prefix: &mut Borrowed, tokens: &[u32]) -> Result<Input, ServingError> {
        let started = Instant::now();
        Ok(Input {
            boundary: self.spec.encode(&prefix.forward(tokens)?)?,
            prefix_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// In the settings `3pc` and `2pc` and with a computing party there is nothing preprocessed.
    fn preference(&self) -> CorrelationPreference {
        let preprocessed =
            self.parameters.setting == Setting::Dealer.as_str() && !self.parameters.is_shared();
        if preprocessed || self.parameters.is_two_party() {
            // Two parties refuse what they are asked for and do not have.
            self.source
        } else {
            CorrelationPreference::Live
        }
    }
}

/// Tokens behind the public layers, and how long these took.
struct Input {
    boundary: Vec<u64>,
    prefix_seconds: f64,
}

/// An answer in the making.
struct Generation<'a> {
    client: &'a Client,
    request: &'a Request,
    /// Most tokens of the answer.
    limit: usize,
    answer: Answer,
    text: TextStream<'a>,
    session: SecureSession,
    prefix: Borrowed,
    /// [`SecureSession::offline`] at the end of the turn before.
    offline_before: Offline,
}

impl<'a> Generation<'a> {
    fn new(
        client: &'a Client,
        request: &'a Request,
        limit: usize,
        (session, prefix): (SecureSession, Borrowed),
        answer: Answer,
    ) -> Self {
        Self {
            client,
            request,
            limit,
            answer,
            text: TextStream::new(&client.tokenizer, &request.stop),
            session,
            prefix,
            // A new session's set-up is this answer's.
            offline_before: Offline::default(),
        }
    }

    /// Whether the first token is wanted, of so many rows behind so many positions.
    fn begin(&mut self, (cached, rows): (usize, usize), on_event: OnEvent<'_>) -> bool {
        let shape = StepShape {
            cached,
            rows,
            comparison: self.session.comparison,
            selection: Selection::of(self.request.sampling),
        };
        let progress = StepProgress::begin(shape, self.session.meter());
        let goes_on = on_event(Event::Phase("prefill")).is_continue()
            && on_event(Event::Step(progress)).is_continue();
        if !goes_on {
            self.answer.finish = Finish::Cancelled;
        }
        goes_on && self.limit > 0
    }

    /// Goes on from the first token, where there is one, to the last.
    fn run(&mut self, first: Option<u32>, on_event: OnEvent<'_>) -> Result<(), ServingError> {
        let mut next = first;
        while let Some(token) = next {
            self.answer.tokens.push(token);
            if let Some(finish) = self.say(token, on_event)? {
                self.answer.finish = finish;
                break;
            }
            if self.answer.tokens.len() >= self.limit {
                break;
            }
            if on_event(Event::Phase("token")).is_break() {
                self.answer.finish = Finish::Cancelled;
                break;
            }
            next = Some(self.decode()?);
        }
        Ok(())
    }

    fn prefill(&mut self, prompt: Input) -> Result<u32, ServingError> {
        let started = Instant::now();
        let tokens = self.request.prompt.len();
        let (token, mut cost) = self.session.prefill(&prompt.boundary, tokens)?;
        cost.seconds = started.elapsed().as_secs_f64() + prompt.prefix_seconds;
        self.answer.prefill = cost;
        self.keep(prompt.boundary);
        Ok(token)
    }

    /// What is new of a prompt, in the session of an earlier turn.
    fn extend(&mut self, input: Input) -> Result<u32, ServingError> {
        let started = Instant::now();
        let (token, mut cost) = self.session.extend(&input.boundary)?;
        cost.seconds = started.elapsed().as_secs_f64() + input.prefix_seconds;
        self.answer.prefill = cost;
        Ok(token)
    }

    /// A step behind the last token.
    fn decode(&mut self) -> Result<u32, ServingError> {
        let started = Instant::now();
        let last = &self.answer.tokens[self.answer.tokens.len() - 1..];
        let boundary = self.client.spec.encode(&self.prefix.forward(last)?)?;
        let (token, mut cost) = self.session.decode(&boundary)?;
        cost.seconds = started.elapsed().as_secs_f64();
        self.answer.decode += cost;
        self.answer.decode_steps += 1;
        self.keep(boundary);
        Ok(token)
    }

    fn keep(&mut self, boundary: Vec<u64>) {
        if self.request.keep_boundary {
            self.answer.boundary.push(boundary);
        }
    }

    /// Gives out what a new token made certain; returns why the answer ends with it, if it does.
    fn say(&mut self, token: u32, on_event: OnEvent<'_>) -> Result<Option<Finish>, ServingError> {
        let may_stop = self.answer.tokens.len() >= self.request.min_tokens;
        if may_stop && !self.request.ignore_eos && self.client.tokenizer.is_eos(token) {
            return Ok(Some(Finish::Stop));
        }
        let piece = self.text.push(token, may_stop)?;
        if !piece.text.is_empty() && on_event(Event::Text(piece.text)).is_break() {
            return Ok(Some(Finish::Cancelled));
        }
        Ok(piece.stopped.then_some(Finish::Stop))
    }

    /// Gives out the rest of the text, and ends the session or lets it wait.
    fn end(mut self, on_event: OnEvent<'_>) -> Answer {
        let rest = self.text.finish();
        if !rest.is_empty() && self.answer.finish != Finish::Cancelled {
            let _ = on_event(Event::Text(rest));
        }
        self.answer.text = self.text.into_text();
        let offline = self.session.offline();
        self.answer.offline = offline.map(|offline| offline - self.offline_before);
        let client = self.client;
        // Before the first token nothing was seen.
        let keeps = self.request.keep && !client.keep.is_zero() && !self.answer.tokens.is_empty();
        if keeps && self.session.can_wait() {
            let mut seen = self.request.prompt.clone();
            seen.extend(&self.answer.tokens[..self.answer.decode_steps]);
            let sampling = self.request.sampling;
            let kept = KeptSession::new(self.session, self.prefix, seen, sampling, client.keep);
            client.prefixes.keep(kept);
        } else {
            self.session.end();
        }
        self.answer
    }
}
