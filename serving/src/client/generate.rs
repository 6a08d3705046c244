//! Answers of a client: one session, a prefill, then token by token.

use std::{ops::ControlFlow, time::Instant};

use crate::{
    client::{
        Answer, Client, CorrelationPreference, Event, Finish, Request, SecureSession,
        detokenize::TextStream, prefixes::Borrowed,
    },
    error::ServingError,
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
    /// [`GreedyOnly`], a prompt that does not fit, a lost or refusing peer, a failed step.
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
        let mut prefix = self.prefixes.take();
        let _ = on_event(Event::Phase("session"));
        // Before anyone hears of this session: a prefix takes longer for a longer prompt, and the
        // server could else read the length inside its bucket off the pause before the first frame.
        let prefix_started = Instant::now();
        let prompt = Prompt {
            boundary: self.spec.encode(&prefix.forward(&request.prompt)?)?,
            prefix_seconds: prefix_started.elapsed().as_secs_f64(),
        };
        let started = Instant::now();
        let bucket = self.spec.bucket(request.prompt.len());
        let source = self.preference();
        let session = opening(&mut || {
            self.sessions
                .open_for(bucket, limit, source, request.sampling)
        })?;
        let answer = Answer::begun(request, &session, started.elapsed());
        let mut generation = Generation {
            client: self,
            request,
            limit,
            answer,
            text: TextStream::new(&self.tokenizer, &request.stop),
            session,
            prefix,
        };
        generation.run(prompt, on_event)?;
        Ok(generation.end(on_event))
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

/// A prompt behind the public layers, and how long they took.
struct Prompt {
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
    prefix: Borrowed<'a>,
}

impl Generation<'_> {
    fn run(&mut self, prompt: Prompt, on_event: OnEvent<'_>) -> Result<(), ServingError> {
        let mut prompt = Some(prompt);
        while self.answer.tokens.len() < self.limit {
            let phase = match prompt {
                Some(_) => "prefill",
                None => "token",
            };
            if on_event(Event::Phase(phase)).is_break() {
                self.answer.finish = Finish::Cancelled;
                break;
            }
            let token = match prompt.take() {
                Some(prompt) => self.prefill(prompt)?,
                None => self.decode()?,
            };
            self.answer.tokens.push(token);
            if let Some(finish) = self.say(token, on_event)? {
                self.answer.finish = finish;
                break;
            }
        }
        Ok(())
    }

    fn prefill(&mut self, prompt: Prompt) -> Result<u32, ServingError> {
        let started = Instant::now();
        let tokens = self.request.prompt.len();
        let (token, mut cost) = self.session.prefill(&prompt.boundary, tokens)?;
        cost.seconds = started.elapsed().as_secs_f64() + prompt.prefix_seconds;
        self.answer.prefill = cost;
        self.keep(prompt.boundary);
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

    /// Tells the server, and gives out the rest of the text.
    fn end(mut self, on_event: OnEvent<'_>) -> Answer {
        self.session.end();
        let rest = self.text.finish();
        if !rest.is_empty() && self.answer.finish != Finish::Cancelled {
            let _ = on_event(Event::Text(rest));
        }
        self.answer.text = self.text.into_text();
        self.answer
    }
}
