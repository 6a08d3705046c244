//! Dealer, server and, where there is one, a computing party inside one process, on loopback
//! sockets: for trying a partition out and for tests. Whoever runs all parties sees everything, so
//! this is a demonstration and no privacy.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use marill_net::{Endpoint, http::HttpClient};

use crate::{
    client::SessionOpener,
    dealer::{Dealer, SERVER_KEY_FILE},
    error::ServingError,
    kept::{Keeping, Kept},
    party::Party,
    secret_files::read_key,
    server::{SecureModel, Server},
    set_ups::SetUpLimits,
    tls::Identity,
    web::{self, Running, Sessions},
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A dealer and a server that run until this is dropped.
pub struct Parties {
    pub dealer: Endpoint,
    pub server: Endpoint,
    sessions: [Arc<Sessions>; 2],
    kept: [Arc<Kept>; 2],
    running: [Option<Running>; 2],
}

impl Parties {
    /// Starts both; their records go below `state`.
    ///
    /// # Errors
    /// No free port, or a state folder in use.
    pub fn start(
        model: SecureModel,
        state: &Path,
        max_sessions: usize,
    ) -> Result<Self, ServingError> {
        Self::start_with(model, state, max_sessions, false, None, |dealer| dealer)
    }

    /// As [`Self::start`], under TLS where wanted, with preprocessed correlations in a folder where
    /// there is one; the server reaches the dealer by the address that `route` gives.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        model: SecureModel,
        state: &Path,
        max_sessions: usize,
        tls: bool,
        preprocessed: Option<&Path>,
        route: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Self, ServingError> {
        let identity = |name: &str| {
            tls.then(|| Identity::read_or_create(&state.join(name)))
                .transpose()
        };
        let dealer_sessions = Sessions::new(max_sessions);
        let dealer = Dealer::open(
            &state.join("dealer"),
            &state.join("vault"),
            dealer_sessions.clone(),
            Keeping::of(max_sessions),
        )?;
        let dealer_running = web::start(web::bind(LOOPBACK, identity("dealer")?)?, dealer.app())?;
        let dealer_endpoint = dealer_running.endpoint.clone();
        let key = read_key(&state.join("dealer").join(SERVER_KEY_FILE))?;
        let to_dealer = HttpClient::new(route(dealer_endpoint.clone()), Some(key.to_string()));
        let server = Server::bare(
            model,
            Some(to_dealer),
            &state.join("server"),
            (max_sessions, SetUpLimits::NONE),
            preprocessed,
        )?;
        let server_running = web::start(web::bind(LOOPBACK, identity("server")?)?, server.app())?;
        Ok(Self {
            server: server_running.endpoint.clone(),
            dealer: dealer_endpoint,
            sessions: [dealer_sessions, server.sessions().clone()],
            kept: [dealer.kept().clone(), server.kept().clone()],
            running: [Some(dealer_running), Some(server_running)],
        })
    }

    /// Sessions that run now at the dealer and at the server.
    pub fn active(&self) -> [usize; 2] {
        [self.sessions[0].active(), self.sessions[1].active()]
    }

    /// Sessions that wait for a further turn, at the dealer and at the server.
    #[must_use]
    pub fn kept(&self) -> [usize; 2] {
        self.kept.each_ref().map(|kept| kept.count())
    }

    /// Stops listening; sessions that run go on until their peers end them.
    pub fn stop_dealer(&mut self) {
        self.running[0] = None;
    }
}

/// A server of the setting `2pc` that runs until this is dropped.
pub struct LocalServer {
    pub endpoint: Endpoint,
    sessions: Arc<Sessions>,
    kept: Arc<Kept>,
    _running: Running,
}

impl LocalServer {
    /// Starts one; its records go below `state`.
    ///
    /// # Errors
    /// No free port, or a state folder in use.
    pub fn start(
        model: SecureModel,
        state: &Path,
        max_sessions: usize,
    ) -> Result<Self, ServingError> {
        Self::start_with(model, state, max_sessions, SetUpLimits::server(64, 30))
    }

    /// As [`Self::start`], keeping so many set-ups of its clients.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        model: SecureModel,
        state: &Path,
        max_sessions: usize,
        set_ups: SetUpLimits,
    ) -> Result<Self, ServingError> {
        let limits = (max_sessions, set_ups);
        let server = Server::bare(model, None, &state.join("server"), limits, None)?;
        let running = web::start(web::bind(LOOPBACK, None)?, server.app())?;
        Ok(Self {
            endpoint: running.endpoint.clone(),
            sessions: server.sessions().clone(),
            kept: server.kept().clone(),
            _running: running,
        })
    }

    /// Sessions that run now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.sessions.active()
    }

    /// Sessions that wait for a further turn.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.count()
    }
}

/// A computing party that runs until this is dropped.
pub struct LocalParty {
    pub endpoint: Endpoint,
    sessions: Arc<Sessions>,
    _running: Running,
}

impl LocalParty {
    /// Starts one that opens its sessions in this way.
    ///
    /// # Errors
    /// No free port.
    pub fn start(opener: SessionOpener, max_sessions: usize) -> Result<Self, ServingError> {
        let party = Party::new(opener, max_sessions);
        let running = web::start(web::bind(LOOPBACK, None)?, party.app())?;
        Ok(Self {
            endpoint: running.endpoint.clone(),
            sessions: party.sessions().clone(),
            _running: running,
        })
    }

    /// Sessions that run now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.sessions.active()
    }
}
