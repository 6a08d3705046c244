//! `marill gateway`: the OpenAI interface on the user's own machine.

use std::{path::PathBuf, process::ExitCode};

use marill_serving::{
    Endpoint,
    gateway::{AdmissionOptions, GatewayOptions, Origin, run as run_gateway},
    log,
};

use crate::{
    args::{
        listen::{Listen, LogArgs, MetricsArgs, TlsArgs, parse_sessions},
        services::{DEFAULT_SERVER, NoKeepArgs, Services},
    },
    output::advice::advise,
};

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
    #[arg(long, env = "MARILL_GATEWAY_PORT", default_value_t = 8000)]
    port: u16,
    /// Private sessions that may run at once; further ones wait. The public layers are in memory
    /// once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_sessions)]
    max_sessions: usize,
    #[command(flatten)]
    keep: NoKeepArgs,
    #[command(flatten)]
    tls: TlsArgs,
    /// Answer the users of these keys only, as `marill keys --keys FILE add NAME` makes them;
    /// without limits, which are those of the key at the server. Needed beyond this machine
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Answer everyone beyond this machine too where there is no file of keys: with this user's key
    /// at the server
    #[arg(long)]
    allow_anonymous: bool,
    /// Let pages of this origin ask, such as `https://app.example`; may stand several times
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<Origin>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.services.client(args.server, args.max_sessions)?;
    let metrics = args.metrics.metrics_listen;
    let options = GatewayOptions {
        listen: args.listen.at(args.port),
        tls: args.tls.tls(),
        admission: AdmissionOptions {
            keys: args.keys,
            allow_anonymous: args.allow_anonymous,
            origins: args.origins,
        },
        client,
        keep: args.keep.keeps(),
        metrics,
    };
    run_gateway(&options, &mut log::say).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
