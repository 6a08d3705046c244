//! `marill party`: computes as E0 for clients that take no part in the computation.

use std::process::ExitCode;

use marill_serving::{
    Endpoint, log,
    party::{PartyOptions, run as run_party},
};

use crate::{
    args::{
        listen::{Listen, LogArgs, MetricsArgs, TlsArgs, parse_sessions},
        services::{DEFAULT_SERVER, Services},
    },
    output::advice::advise,
};

/// For a server that runs with `--e0 party`. Clients name this service with `--party`.
#[derive(clap::Args)]
pub struct Args {
    /// The server
    #[arg(long, value_name = "URL", env = "MARILL_SERVER", default_value = DEFAULT_SERVER)]
    server: Endpoint,
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_PARTY_PORT", default_value_t = 8300)]
    port: u16,
    #[command(flatten)]
    tls: TlsArgs,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_sessions)]
    max_sessions: usize,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut services = args.services.client(args.server, args.max_sessions)?;
    services.state.set_file_name("evaluator");
    let listen = args.listen.at(args.port);
    let metrics = args.metrics.metrics_listen;
    let options = PartyOptions {
        listen,
        tls: args.tls.tls(),
        services,
        metrics,
    };
    run_party(&options, &mut log::say).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
