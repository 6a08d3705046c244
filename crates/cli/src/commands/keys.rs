//! `marill keys`: who may use a server, and how much.

use std::{path::PathBuf, process::ExitCode};

use marill_serving::state::{FileState, KEYS_FILE, Keys, Limits};

use crate::{args::folders::Folders, output::advice::advise};

/// As soon as there is one key, `marill serve` asks everyone for one. The file holds digests of
/// keys, a line each: `sha256-of-the-key name [tokens=N] [tokens-per-minute=N]
/// [sessions-per-minute=N] [revoked]`. A running server sees changes with the next session.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// The file of keys [default: `server/keys` below the state folder]
    #[arg(long, value_name = "FILE", env = "MARILL_API_KEYS", global = true)]
    keys: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Create a key for a user and print it, once
    Add {
        name: String,
        /// Positions the server computes for this key in all: prompts count in whole buckets of 16,
        /// each further token counts one; what was started is counted, also if it was broken off
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        tokens: Option<u64>,
        /// No new session after this many positions in a minute
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        tokens_per_minute: Option<u64>,
        /// Sessions started in a minute
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        sessions_per_minute: Option<u64>,
    },
    /// List the users, their limits and what they have used
    Ls {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Revoke a user's key; sessions that run end with their next step
    Revoke { name: String },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.folders.state()?.join("server");
    let keys = args.keys.unwrap_or_else(|| state.join(KEYS_FILE));
    match args.action {
        Action::Add {
            name,
            tokens,
            tokens_per_minute,
            sessions_per_minute,
        } => {
            let limits = Limits {
                tokens,
                tokens_per_minute,
                sessions_per_minute,
            };
            println!("{}", Keys::add(&keys, &name, limits).map_err(advise)?);
            eprintln!("the key is stored nowhere: hand it to `{name}` now");
        }
        Action::Revoke { name } => Keys::revoke(&keys, &name).map_err(advise)?,
        Action::Ls { json } => {
            let listed = Keys::read(&keys).map_err(advise)?;
            let limit =
                |limit: Option<u64>| limit.map_or("-".to_string(), |limit| limit.to_string());
            for key in listed.iter().flat_map(Keys::iter) {
                let (tokens, sessions) = FileState::used(&state, &key.digest).map_err(advise)?;
                let status = if key.revoked { "revoked" } else { "active" };
                if json {
                    let line = serde_json::json!({
                        "name": key.name, "status": status, "tokens_used": tokens,
                        "sessions_used": sessions,
                        "tokens": key.limits.tokens,
                        "tokens_per_minute": key.limits.tokens_per_minute,
                        "sessions_per_minute": key.limits.sessions_per_minute,
                    });
                    println!("{line}");
                } else {
                    println!(
                        "{:20} {status:8} tokens {tokens} of {}, sessions {sessions}; per \
                         minute: tokens {}, sessions {}",
                        key.name,
                        limit(key.limits.tokens),
                        limit(key.limits.tokens_per_minute),
                        limit(key.limits.sessions_per_minute),
                    );
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
