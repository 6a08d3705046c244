//! The model that a client command names: a server's address, or a partition on this machine.

use std::{path::PathBuf, str::FromStr};

use marill_mpc::TwoParty;
use marill_partition::Partition;
use marill_serving::{
    Endpoint,
    client::Client,
    local::{LocalServer, Parties},
    server::SecureModel,
    terms::Setting,
};

use crate::{
    args::services::Services,
    output::{advice::advise, failure::BadInput},
};

/// `http://host:port` or a folder.
#[derive(Clone)]
pub enum Target {
    Server(Endpoint),
    Folder(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains("://") {
            true => text
                .parse()
                .map(Self::Server)
                .map_err(|error| format!("{error}")),
            false => Ok(Self::Folder(text.into())),
        }
    }
}

/// A connected client; for a folder, also the other parties, in this process.
pub struct Connected {
    pub client: Client,
    _parties: Option<(Others, Scratch)>,
}

/// The other parties, while the client needs them.
#[expect(dead_code, reason = "kept until the client is done")]
enum Others {
    Dealt(Box<Parties>),
    Alone(Box<LocalServer>),
}

impl Target {
    /// # Errors
    /// An unreachable server, or a folder that is no partition.
    pub fn connect(&self, services: &Services) -> anyhow::Result<Connected> {
        match self {
            Self::Server(server) => {
                let options = services.client(server.clone(), 1)?;
                let client =
                    Client::connect(&options, &mut |line| eprintln!("{line}")).map_err(advise)?;
                Ok(Connected {
                    client,
                    _parties: None,
                })
            }
            Self::Folder(folder) => {
                eprintln!("note: all parties run in this process: a demonstration, not privacy");
                let partition = Partition::open(folder).map_err(|error| BadInput(error.into()))?;
                let spec = partition.program_spec().clone();
                let id = partition.partition_id();
                let public = partition.public_weights()?;
                let private = partition.private_weights(&public)?;
                let setting = services.setting.unwrap_or_default();
                if setting == Setting::TwoParties {
                    TwoParty::check(&spec, None).map_err(|error| BadInput(error.into()))?;
                }
                let model = SecureModel::new(id, spec, public, private, setting);
                let scratch = Scratch(
                    services
                        .folders
                        .state()?
                        .join("local")
                        .join(std::process::id().to_string()),
                );
                let state = &scratch.0;
                let (parties, server, dealer) = if setting == Setting::TwoParties {
                    let server = LocalServer::start(model, state, 4).map_err(advise)?;
                    let endpoint = server.endpoint.clone();
                    (Others::Alone(Box::new(server)), endpoint, None)
                } else {
                    let parties = Parties::start(model, state, 4).map_err(advise)?;
                    let server = parties.server.clone();
                    let dealer = Some(parties.dealer.clone());
                    (Others::Dealt(Box::new(parties)), server, dealer)
                };
                let mut options = services.client(server, 1)?;
                options.dealer = dealer.unwrap_or(options.dealer);
                options.cache = state.join("cache");
                options.state = state.join("client");
                let client = Client::with_partition(&partition, &options).map_err(advise)?;
                Ok(Connected {
                    client,
                    _parties: Some((parties, scratch)),
                })
            }
        }
    }
}

/// Keys and records that nobody needs after this process.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
