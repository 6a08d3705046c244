//! `marill serve`: offers a partition to clients, together with a dealer.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use marill_serving::Endpoint;
use marill_serving::dealer::SERVER_KEY_FILE;
use marill_serving::server::{ServerOptions, run as run_server};

use crate::advice::advise;
use crate::places::{DEFAULT_DEALER, Folders, Listen};

const KEY_WAIT: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Args {
    /// The partition, as `marill export` wrote it
    #[arg(value_name = "DIR")]
    partition: PathBuf,
    /// The dealer
    #[arg(long, value_name = "URL", env = "MARILL_DEALER", default_value = DEFAULT_DEALER)]
    dealer: Endpoint,
    /// The key that the dealer knows this server by [default: the dealer's own file below the state folder]
    #[arg(long, value_name = "FILE", env = "MARILL_DEALER_KEY")]
    dealer_key: Option<PathBuf>,
    #[command(flatten)]
    listen: Listen,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "MARILL_SERVER_PORT", default_value_t = 8100)]
    port: u16,
    /// Speak TLS, which other machines need; the printed address names the certificate that clients then insist on
    #[arg(long)]
    tls: bool,
    /// Sessions that may run at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    max_sessions: usize,
    /// Serve the holders of these keys only: lines of `sha256-of-key name`
    #[arg(long, value_name = "FILE", env = "MARILL_API_KEYS")]
    api_keys: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.folders.state()?;
    let dealer_key = args.dealer_key.unwrap_or_else(|| state.join("dealer").join(SERVER_KEY_FILE));
    // A dealer that was started in the same moment writes it now.
    let deadline = Instant::now() + KEY_WAIT;
    while !dealer_key.is_file() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::ensure!(
        dealer_key.is_file(),
        "there is no dealer key at `{}`\nhint: start `marill dealer` first, or copy its `{SERVER_KEY_FILE}` here and name it with `--dealer-key`",
        dealer_key.display()
    );
    let options = ServerOptions {
        partition: args.partition,
        listen: args.listen.at(args.port),
        tls: args.tls,
        dealer: args.dealer,
        dealer_key,
        state: state.join("server"),
        max_sessions: args.max_sessions,
        api_keys: args.api_keys,
    };
    run_server(&options).map_err(advise)?;
    Ok(ExitCode::SUCCESS)
}
