//! How a session opens: seed from the dealer, handshake of the server.

use std::sync::Arc;

use marill_mpc::{
    ClientSession, Comparison, Extension, OutsourcedSession, ProgramSpec, PublicWeights, Sampling,
    Seed, Selection, TwoParty, two_party::LpnSet,
};
use marill_net::{
    Channel, Cutter, Meter, Metered, RequestId, SharedChannel, http::HttpClient, peer_text,
};
use marill_numeric::{hex, unhex};
use marill_partition::Partition;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    client::{
        ClientOptions,
        cache::Supported,
        connection::{DEALER, Peer, SERVER, STEP_TIMEOUT},
        outsourced::SharedConnections,
        precompute::PrecomputedSteps,
        session::{Inner, SecureSession},
        state::{ClientState, HeldAdapter},
    },
    error::{ClientError, PreprocessingError, ServingError, SessionError, refused},
    messages::{
        ClientHello, CollectSeed, CollectedSeed, DcfKeysHello, GrantedTicket, NewSession,
        NewTicket, PartyHello, ServerWelcome, SessionGrant, dcf_keys_proof, hash_key, proof_of,
        recv_reply, send_json,
    },
    preprocessing::AvailableSession,
    set_ups::{Owner, SetUps, say_origin},
    terms::{Correlations, E0, PROTOCOL_VERSION, SessionParameters, Setting, lpn_sets},
    ticket::Ticket,
};

const MAX_TICKET_BYTES: u64 = 64 << 10;
const MAX_GRANT_BYTES: u64 = 64 << 10;
const MAX_ADAPTER_BYTES: u64 = 4 << 30;

/// Which correlations a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CorrelationPreference {
    /// Preprocessed where the server has some that fit, else streamed.
    #[default]
    Any,
    Live,
    Preprocessed,
}

/// Opens sessions of one model.
#[derive(Clone)]
pub struct SessionOpener {
    pub server: HttpClient,
    pub dealer: HttpClient,
    pub parameters: SessionParameters,
    pub spec: ProgramSpec,
    pub public: Arc<PublicWeights>,
    pub state: Arc<ClientState>,
    /// E0, where it is not the client itself.
    pub party: Option<HttpClient>,
    /// Whether the parameters' comparison protocol is the only one that will do, where a computing
    /// party could choose another.
    pub insists_on_comparison: bool,
}

impl SessionOpener {
    /// # Errors
    /// A partition that this build cannot run; [`SessionError::NoParty`], or
    /// [`SessionError::Mismatch`] where one is named that the server does not want.
    pub fn new(
        partition: &Partition,
        options: &ClientOptions,
        supported: Supported,
    ) -> Result<Self, ServingError> {
        if let Some(wanted) = options
            .setting
            .filter(|wanted| *wanted != supported.setting)
        {
            let ours = wanted.as_str().into();
            let theirs = supported.setting.as_str().into();
            return Err(SessionError::Mismatch {
                field: "setting",
                ours,
                theirs,
            }
            .into());
        }
        let dealt = supported.setting != Setting::TwoParties;
        if let Some(wanted) = options
            .private_products
            .filter(|wanted| dealt && *wanted != supported.private_products)
        {
            let ours = wanted.as_str().into();
            let theirs = supported.private_products.as_str().into();
            return Err(SessionError::Mismatch {
                field: "private_products",
                ours,
                theirs,
            }
            .into());
        }
        let spec = partition.program_spec().clone();
        if supported.setting == Setting::TwoParties {
            TwoParty::check(&spec, None).map_err(SessionError::from)?;
            if options.comparison.insists() {
                return Err(SessionError::NoComparison.into());
            }
        }
        let public = Arc::new(partition.public_weights()?);
        let parameters =
            SessionParameters::new(partition.partition_id(), &spec, &public, supported.setting)
                .with_e0(supported.e0)
                .with_private_products(supported.private_products);
        let parameters =
            parameters.with_comparison(options.comparison.decide(&spec, supported.dcf)?);
        if options.party.is_some() && !parameters.is_shared() {
            let ours = E0::Party.as_str().into();
            let theirs = parameters.e0.clone();
            return Err(SessionError::Mismatch {
                field: "e0",
                ours,
                theirs,
            }
            .into());
        }
        let state = ClientState::open(&options.state, &options.cache)?;
        let state = state.with_set_ups(options.set_ups);
        Ok(Self {
            server: HttpClient::new(options.server.clone(), options.api_key.clone()),
            dealer: HttpClient::new(options.dealer.clone(), None),
            party: options
                .party
                .clone()
                .map(|endpoint| HttpClient::new(endpoint, None)),
            insists_on_comparison: options.comparison.insists(),
            state: Arc::new(state),
            parameters,
            spec,
            public,
        })
    }

