//! `marill dealer`: seeds and corrections for sessions between clients and servers.

use std::process::ExitCode;

use marill_serving::dealer::{DealerOptions, run as run_dealer};

use crate::advice::advise;
use crate::places::{Folders, Listen};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_DEALER_PORT", default_value_t = 8200)]
    port: u16,
    /// Speak TLS, which other machines need; the printed address names the certificate that clients then insist on
    #[arg(long)]
    tls: bool,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_sessions: usize,
    #[command(flatten)]
    folders: Folders,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = DealerOptions {
        listen: args.listen.at(args.port),
        tls: args.tls,
        state: args.folders.state()?.join("dealer"),
        max_sessions: args.max_sessions,
    };
    run_dealer(&options).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
