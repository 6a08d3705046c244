//! Processes of the binary and a partition for them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use marill_numeric::{NumericSpec, Rounding};
use marill_partition::{ExportOptions, export};
use serde_json::Value;

use crate::models::{tiny_adapter, tiny_base, tiny_transforms};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The binary, without an input.
///
/// # Panics
/// Outside of the tests of the package `marill`: only there cargo builds the binary and names it.
pub fn marill() -> Command {
    let binary = std::env::var_os("CARGO_BIN_EXE_marill");
    let mut command = Command::new(binary.expect("cargo names the binary to its tests"));
    command.stdin(Stdio::null());
    // Of whoever runs the tests.
    for name in ["https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// A partition of a tiny random model, and folders for every party.
pub struct World {
    pub partition: PathBuf,
    folder: tempfile::TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        Self::rounding(Rounding::Exact)
    }

    /// Around a partition of this rounding.
    pub fn rounding(rounding: Rounding) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = tiny_base(&folder.path().join("base"), 1).unwrap();
        let transforms = tiny_transforms(&base.config, true);
        let adapter = tiny_adapter(&base.config, &transforms, 2).unwrap();
        let partition = folder.path().join("partition");
        let numeric = NumericSpec::with_rounding(rounding);
        let options = ExportOptions {
            numeric,
            ..Default::default()
        };
        export(&base, &transforms, &adapter, &partition, &options).unwrap();
        Self { partition, folder }
    }

    /// Around a partition that exists.
    pub fn with_partition(partition: PathBuf) -> Self {
        Self {
            partition,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A dealer and a server that uses it.
    pub fn parties(&self) -> (Service, Service) {
        self.parties_with(&[])
    }

    /// With further flags for both.
    pub fn parties_with(&self, flags: &[&str]) -> (Service, Service) {
        let mut dealer = marill();
        dealer.args(["dealer", "--port", "0"]).args(flags);
        let dealer = Service::start(self.server_folders(&mut dealer));
        let server = self.server(&dealer.url, flags);
        (dealer, server)
    }

    /// With further flags for the server.
    pub fn parties_with_server(&self, flags: &[&str]) -> (Service, Service) {
        let mut dealer = marill();
        let dealer = Service::start(self.server_folders(dealer.args(["dealer", "--port", "0"])));
        let server = self.server(&dealer.url, flags);
        (dealer, server)
    }

    /// A folder of this world.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn server(&self, dealer: &str, flags: &[&str]) -> Service {
        let mut server = marill();
        server
            .args(["serve", "--port", "0", "--dealer", dealer])
            .arg(&self.partition)
            .args(flags);
        Service::start(self.server_folders(&mut server))
    }

    /// A further server, with records of its own and the first one's dealer.
    pub fn server_in(&self, name: &str, dealer: &str, flags: &[&str]) -> Service {
        let mut server = marill();
        server
            .args(["serve", "--port", "0", "--dealer", dealer])
            .arg(&self.partition)
            .args(flags);
        server
            .arg("--dealer-key")
            .arg(self.folder.path().join("state/dealer/server.key"));
        Service::start(server.arg("--state").arg(self.folder.path().join(name)))
    }

    /// The folder of dealer and server.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The folder of a user's client.
    pub fn user_state(&self) -> PathBuf {
        self.folder.path().join("user")
    }

    /// A server of another owner, with records of its own.
    pub fn server_with_key(&self, name: &str, dealer: &str, key: &std::path::Path) -> Service {
        let mut server = marill();
        server
            .args(["serve", "--port", "0", "--dealer", dealer])
            .arg(&self.partition)
            .arg("--dealer-key")
            .arg(key);
        Service::start(server.arg("--state").arg(self.folder.path().join(name)))
    }

    pub fn party(&self, server: &str, dealer: &str, flags: &[&str]) -> Service {
        let mut party = marill();
        party
            .args([
                "party", "--port", "0", "--server", server, "--dealer", dealer,
            ])
            .args(flags);
        party
            .arg("--cache")
            .arg(self.folder.path().join("evaluator/cache"));
        Service::start(
            party
                .arg("--state")
                .arg(self.folder.path().join("evaluator")),
        )
    }

    pub fn gateway(&self, server: &str, dealer: &str) -> Service {
        self.gateway_with(server, dealer, &[])
    }

    pub fn gateway_with(&self, server: &str, dealer: &str, flags: &[&str]) -> Service {
        let mut gateway = marill();
        gateway
            .args([
                "gateway", "--port", "0", "--server", server, "--dealer", dealer,
            ])
            .args(flags);
        Service::start(self.client_folders(&mut gateway))
    }

    pub fn server_folders<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("--state").arg(self.folder.path().join("state"))
    }

    pub fn client_folders<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("--state")
            .arg(self.folder.path().join("user"))
            .arg("--cache")
            .arg(self.folder.path().join("cache"))
    }
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head and the body of an answer.
fn exchange(authority: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(authority).unwrap();
    // A service may refuse a large body before it has read all of it.
    let sent = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let parts = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {sent:?}, {read:?}"));
    (parts.0.to_string(), parts.1.to_string())
}