    /// The same with connections that `cutter` can end.
    #[must_use]
    pub fn ended_by(mut self, cutter: &Cutter) -> Self {
        self.server = self.server.ended_by(cutter);
        self.dealer = self.dealer.ended_by(cutter);
        self.party = self.party.map(|party| party.ended_by(cutter));
        self
    }

    /// The same for a request of this name, which all services hear.
    #[must_use]
    pub fn named(&self, id: &RequestId) -> Self {
        let mut named = self.clone();
        named.server = named.server.named(id);
        named.dealer = named.dealer.named(id);
        named.party = named.party.map(|party| party.named(id));
        named
    }

    /// Asks the dealer for a session whose correlations it streams, then opens the session at the
    /// server. Decoding is greedy.
    ///
    /// # Errors
    /// A lost or refusing peer, or parameters that differ.
    pub fn open(&self) -> Result<SecureSession, ServingError> {
        self.open_live(None)
    }

    /// As [`Self::open`], with sampling.
    ///
    /// # Errors
    /// As [`Self::open`]; a server may refuse to sample.
    pub fn open_live(&self, sampling: Option<Sampling>) -> Result<SecureSession, ServingError> {
        if self.parameters.is_two_party() {
            return self.open_two_party(sampling);
        }
        if self.parameters.is_shared() {
            let party = self.party.as_ref().ok_or(SessionError::NoParty)?;
            let any_comparison = !self.insists_on_comparison;
            let ticket = self.ticket(None, Selection::default())?.ticket;
            let hello = PartyHello {
                parameters: self.parameters.clone(),
                ticket,
                any_comparison,
                sampling,
            };
            let (connections, comparison) = SharedConnections::open(party, &self.server, hello)?;
            let inner = Inner::Shared(connections);
            let spec = self.spec.clone();
            return Ok(SecureSession {
                inner,
                spec,
                correlations: Correlations::Live,
                comparison,
                names_turns: false,
            });
        }
        let _turn = self
            .state
            .fetch_turn(&self.parameters, &self.spec, Correlations::Live);
        let ticket = self.ticket(None, Selection::default())?.ticket;
        self.handshake(
            self.grant(&self.parameters, ticket, Vec::new())?,
            Correlations::Live,
            sampling,
        )
    }

