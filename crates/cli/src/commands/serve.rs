//! `marill serve`: offers a partition to clients, together with a dealer.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use marill_mpc::PrivateProducts;
use marill_serving::{
    Endpoint,
    dealer::SERVER_KEY_FILE,
    server::{DealerOptions, ServerOptions, run as run_server, write_request},
    terms::{E0, Setting},
};

use crate::{
    args::{
        folders::Folders,
        listen::{KeepArgs, Listen, LogArgs, MetricsArgs, SetUpArgs, TlsArgs, parse_sessions},
        services::{AuthoritiesArgs, DEFAULT_DEALER, parse_private_products, parse_setting},
    },
    output::advice::advise,
};

const KEY_WAIT: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Args {
    /// The partition, as `marill export` wrote it
    #[arg(value_name = "DIR")]
    partition: PathBuf,
    /// The dealer; not used in the setting `2pc`, and neither is its key
    #[arg(long, value_name = "URL", env = "MARILL_DEALER", default_value = DEFAULT_DEALER)]
    dealer: Endpoint,
    /// The key that the dealer knows this server by [default: the dealer's own file below the state
    /// folder]
    #[arg(long, value_name = "FILE", env = "MARILL_DEALER_KEY")]
    dealer_key: Option<PathBuf>,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_SERVER_PORT", default_value_t = 8100)]
    port: u16,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    authorities: AuthoritiesArgs,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_sessions)]
    max_sessions: usize,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    set_ups: SetUpArgs,
    /// Serve the users of these keys only: lines of `sha256-of-the-key name [tokens=N]
    /// [tokens-per-minute=N] [sessions-per-minute=N] [revoked]`, as `marill
    /// keys` writes them [default: `server/keys` below the state folder, where it is]
    #[arg(long, value_name = "FILE", env = "MARILL_API_KEYS", alias = "api-keys")]
    keys: Option<PathBuf>,
    /// Serve everyone beyond this machine too where there is no file of keys. Whoever is a client
    /// can extract the adapter from the protocol, and the dealer's operator has it by being a
    /// client once
    #[arg(long)]
    allow_anonymous: bool,
    /// When the dealer makes correlations: `dealer`, also in advance (preprocessing), or `3pc`,
    /// while a session runs, at most one token early. `marill dealer` serves both. `2pc` has no
    /// dealer: client and server compute alone, many times more slowly. Semi-honest security with
    /// at most one corrupted party
    #[arg(long, value_name = "NAME", default_value = "dealer", value_parser = parse_setting)]
    setting: Setting,
    /// Who computes as E0: the `client`, or a computing `party` (`marill party`). With a party, a
    /// client sends one share of its input to each evaluator and computes nothing, so a cheating
    /// client cannot extract the adapter from the protocol. The party, this server and the dealer
    /// must not collude
    #[arg(long, value_name = "NAME", default_value = "client", value_parser = parse_e0)]
    e0: E0,
    /// How private LoRA updates are made where there is a dealer: with `masks` of the adapter,
    /// which the dealer knows and under which a client downloads it, or by `lattice`: a client has
    /// it encrypted under a key of this server alone, and no mask of it exists. A client then sends
    /// 1.3 MB more for each token of SmolLM2, 78 MB for a prompt of 64, and computes longer
    #[arg(
        long,
        value_name = "WAY",
        default_value = "masks",
        value_parser = parse_private_products,
    )]
    private_products: PrivateProducts,
    /// Refuse sampling: greedy decoding only. Sampled tokens tell a client that repeats a prompt
    /// more about the model
    #[arg(long)]
    greedy_only: bool,
    /// Refuse DCF comparisons, which take fewer rounds and several times the bytes from the dealer
    #[arg(long, alias = "digits-only")]
    no_dcf: bool,
    /// Use correlations that `marill dealer --preprocess` wrote into this folder
    #[arg(long, value_name = "DIR", alias = "ahead")]
    preprocessed: Option<PathBuf>,
    /// Write what the dealer's operator needs for `marill dealer --preprocess` into this file, and
    /// exit
    #[arg(long, value_name = "FILE", alias = "order")]
    preprocess_request: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

fn parse_e0(text: &str) -> Result<E0, String> {
    E0::parse(text).ok_or_else(|| "E0 is the `client` or a computing `party`".into())
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.folders.state()?;
    if let Some(preprocess_request) = &args.preprocess_request {
        let state = state.join("server");
        write_request(
            &args.partition,
            args.private_products,
            &state,
            preprocess_request,
        )
        .map_err(advise)?;
        eprintln!(
            "wrote `{}`: carry it to the dealer's machine",
            preprocess_request.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let dealer = match args.setting {
        // A machine's environment may name a dealer for its other servers.
        Setting::TwoParties => None,
        _ => Some(dealer(
            args.authorities.apply(args.dealer)?,
            args.dealer_key,
            &state,
        )?),
    };
    let options = ServerOptions {
        partition: args.partition,
        listen: args.listen.at(args.port),
        tls: args.tls.tls(),
        dealer,
        state: state.join("server"),
        max_sessions: args.max_sessions,
        keeping: args.keep.keeping(args.max_sessions),
        keys: args.keys,
        allow_anonymous: args.allow_anonymous,
        preprocessed: args.preprocessed,
        setting: args.setting,
        e0: args.e0,
        allow_sampling: !args.greedy_only,
        allow_dcf: !args.no_dcf,
        private_products: args.private_products,
        set_ups: args.set_ups.limits(),
        metrics: args.metrics.metrics_listen,
    };
    run_server(&options).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}

/// The dealer and the key that it knows this server by, which is there.
fn dealer(endpoint: Endpoint, key: Option<PathBuf>, state: &Path) -> anyhow::Result<DealerOptions> {
    // Not at the first session: a service that starts is expected to work.
    endpoint.check()?;
    let key = key.unwrap_or_else(|| state.join("dealer").join(SERVER_KEY_FILE));
    // A dealer that was started in the same moment writes it now.
    let deadline = Instant::now() + KEY_WAIT;
    while !key.is_file() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::ensure!(
        key.is_file(),
        "there is no dealer key at `{}`\n\
         hint: start `marill dealer` first, or copy its `{SERVER_KEY_FILE}` here and name it with \
         `--dealer-key`; `--setting 2pc` works without a dealer",
        key.display()
    );
    Ok(DealerOptions { endpoint, key })
}