/// The head and body of the answer to an object that is posted to whoever listens there.
pub fn post_to(authority: &str, path: &str, body: &Value) -> (String, String) {
    exchange(authority, &post(path, body))
}

/// A running service, killed when dropped.
pub struct Service {
    child: Child,
    pub url: String,
    /// Where its metrics are.
    metrics: Option<String>,
    /// Its lines on standard error so far.
    said: Arc<Mutex<Vec<String>>>,
}

impl Service {
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .args(["--metrics-listen", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut service = Self {
            child,
            url: String::new(),
            metrics: None,
            said: Arc::default(),
        };
        let kept = service.said.clone();
        let stderr = service.child.stderr.take().unwrap();
        let (lines, heard) = mpsc::channel();
        // Reads to the end, so that the service never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line.clone());
                let _ = lines.send(line);
            }
        });
        let mut said = Vec::new();
        loop {
            let line = heard
                .recv_timeout(START_TIMEOUT)
                .unwrap_or_else(|_| panic!("no start: {said:?}"));
            // With `--log-format json` it is the message of a line.
            let message = serde_json::from_str::<Value>(&line).ok();
            let message = message.as_ref().and_then(|line| line["message"].as_str());
            let message = message.unwrap_or(&line);
            if let Some(url) = message.strip_prefix("listening on ") {
                service.url = url.to_string();
                return service;
            }
            if let Some(url) = message.strip_prefix("metrics at http://") {
                service.metrics = url.strip_suffix("/metrics").map(str::to_string);
            }
            said.push(line);
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines that it has written to standard error.
    pub fn log(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// The lines of its log that contain all of `texts`, once there is one.
    pub fn logged(&self, texts: &[&str]) -> Vec<String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let mut lines = self.log();
            lines.retain(|line| texts.iter().all(|text| line.contains(text)));
            if !lines.is_empty() {
                return lines;
            }
            assert!(
                Instant::now() < deadline,
                "no {texts:?} in {:#?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn authority(&self) -> &str {
        self.url
            .split_once("://")
            .unwrap()
            .1
            .split('#')
            .next()
            .unwrap()
    }

    /// Sends a request as it stands; returns the status and the body.
    pub fn raw(&self, request: &str) -> (u16, String) {
        let (head, body) = self.whole(request);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    /// As [`Self::raw`], with the whole head.
    pub fn whole(&self, request: &str) -> (String, String) {
        exchange(self.authority(), request)
    }

    /// The head and body of the answer to a posted object.
    pub fn exchange(&self, path: &str, body: &Value) -> (String, String) {
        self.whole(&post(path, body))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.raw(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        exchange(self.metrics.as_ref().unwrap(), request).1
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.send(path, body);
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
        )
    }

    /// The data of each server-sent event.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let (status, body) = self.send(path, body);
        assert_eq!(status, 200, "{body}");
        body.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_string)
            .collect()
    }

    /// As [`Self::stream`], with the moment at which each event arrived.
    pub fn timed_stream(&self, path: &str, body: &Value) -> Vec<(Instant, String)> {
        let mut stream = TcpStream::connect(self.authority()).unwrap();
        stream.write_all(post(path, body).as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines
            .filter_map(|line| {
                line.strip_prefix("data: ")
                    .map(|data| (Instant::now(), data.to_string()))
            })
            .collect()
    }

    fn send(&self, path: &str, body: &Value) -> (u16, String) {
        self.raw(&post(path, body))
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> Option<i32> {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