    /// A session with the server alone; nobody grants it, and its name is this client's.
    fn open_two_party(&self, sampling: Option<Sampling>) -> Result<SecureSession, ServingError> {
        TwoParty::check(&self.spec, sampling).map_err(SessionError::from)?;
        let correlations = Correlations::None;
        let hello = ClientHello {
            parameters: self.parameters.clone(),
            session: hex(&Seed::random().to_bytes()[..16]),
            correlations,
            proof: String::new(),
            adapter_sha256: None,
            sampling,
            lpn_sets: lpn_sets(),
            keeps_set_up: self.state.set_ups.keeps(),
        };
        let (peer, meter, welcome) = self.shake_hands(&self.parameters, &hello)?;
        let channel = Box::new(peer.clone());
        let keeper = match welcome.keeps_set_up {
            true if !self.state.set_ups.keeps() => {
                let error = SessionError::BadMessage {
                    peer: SERVER,
                    reason: "it keeps a set-up, which was not asked for".into(),
                };
                return Err(error.into());
            }
            keeps => keeps.then(|| self.keeper()),
        };
        let extension = extension_of(&welcome)?;
        let public = self.public.clone();
        let session = match &keeper {
            None => ClientSession::without_dealer(public, channel, extension),
            Some((set_ups, owner)) => {
                let saved = set_ups.find(owner, None);
                let session = ClientSession::with_kept(public, channel, extension, saved);
                session.map(|(session, origin)| {
                    say_origin(origin);
                    session
                })
            }
        };
        let session = session.map_err(SessionError::from)?;
        let session = session.with_sampling(sampling).preparing_when_asked();
        let inner = Inner::TwoParty {
            session: Box::new(session),
            peer,
            meter,
            expected: None,
            prepare_seconds: 0.0,
            keeper,
        };
        Ok(SecureSession {
            inner,
            spec: self.spec.clone(),
            correlations,
            comparison: self.parameters.comparison,
            names_turns: welcome.names_turns,
        })
    }

    /// What keeps this client's part of a set-up with this server.
    fn keeper(&self) -> (SetUps, Owner) {
        let model = [
            self.parameters.partition_id.as_str(),
            &self.parameters.public_sha256,
        ];
        let server = &self.server;
        let endpoint = server.endpoint.to_string();
        let key = server.bearer.as_deref();
        let owner = Owner::server(&endpoint, key, model);
        (self.state.set_ups.clone(), owner)
    }

    /// As [`Self::open_live`], for a prompt of `bucket` and at most `tokens` of answer: with
    /// preprocessed correlations where `source` wants them and the server has some that fit.
    ///
    /// # Errors
    /// As [`Self::open`]; [`PreprocessingError::NoneFits`] where nothing else is wanted.
    pub fn open_for(
        &self,
        bucket: usize,
        tokens: usize,
        source: CorrelationPreference,
        sampling: Option<Sampling>,
    ) -> Result<SecureSession, ServingError> {
        let mut session = self.open_with(bucket, tokens, source, sampling)?;
        // The prompt gives the first.
        session.expect(tokens.saturating_sub(1));
        Ok(session)
    }

    fn open_with(
        &self,
        bucket: usize,
        tokens: usize,
        source: CorrelationPreference,
        sampling: Option<Sampling>,
    ) -> Result<SecureSession, ServingError> {
        let uses_dcf = self.parameters.comparison == Comparison::Dcf;
        match source {
            CorrelationPreference::Live | CorrelationPreference::Preprocessed
                if self.parameters.is_two_party() =>
            {
                return Err(SessionError::NoCorrelations.into());
            }
            _ if self.parameters.is_two_party() => return self.open_two_party(sampling),
            CorrelationPreference::Preprocessed if uses_dcf => {
                return Err(SessionError::NoDcf {
                    reason: "preprocessed correlations are one-hot",
                }
                .into());
            }
            CorrelationPreference::Any if uses_dcf => return self.open_live(sampling),
            CorrelationPreference::Live => return self.open_live(sampling),
            CorrelationPreference::Any | CorrelationPreference::Preprocessed => {}
        }
        let selection = Selection::of(sampling);
        // Before the ticket, which does not last as long as a download may.
        let turn = self
            .state
            .fetch_turn(&self.parameters, &self.spec, Correlations::Live);
        let GrantedTicket {
            ticket,
            preprocessed,
        } = self.ticket(Some(bucket), selection)?;
        let fits = |candidate: &AvailableSession| {
            (candidate.bucket, candidate.selection) == (bucket, selection)
                && candidate.tokens >= tokens
        };
        let candidates: Vec<String> = preprocessed
            .into_iter()
            .filter(fits)
            .map(|candidate| candidate.session)
            .collect();
        if !candidates.is_empty() {
            drop(turn);
            let _turn =
                self.state
                    .fetch_turn(&self.parameters, &self.spec, Correlations::Preprocessed);
            match self.grant(&self.parameters, ticket.clone(), candidates) {
                Err(SessionError::Refused { code, .. }) if code == "session_used" => {}
                granted => return self.handshake(granted?, Correlations::Preprocessed, sampling),
            }
        }
        match source {
            CorrelationPreference::Preprocessed => Err(PreprocessingError::NoneFits {
                bucket,
                tokens,
                selection: selection.as_str(),
            }
            .into()),
            _ => self.handshake(
                self.grant(&self.parameters, ticket, Vec::new())?,
                Correlations::Live,
                sampling,
            ),
        }
    }

