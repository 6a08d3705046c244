//! `marill gateway`: the OpenAI interface on the user's own machine.

use std::process::ExitCode;

use marill_serving::{
    Endpoint,
    gateway::{GatewayOptions, run as run_gateway},
    log,
};

use crate::{
    args::{
        listen::{Listen, LogArgs, MetricsArgs, parse_sessions},
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
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.services.client(args.server, args.max_sessions)?;
    let metrics = args.metrics.metrics_listen;
    let options = GatewayOptions {
        listen: args.listen.at(args.port),
        client,
        keep: args.keep.keeps(),
        metrics,
    };
    run_gateway(&options, &mut log::say).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
