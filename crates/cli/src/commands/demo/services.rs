//! The three parties as operating-system processes of this very program.

use std::{path::Path, process::Command};

use anyhow::Context;
use marill_serving::{dealer::SERVER_KEY_FILE, terms::Setting};

use crate::process::Service;

/// The services of a setting.
pub struct Services {
    pub server: Service,
    /// None in the setting `2pc`.
    pub dealer: Option<Service>,
}

/// What [`start`] does, in words.
pub fn starting(setting: Setting) -> &'static str {
    match setting {
        Setting::TwoParties => "3/4 starting the server as a process of its own, and no dealer",
        _ => "3/4 starting dealer and server as processes of their own",
    }
}

/// Starts the dealer where there is one, then the server.
///
/// # Errors
/// What the service said, when it does not start.
pub fn start(work: &Path, partition: &Path, setting: Setting) -> anyhow::Result<Services> {
    let partition = text(partition)?;
    let state = text(&work.join("server"))?;
    let args = |more: &[&str]| -> Vec<String> {
        let own = ["serve", &partition, "--port", "0", "--state", &state];
        let setting = ["--setting", setting.as_str()];
        let all = own.iter().chain(&setting).chain(more);
        all.map(ToString::to_string).collect()
    };
    if setting == Setting::TwoParties {
        let server = serve(&args(&[]), work)?;
        let dealer = None;
        return Ok(Services { server, dealer });
    }
    let dealer_state = text(&work.join("dealer"))?;
    let dealer = Service::start(
        "dealer",
        &["dealer", "--port", "0", "--state", &dealer_state],
        work,
    )?;
    let key = text(&work.join("dealer/dealer").join(SERVER_KEY_FILE))?;
    let server = serve(
        &args(&["--dealer", &dealer.url, "--dealer-key", &key]),
        work,
    )?;
    let dealer = Some(dealer);
    Ok(Services { server, dealer })
}

fn serve(args: &[String], work: &Path) -> anyhow::Result<Service> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Service::start("server", &args, work)
}

/// Asks one question through a client process and returns its JSON answer.
///
/// # Errors
/// What the client said, when it fails.
pub fn ask(
    work: &Path,
    services: &Services,
    partition: &Path,
    prompt: &str,
    max_tokens: usize,
) -> anyhow::Result<serde_json::Value> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("generate").arg(&services.server.url);
    if let Some(dealer) = &services.dealer {
        command.args(["--dealer", &dealer.url]);
    }
    let output = command
        .args([
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
