//! A tiny random model, its parties and a place for their records.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use marill_mpc::{
    Comparison, PrivateWeights, ProgramSpec, PublicWeights, Twin,
    random_model::{gaussian, random_weights, tiny_spec},
};
use marill_net::{
    WebSocketChannel,
    http::{HttpClient, Response},
};
use marill_serving::{
    Endpoint, ServingError, SessionError,
    client::{ClientState, Cost, SecureSession, SessionOpener},
    local::Parties,
    messages::{ClientHello, NewSession, ServerWelcome, SessionGrant, recv_reply, send_json},
    server::SecureModel,
    terms::{Correlations, SessionParameters, Setting},
    ticket::{For, Signer, Ticket},
};

pub const PARTITION: &str = "tiny";

/// A model, its parties and a place for their records.
pub struct World {
    pub spec: ProgramSpec,
    pub public: Arc<PublicWeights>,
    pub private: Arc<PrivateWeights>,
    pub parameters: SessionParameters,
    pub parties: Parties,
    pub folder: tempfile::TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        Self::with_tls(false)
    }

    pub fn with_tls(tls: bool) -> Self {
        Self::routed(tls, |dealer| dealer)
    }

    /// `route` may put something between server and dealer.
    pub fn routed(tls: bool, route: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        Self::start(tempfile::tempdir().unwrap(), tls, false, route)
    }

    /// In a folder that may hold records already; `preprocessed`: with correlations from its folder
    /// `files`.
    pub fn start(
        folder: tempfile::TempDir,
        tls: bool,
        preprocessed: bool,
        route: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Self {
        Self::of(tiny_model(), folder, tls, preprocessed, route)
    }

    /// As [`Self::start`], around a model.
    pub fn of(
        model: SecureModel,
        folder: tempfile::TempDir,
        tls: bool,
        preprocessed: bool,
        route: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Self {
        let spec = model.spec.clone();
        let parameters = model.parameters.clone();
        let public = model.public.clone();
        let private = model.private.clone();
        let files = folder.path().join("files");
        let preprocessed = preprocessed.then_some(files.as_path());
        let parties =
            Parties::start_with(model, folder.path(), 4, tls, preprocessed, route).unwrap();
        Self {
            spec,
            public,
            private,
            parameters,
            parties,
            folder,
        }
    }

    pub fn opener(&self) -> SessionOpener {
        self.opener_at(&self.parties.server, "client")
    }

    /// As [`Self::opener`], with what comparisons are made of.
    pub fn opener_with(&self, comparison: Comparison) -> SessionOpener {
        let opener = self.opener();
        SessionOpener {
            parameters: opener.parameters.clone().with_comparison(comparison),
            ..opener
        }
    }

    pub fn opener_at(&self, server: &Endpoint, name: &str) -> SessionOpener {
        let place: &Path = &self.folder.path().join(name);
        SessionOpener {
            server: HttpClient::new(server.clone(), None),
            dealer: HttpClient::new(self.parties.dealer.clone(), None),
            parameters: self.parameters.clone(),
            spec: self.spec.clone(),
            public: self.public.clone(),
            party: None,
            insists_on_comparison: true,
            state: ClientState::open(place, place).unwrap().into(),
        }
    }

    /// A ticket as the server would sign it for this client at this address.
    pub fn ticket(&self, client_id: &str) -> Ticket {
        let key = std::fs::read_to_string(self.folder.path().join("dealer/server.key")).unwrap();
        Signer::new(key.trim())
            .issue(&For::Address([127, 0, 0, 1].into()), client_id)
            .unwrap()
    }

    /// Asks the dealer as a client would, with this ticket.
    pub fn ask_with(&self, client_id: &str, ticket: Ticket, candidates: &[String]) -> Response {
        let parameters = self.parameters.clone();
        let client_id = client_id.to_string();
        let request = NewSession {
            parameters,
            client_id,
            ticket,
            candidates: candidates.to_vec(),
        };
        let dealer = HttpClient::new(self.parties.dealer.clone(), None);
        dealer
            .post_json(
                "/v1/sessions",
                &serde_json::to_vec(&request).unwrap(),
                1 << 16,
            )
            .unwrap()
    }

    /// A session that is granted to this client.
    pub fn grant(&self, client_id: &str, candidates: &[String]) -> SessionGrant {
        let answer = self.ask_with(client_id, self.ticket(client_id), candidates);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Shakes hands with the server under a session's name.
    pub fn handshake(
        &self,
        session: &str,
        proof: &str,
        correlations: Correlations,
    ) -> Result<(), SessionError> {
        self.handshake_as(None, session, proof, correlations)
            .map(drop)
    }

    /// The same with an API key; the session stands as long as the channel does.
    pub fn handshake_as(
        &self,
        key: Option<&str>,
        session: &str,
        proof: &str,
        correlations: Correlations,
    ) -> Result<WebSocketChannel, SessionError> {
        let server = HttpClient::new(self.parties.server.clone(), key.map(Into::into));
        let mut channel = server
            .websocket("/v1/session", Duration::from_secs(5))
            .unwrap();
        let hello = ClientHello {
            parameters: self.parameters.clone(),
            session: session.to_string(),
            correlations,
            proof: proof.to_string(),
            adapter_sha256: None,
            sampling: None,
            lpn_sets: Vec::new(),
            keeps_set_up: false,
        };
        send_json(&mut channel, &hello).unwrap();
        recv_reply::<ServerWelcome>(&mut channel, "server").map(|_| channel)
    }

    /// `n` rows of boundary integers.
    pub fn rows(&self, seed: u64, n: usize) -> Vec<u64> {
        self.spec
            .encode(&gaussian(seed, "boundary", n * self.spec.hidden_size, 1.0))
            .unwrap()
    }

    /// The tokens that the numeric specification gives for a prompt of `n` rows and `steps` further
    /// ones.
    pub fn twin(&self, seed: u64, n: usize, steps: u64) -> Vec<u32> {
        let mut twin = Twin::new(self.public.clone(), self.private.clone());
        let mut tokens = vec![twin.prefill(&self.rows(seed, n)).unwrap()];
        tokens
            .extend((0..steps).map(|step| twin.decode(&self.rows(seed + 1000 + step, 1)).unwrap()));
        tokens
    }

    /// A session of a prompt of four rows and three further ones: what [`Self::twin`] gives for 5,
    /// 4 and 3.
    pub fn short_session(&self, opener: &SessionOpener) -> Result<Vec<u32>, ServingError> {
        let mut session = opener.open()?;
        let mut tokens = vec![session.prefill(&self.rows(5, 4), 4)?.0];
        for step in 0..3 {
            tokens.push(session.decode(&self.rows(1005 + step, 1))?.0);
        }
        session.end();
        Ok(tokens)
    }

    pub fn secure(
        &self,
        session: &mut SecureSession,
        seed: u64,
        n: usize,
        steps: u64,
    ) -> (Vec<u32>, Vec<Cost>) {
        let (token, cost) = session.prefill(&self.rows(seed, n), n).unwrap();
        let mut tokens = vec![token];
        let mut costs = vec![cost];
        for step in 0..steps {
            let (token, cost) = session.decode(&self.rows(seed + 1000 + step, 1)).unwrap();
            tokens.push(token);
            costs.push(cost);
        }
        session.end();
        (tokens, costs)
    }
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The model of every world that does not bring another.
pub fn tiny_model() -> SecureModel {
    model_of(tiny_spec(), Setting::Dealer)
}

/// The same weights as another program.
pub fn model_of(spec: ProgramSpec, setting: Setting) -> SecureModel {
    let owned = random_weights(&spec, 7);
    let (Ok(public), Ok(private)) = (Arc::try_unwrap(owned.0), Arc::try_unwrap(owned.1)) else {
        panic!("the weights are shared already");
    };
    SecureModel::new(PARTITION, spec, public, private, setting)
}
