//! The three parties as operating-system processes of this very program.

use std::{path::Path, process::Command};

use anyhow::Context;
use marill_serving::dealer::SERVER_KEY_FILE;

use crate::process::Service;

/// Starts the dealer, then the server that knows it.
///
/// # Errors
/// What the service said, when it does not start.
pub fn start(work: &Path, partition: &Path) -> anyhow::Result<(Service, Service)> {
    let dealer_state = text(&work.join("dealer"))?;
    let dealer = Service::start(
        "dealer",
        &["dealer", "--port", "0", "--state", &dealer_state],
        work,
    )?;
    let key = text(&work.join("dealer/dealer").join(SERVER_KEY_FILE))?;
    let partition = text(partition)?;
    let state = text(&work.join("server"))?;
    let args = [
        "serve",
        &partition,
        "--port",
        "0",
        "--state",
        &state,
        "--dealer",
        &dealer.url,
        "--dealer-key",
        &key,
    ];
    let server = Service::start("server", &args, work)?;
    Ok((dealer, server))
}

/// Asks one question through a client process and returns its JSON answer.
///
/// # Errors
/// What the client said, when it fails.
pub fn ask(
    work: &Path,
    server: &Service,
    dealer: &Service,
    partition: &Path,
    prompt: &str,
    max_tokens: usize,
) -> anyhow::Result<serde_json::Value> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(program)
        .arg("generate")
        .arg(&server.url)
        .args([
            "--dealer",
            &dealer.url,
            "--prompt",
            prompt,
            "--max-tokens",
            &max_tokens.to_string(),
            "--json",
        ])
        .arg("--check-twin")
        .arg(partition)
        .arg("--cache")
        .arg(work.join("client/cache"))
        .arg("--state")
        .arg(work.join("client/state"))
        .current_dir(work)
        .output()
        .context("cannot start the client")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Exit code 1 with an answer means that the twin differs; the answer says so.
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the client failed: {}", said.trim()))
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("`{}` is not valid Unicode", path.display()))
}
