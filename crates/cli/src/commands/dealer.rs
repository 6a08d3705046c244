//! `marill dealer`: seeds and corrections for sessions between clients and servers.

use std::{path::PathBuf, process::ExitCode};

use marill_mpc::{Selection, spec::MAX_POSITIONS};
use marill_serving::dealer::{
    DEFAULT_OWNER, DealerOptions, PreprocessOptions, add_owner, produce, run as run_dealer,
};

use crate::{
    args::{
        folders::{Folders, default_cache, given_or},
        listen::{KeepArgs, Listen, LogArgs, MetricsArgs, TlsArgs, parse_sessions},
    },
    output::advice::advise,
};

type Numbers = clap::builder::RangedU64ValueParser<usize>;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_DEALER_PORT", default_value_t = 8200)]
    port: u16,
    #[command(flatten)]
    tls: TlsArgs,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_sessions)]
    max_sessions: usize,
    #[command(flatten)]
    keep: KeepArgs,
    /// Make the key of a further owner of models, say where it is, and end: copy it to that owner's
    /// server and to nobody else. Owners at one dealer share no masks. A running dealer knows it at
    /// once; deleting the file ends it
    #[arg(long, value_name = "NAME", conflicts_with = "preprocess")]
    add_owner: Option<String>,
    /// Where keys of preprocessed sessions are kept. Never restore it from a backup: they are safe
    /// because a used key is gone whatever else is restored [default: `vault` below
    /// ~/.cache/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_VAULT")]
    vault: Option<PathBuf>,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    folders: Folders,
}

// Preprocessing: E1's correlations of whole sessions in files that only the server can read.
#[derive(clap::Args)]
struct PreprocessArgs {
    /// Write preprocessed correlations into this folder, and exit; carry the files to the folder
    /// that the server's `--preprocessed` names. The dealer keeps the clients' seeds and gives out
    /// each once
    #[arg(long, value_name = "DIR", alias = "ahead", requires = "request")]
    preprocess: Option<PathBuf>,
    /// What `marill serve DIR --preprocess-request FILE` wrote
    #[arg(
        long = "preprocess-request",
        value_name = "FILE",
        alias = "order",
        requires = "preprocess"
    )]
    request: Option<PathBuf>,
    /// Padded length of the prompts, a multiple of 16
    #[arg(
        long,
        value_name = "N",
        requires = "preprocess",
        default_value_t = 64,
        value_parser = Numbers::new().range(16..=MAX_POSITIONS as u64),
    )]
    bucket: usize,
    /// Most tokens of an answer
    #[arg(
        long,
        value_name = "N",
        requires = "preprocess",
        default_value_t = 64,
        value_parser = Numbers::new().range(1..=MAX_POSITIONS as u64),
    )]
    tokens: usize,
    /// How the answers' tokens are chosen: `greedy`, `temperature` (sampled) or `top_k` (sampled
    /// among the most likely)
    #[arg(
        long,
        value_name = "NAME",
        requires = "preprocess",
        default_value = "greedy",
        value_parser = parse_selection,
    )]
    selection: Selection,
    /// How many sessions; each is used once
    #[arg(
        long,
        value_name = "N",
        requires = "preprocess",
        default_value_t = 1,
        value_parser = Numbers::new().range(1..=1_000_000),
    )]
    sessions: usize,
    /// Whose server they are for, where this dealer has several owners
    #[arg(long, value_name = "NAME", requires = "preprocess", default_value = DEFAULT_OWNER)]
    owner: String,
    /// Only say how large the files would be
    #[arg(long, requires = "preprocess")]
    dry_run: bool,
}

fn parse_selection(text: &str) -> Result<Selection, String> {
    Selection::parse(text)
        .ok_or_else(|| "the selections are `greedy`, `temperature` and `top_k`".into())
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.folders.state()?.join("dealer");
    if let Some(name) = args.add_owner {
        let path = add_owner(&state, &name).map_err(advise)?;
        eprintln!(
            "the key of `{name}` is `{}`: copy it to that owner's server",
            path.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let below_cache = default_cache().map(|cache| cache.join("vault"));
    let vault = given_or(args.vault.as_ref(), below_cache, "--vault")?;
    if let PreprocessArgs {
        preprocess: Some(folder),
        request: Some(request),
        bucket,
        tokens,
        selection,
        sessions,
        owner,
        dry_run,
    } = args.preprocess
    {
        let options = PreprocessOptions {
            state,
            vault,
            owner,
            folder,
            request,
            bucket,
            tokens,
            selection,
            sessions,
            dry_run,
        };
        produce(&options, &mut |line| eprintln!("{line}")).map_err(advise)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = DealerOptions {
        listen: args.listen.at(args.port),
        tls: args.tls.tls(),
        state,
        vault,
        max_sessions: args.max_sessions,
        keeping: args.keep.keeping(args.max_sessions),
        metrics: args.metrics.metrics_listen,
    };
    run_dealer(&options).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
