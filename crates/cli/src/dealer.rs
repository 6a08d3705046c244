//! `marill dealer`: seeds and corrections for sessions between clients and servers.

use std::path::PathBuf;
use std::process::ExitCode;

use marill_mpc::Selection;
use marill_serving::ahead::{AheadOptions, produce};
use marill_serving::dealer::{DealerOptions, run as run_dealer};

use crate::advice::advise;
use crate::places::{Folders, Listen, TlsArgs};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_DEALER_PORT", default_value_t = 8200)]
    port: u16,
    #[command(flatten)]
    tls: TlsArgs,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_sessions: usize,
    #[command(flatten)]
    ahead: AheadArgs,
    #[command(flatten)]
    folders: Folders,
}

// Correlations written ahead of time: E1's material of whole sessions in files that only the server can read.
#[derive(clap::Args)]
struct AheadArgs {
    /// Write correlations ahead into this folder, and end; carry the files to the folder that the server's `--ahead`
    /// names. The dealer keeps the clients' seeds and hands each out once
    #[arg(long, value_name = "DIR", requires = "order")]
    ahead: Option<PathBuf>,
    /// What `marill serve DIR --order FILE` wrote
    #[arg(long, value_name = "FILE", requires = "ahead")]
    order: Option<PathBuf>,
    /// Padded length of the prompts, a multiple of 16
    #[arg(long, value_name = "N", requires = "ahead", default_value_t = 64)]
    bucket: usize,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", requires = "ahead", default_value_t = 64)]
    tokens: usize,
    /// How the answers' tokens are chosen: `greedy`, `temperature` (by chance) or `top_k` (by chance among the likeliest)
    #[arg(long, value_name = "NAME", requires = "ahead", default_value = "greedy", value_parser = parse_selection)]
    selection: Selection,
    /// How many sessions; each is used once
    #[arg(long, value_name = "N", requires = "ahead", default_value_t = 1)]
    sessions: usize,
    /// Only say how large the files would be
    #[arg(long, requires = "ahead")]
    dry_run: bool,
}

fn parse_selection(text: &str) -> Result<Selection, String> {
    Selection::parse(text).ok_or_else(|| "the selections are `greedy`, `temperature` and `top_k`".into())
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let AheadArgs { ahead: Some(folder), order: Some(order), bucket, tokens, selection, sessions, dry_run } =
        args.ahead
    {
        let state = args.folders.state()?.join("dealer");
        let options = AheadOptions { state, folder, order, bucket, tokens, selection, sessions, dry_run };
        produce(&options, &mut |line| eprintln!("{line}")).map_err(advise)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = DealerOptions {
        listen: args.listen.at(args.port),
        tls: args.tls.tls(),
        state: args.folders.state()?.join("dealer"),
        max_sessions: args.max_sessions,
    };
    run_dealer(&options).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