    /// The server's word for the dealer that this client may open a session, and which preprocessed
    /// sessions there are for a prompt of this bucket.
    fn ticket(
        &self,
        bucket: Option<usize>,
        selection: Selection,
    ) -> Result<GrantedTicket, SessionError> {
        let bad = |reason: String| SessionError::BadMessage {
            peer: SERVER,
            reason,
        };
        let query = NewTicket {
            client_id: self.state.client_id.clone(),
            bucket,
            selection,
        };
        let json = serde_json::to_vec(&query).map_err(|error| bad(error.to_string()))?;
        let answer = self
            .server
            .post_json("/v1/tickets", &json, MAX_TICKET_BYTES)
            .map_err(SessionError::net(SERVER))?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|error| bad(format!("its ticket: {error}"))),
            // The address came with this version of the protocol.
            404 => {
                let ours = PROTOCOL_VERSION.to_string();
                let theirs = "5 or older".into();
                Err(SessionError::Mismatch {
                    field: "protocol",
                    ours,
                    theirs,
                })
            }
            _ => Err(refused(SERVER, &answer)),
        }
    }

    fn handshake(
        &self,
        granted: Granted,
        correlations: Correlations,
        sampling: Option<Sampling>,
    ) -> Result<SecureSession, ServingError> {
        let dcf_keys = self.dcf_keys(&self.parameters, &granted)?;
        let (peer, meter, (adapter, welcome)) =
            self.exchange_hellos(&self.parameters, &granted, correlations, sampling)?;
        let hash_key = hash_key(&granted.session);
        let seed0 = self.seed(granted)?;
        let channel = Box::new(peer.clone());
        let session = adapter.session(self.public.clone(), seed0, channel)?;
        let session = session.with_sampling(sampling).with_hash_key(&hash_key);
        let session = match dcf_keys {
            Some(dcf_keys) => session.with_dcf(dcf_keys),
            None => session,
        };
        let precomputed = session.precomputer().and_then(PrecomputedSteps::start);
        let inner = Inner::Own {
            session: Box::new(session),
            peer,
            meter,
            precomputed,
        };
        Ok(SecureSession {
            inner,
            spec: self.spec.clone(),
            correlations,
            comparison: self.parameters.comparison,
            names_turns: welcome.names_turns,
        })
    }

    /// As E0 for another client, under agreed parameters: the session's name, and the computing
    /// party's side of it.
    pub(crate) fn open_shared(
        &self,
        parameters: &SessionParameters,
        ticket: Ticket,
        sampling: Option<Sampling>,
    ) -> Result<(String, OutsourcedSession), ServingError> {
        let _turn = self
            .state
            .fetch_turn(parameters, &self.spec, Correlations::Live);
        let granted = self.grant(parameters, ticket, Vec::new())?;
        let session = granted.session.clone();
        let dcf_keys = self.dcf_keys(parameters, &granted)?;
        let (peer, _, (adapter, _)) =
            self.exchange_hellos(parameters, &granted, Correlations::Live, sampling)?;
        let seed0 = self.seed(granted)?;
        let opened = adapter.outsourced(self.public.clone(), seed0, Box::new(peer))?;
        let opened = opened
            .with_sampling(sampling)
            .with_hash_key(&hash_key(&session));
        let opened = match dcf_keys {
            Some(dcf_keys) => opened.with_dcf(dcf_keys),
            None => opened,
        };
        Ok((session, opened))
    }

    /// With DCF: the dealer's connection for E0's DCF keys, open before the server asks for its
    /// own.
    fn dcf_keys(
        &self,
        parameters: &SessionParameters,
        granted: &Granted,
    ) -> Result<Option<Box<dyn Channel>>, SessionError> {
        let (Comparison::Dcf, Some(seed0)) = (parameters.comparison, &granted.seed0) else {
            return Ok(None);
        };
        let mut connection = self
            .dealer
            .websocket("/v1/dcf-keys", STEP_TIMEOUT)
            .map_err(SessionError::net(DEALER))?;
        let hello = DcfKeysHello {
            session: granted.session.clone(),
            key: dcf_keys_proof(seed0),
        };
        send_json(&mut connection, &hello).map_err(SessionError::net(DEALER))?;
        recv_reply::<()>(&mut connection, DEALER)?;
        Ok(Some(Box::new(connection)))
    }

    /// Opens the session at the server, one that was granted; fetches the adapter where it is not
    /// here.
    fn exchange_hellos(
        &self,
        parameters: &SessionParameters,
        granted: &Granted,
        correlations: Correlations,
        sampling: Option<Sampling>,
    ) -> Result<(Peer, Arc<Meter>, (HeldAdapter, ServerWelcome)), ServingError> {
        self.state.claim(&granted.session)?;
        let kept = self.state.kept(parameters, &self.spec, correlations);
        let adapter_sha256 = kept.as_ref().map(|(digest, _)| digest.clone());
        let session = granted.session.clone();
        let proof = proof_of(&granted.token);
        let hello = ClientHello {
            parameters: parameters.clone(),
            session,
            correlations,
            proof,
            adapter_sha256,
            sampling,
            lpn_sets: Vec::new(),
            keeps_set_up: false,
        };
        let (mut peer, meter, welcome) = self.shake_hands(parameters, &hello)?;
        let adapter = match kept.filter(|(digest, _)| *digest == welcome.adapter_sha256) {
            Some((_, adapter)) if welcome.adapter_bytes == 0 => adapter,
            _ => self.receive_adapter(&mut peer, parameters, &welcome, correlations)?,
        };
        Ok((peer, meter, (adapter, welcome)))
    }

    /// A connection to the server on which both have said hello under these parameters.
    fn shake_hands(
        &self,
        parameters: &SessionParameters,
        hello: &ClientHello,
    ) -> Result<(Peer, Arc<Meter>, ServerWelcome), SessionError> {
        let channel = self
            .server
            .websocket("/v1/session", STEP_TIMEOUT)
            .map_err(SessionError::net(SERVER))?;
        let meter = Arc::<Meter>::default();
        let mut peer = SharedChannel::new(Metered::new(channel, meter.clone()));
        send_json(&mut peer, hello).map_err(SessionError::net(SERVER))?;
        let welcome: ServerWelcome = recv_reply(&mut peer, SERVER)?;
        parameters.check(&welcome.parameters)?;
        Ok((peer, meter, welcome))
    }

    /// A session of this client's.
    fn grant(
        &self,
        parameters: &SessionParameters,
        ticket: Ticket,
        candidates: Vec<String>,
    ) -> Result<Granted, SessionError> {
        let preprocessed = !candidates.is_empty();
        let client_id = self.state.client_id.clone();
        let request = NewSession {
            parameters: parameters.clone(),
            client_id,
            ticket,
            candidates,
        };
        let SessionGrant {
            session,
            token,
            seed,
        } = self.ask_dealer("/v1/sessions", &request)?;
        let bad = |reason: &str| SessionError::BadMessage {
            peer: DEALER,
            reason: reason.into(),
        };
        if unhex::<16>(&session).is_none() || preprocessed && !request.candidates.contains(&session)
        {
            return Err(bad("it grants a session that was not asked for"));
        }
        let seed0 = seed.map(|seed| parse_seed(&seed)).transpose()?;
        if preprocessed == seed0.is_some() {
            return Err(bad(
                "a seed comes with a session that is streamed, and with no other",
            ));
        }
        Ok(Granted {
            session,
            token,
            seed0,
        })
    }

    /// E0's seed: granted with the session, or collected from the dealer now that the server has
    /// taken it up.
    fn seed(&self, granted: Granted) -> Result<Seed, SessionError> {
        let Granted {
            session,
            token,
            seed0,
        } = granted;
        match seed0 {
            Some(seed0) => Ok(seed0),
            None => {
                let CollectedSeed { seed } =
                    self.ask_dealer("/v1/seeds", &CollectSeed { session, token })?;
                parse_seed(&seed)
            }
        }
    }

    fn ask_dealer<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, SessionError> {
        let bad = |error: serde_json::Error| SessionError::BadMessage {
            peer: DEALER,
            reason: error.to_string(),
        };
        let json = Zeroizing::new(serde_json::to_vec(request).map_err(bad)?);
        let answer = self
            .dealer
            .post_json(path, &json, MAX_GRANT_BYTES)
            .map_err(SessionError::net(DEALER))?;
        if answer.status != 200 {
            return Err(refused(DEALER, &answer));
        }
        serde_json::from_slice(&Zeroizing::new(answer.body)).map_err(bad)
    }

    fn receive_adapter(
        &self,
        peer: &mut Peer,
        parameters: &SessionParameters,
        welcome: &ServerWelcome,
        correlations: Correlations,
    ) -> Result<HeldAdapter, ServingError> {
        let announced = welcome.adapter_bytes;
        if announced > MAX_ADAPTER_BYTES {
            return Err(SessionError::BadMessage {
                peer: SERVER,
                reason: format!("an adapter of {announced} bytes"),
            }
            .into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < announced {
            let piece = peer.recv().map_err(SessionError::net(SERVER))?;
            if piece.is_empty() || (bytes.len() + piece.len()) as u64 > announced {
                let reason = "the adapter has another length than announced".into();
                return Err(SessionError::BadMessage {
                    peer: SERVER,
                    reason,
                }
                .into());
            }
            bytes.extend_from_slice(&piece);
        }
        let (got, adapter) = HeldAdapter::read(parameters, &self.spec, &bytes)?;
        if got != welcome.adapter_sha256 {
            let expected = welcome.adapter_sha256.clone();
            return Err(ClientError::Digest {
                what: "adapter".into(),
                expected,
                got,
            }
            .into());
        }
        self.state
            .keep(parameters, correlations, got, &bytes, adapter.clone())?;
        Ok(adapter)
    }
}

/// How the server lets transfers be made.
fn extension_of(welcome: &ServerWelcome) -> Result<Extension, SessionError> {
    let Some(name) = &welcome.lpn_set else {
        return Ok(Extension::Silent(LpnSet::B10));
    };
    let unknown = || SessionError::BadMessage {
        peer: SERVER,
        reason: format!("a set of LPN `{}`, which is unknown here", peer_text(name)),
    };
    LpnSet::named(name)
        .map(Extension::Silent)
        .ok_or_else(unknown)
}

/// What the dealer granted.
struct Granted {
    session: String,
    token: Zeroizing<String>,
    /// None where the session was preprocessed.
    seed0: Option<Seed>,
}

fn parse_seed(text: &str) -> Result<Seed, SessionError> {
    let bytes = unhex::<32>(text).map(Zeroizing::new);
    let reason = || SessionError::BadMessage {
        peer: DEALER,
        reason: "the seed is not 32 bytes".into(),
    };
    bytes
        .map(|bytes| Seed::from_bytes(*bytes))
        .ok_or_else(reason)
}
