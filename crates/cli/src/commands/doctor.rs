//! `marill doctor`: why something does not work, on this machine and on the way to an answer.

mod check;
mod machine;
mod services;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use marill_serving::Endpoint;
use serde::Serialize;

use self::{
    check::{Check, State},
    machine::{Machine, cache, disk},
    services::Service,
};
use crate::{
    args::{
        folders::{Folders, default_cache, given_or},
        services::AuthoritiesArgs,
    },
    output::failure::ENVIRONMENT_FAILED,
};

#[derive(clap::Args)]
pub struct Args {
    /// A server to look at
    #[arg(long, value_name = "URL", env = "MARILL_SERVER")]
    server: Option<Endpoint>,
    /// A dealer to look at
    #[arg(long, value_name = "URL", env = "MARILL_DEALER")]
    dealer: Option<Endpoint>,
    /// Key for the server, where it asks for one
    #[arg(
        long,
        value_name = "KEY",
        env = "MARILL_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    #[command(flatten)]
    authorities: AuthoritiesArgs,
    /// Downloads [default: ~/.cache/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_CACHE")]
    cache: Option<PathBuf>,
    /// Where runs are written
    #[arg(
        long,
        value_name = "DIR",
        env = "MARILL_OUTPUT_DIR",
        default_value = "runs"
    )]
    output_dir: PathBuf,
    #[command(flatten)]
    folders: Folders,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    cores: usize,
    ring_kernels: &'static str,
    hardware_aes: bool,
    loopback: bool,
    checks: Vec<Check>,
    warnings: usize,
    failed: usize,
}

/// Looks at the machine, and at the services that are named.
///
/// # Errors
/// No home folder and no flag in its place, a file of authorities that holds none, or standard
/// output that cannot be written as JSON. What does not work is no error but a finding, and ends
/// with exit code 2.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let machine = Machine::look();
    let mut checks = machine.checks();
    let cached = given_or(args.cache.as_ref(), default_cache(), "--cache")?;
    let hub = marill_hub::Options::from_env(true).cache_dir;
    checks.push(disk("downloads", &cached, "--cache"));
    checks.push(disk("records", &args.folders.state()?, "--state"));
    checks.push(disk("runs", &args.output_dir, "--output-dir"));
    checks.push(cache("downloads", &cached));
    checks.push(cache("models of the hub", &hub));
    checks.extend(services(&args)?);
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let warnings = count(State::Warning);
    let failed = count(State::Failed);
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        cores: machine.cores,
        ring_kernels: machine.ring_kernels,
        hardware_aes: machine.hardware_aes,
        loopback: machine.loopback,
        checks,
        warnings,
        failed,
    };
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&findings).context("cannot write JSON")?
        );
    } else {
        print(&findings);
        if args.server.is_none() && args.dealer.is_none() {
            println!("services were not looked at: name them with `--server` and `--dealer`");
        }
    }
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(ENVIRONMENT_FAILED),
    })
}

/// What the services say that were named.
fn services(args: &Args) -> anyhow::Result<Vec<Check>> {
    let server = args
        .server
        .clone()
        .map(|endpoint| ("server", "--server", "marill serve DIR", endpoint));
    let dealer = args
        .dealer
        .clone()
        .map(|endpoint| ("dealer", "--dealer", "marill dealer", endpoint));
    let mut checks = Vec::new();
    for (name, flag, command, endpoint) in [server, dealer].into_iter().flatten() {
        let service = Service {
            name,
            flag,
            command,
            endpoint: args.authorities.apply(endpoint)?,
            // The dealer has no business with it.
            api_key: args.api_key.as_deref().filter(|_| name == "server"),
        };
        checks.extend(service.checks());
    }
    Ok(checks)
}

fn print(findings: &Findings) {
    println!("marill {}", findings.version);
    let widths = findings.checks.iter().map(|check| check.name.len());
    let width = widths.max().unwrap_or_default();
    for check in &findings.checks {
        println!("{}", check.text(width));
    }
    let plural = |n: usize, one: &str, more: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {more}"),
    };
    println!(
        "\n{}, {}",
        plural(findings.failed, "failure", "failures"),
        plural(findings.warnings, "warning", "warnings")
    );
}
