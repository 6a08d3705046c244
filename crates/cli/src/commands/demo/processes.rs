//! The three parties as operating-system processes of this very program.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, bail};
use marill_serving::dealer::SERVER_KEY_FILE;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const LISTENING: &str = "listening on ";

/// A service that ends with this value.
pub struct Service {
    name: &'static str,
    child: Child,
    pub url: String,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts `marill ARGS...` and waits until it says where it listens.
    fn start(name: &'static str, args: &[&str], folder: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir(folder)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stderr = child
            .stderr
            .take()
            .context("the child's standard error was asked for above")?;
        let (lines, heard) = mpsc::channel();
        // Reads to the end, so that the service never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let mut said = Vec::new();
        loop {
            match heard.recv_timeout(START_TIMEOUT) {
                Ok(line) => match line.split_once(LISTENING) {
                    Some((_, url)) => {
                        let url = url
                            .split_whitespace()
                            .next()
                            .unwrap_or_default()
                            .to_string();
                        return Ok(Self { name, child, url });
                    }
                    None => said.push(line),
                },
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("the {name} did not start: {}", said.join("; "));
                }
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.kill().is_err() {
            eprintln!(
                "warning: could not end the {} (process {})",
                self.name,
                self.child.id()
            );
        }
        let _ = self.child.wait();
    }
}

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
