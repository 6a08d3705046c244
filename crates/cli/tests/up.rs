//! `marill up`: all roles from one file, as processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use marill_testkit::processes::{World, marill, post_to};
use serde_json::{Value, json};

/// More than services give their sessions to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `marill up` and what it said until all roles listened.
struct Up {
    child: Child,
    said: Vec<String>,
    stderr: BufReader<ChildStderr>,
}

impl Up {
    fn start(world: &World, file: &Path) -> Self {
        let mut command = marill();
        let mut child = command
            .arg("up")
            .arg(file)
            .env("MARILL_STATE", world.state())
            .env("MARILL_CACHE", world.folder("cache"))
            .env("MARILL_VAULT", world.folder("vault"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended: {said:?}");
            let is_last = line.starts_with("gateway         http");
            said.push(line.trim_end().to_owned());
            if is_last {
                break;
            }
        }
        Self {
            child,
            said,
            stderr,
        }
    }

    /// Where a role listens.
    fn url(&self, role: &str) -> String {
        let line = self.said.iter().rev().find(|line| line.starts_with(role));
        let line = line.expect("all are listed");
        line.split_whitespace().last().unwrap().to_owned()
    }

    fn chat(&self) -> Value {
        let url = self.url("gateway");
        let authority = url.strip_prefix("http://").unwrap();
        let answer = post_to(
            authority,
            "/v1/chat/completions",
            &json!({
                "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 2,
                "ignore_eos": true
            }),
        );
        assert!(answer.0.starts_with("HTTP/1.1 200"), "{answer:?}");
        serde_json::from_str(&answer.1).unwrap()
    }

    /// Sends a signal to a process.
    fn signal(pid: u32, signal: &str) {
        let status = Command::new("kill")
            .arg(signal)
            .arg(pid.to_string())
            .status();
        assert!(status.unwrap().success());
    }

    /// Its exit code, when it has ended by itself, and what it said last.
    fn ended(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        };
        let rest: Vec<String> = self.stderr.lines().map_while(Result::ok).collect();
        (status.code(), rest.join("\n"))
    }
}

/// A world and its file with these further lines.
fn world(lines: &str) -> (World, std::path::PathBuf) {
    let world = World::new();
    let file = world.folder("marill.toml");
    // Seen from the file's folder.
    let name = world.partition.file_name().unwrap().to_str().unwrap();
    let text = format!("[serve]\npartition = \"{name}\"\nport = 0\n{lines}\n[gateway]\nport = 0\n");
    std::fs::write(&file, text).unwrap();
    (world, file)
}

/// The process of a role that `up` started.
fn process_of(up: &Up, role: &str) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", up.child.id());
    let children = std::fs::read_to_string(children).unwrap();
    let is_role = |pid: &&str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
    };
    children
        .split_whitespace()
        .find(is_role)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn three_roles_from_one_file_answer_and_end_at_a_signal() {
    let (world, file) = world("[dealer]\nport = 0");
    let up = Up::start(&world, &file);
    let said = up.said.join("\n");
    assert!(
        said.contains("ONE OPERATOR RUNS ALL ROLES (dealer, server, gateway)"),
        "{said}"
    );
    assert!(said.contains("dealer  | listening on http"), "{said}");
    let answer = up.chat();
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    let pid = up.child.id();
    Up::signal(pid, "-INT");
    let (code, rest) = up.ended();
    assert_eq!(code, Some(0), "{rest}");
}

#[test]
fn two_parties_have_no_dealer() {
    let (world, file) = world("setting = \"2pc\"");
    let up = Up::start(&world, &file);
    let said = up.said.join("\n");
    assert!(said.contains("ALL ROLES (server, gateway)"), "{said}");
    assert_eq!(up.chat()["usage"]["completion_tokens"], 2);
    Up::signal(up.child.id(), "-TERM");
    assert_eq!(up.ended().0, Some(0));
}

#[test]
fn a_computing_party_is_started_where_the_server_wants_one() {
    let (world, file) = world("e0 = \"party\"\n[dealer]\nport = 0\n[party]\nport = 0");
    let up = Up::start(&world, &file);
    assert!(up.url("computing party").starts_with("http"));
    assert_eq!(up.chat()["usage"]["completion_tokens"], 2);
    Up::signal(up.child.id(), "-TERM");
    assert_eq!(up.ended().0, Some(0));
}

#[test]
fn when_one_role_ends_all_do() {
    let (world, file) = world("[dealer]\nport = 0");
    let up = Up::start(&world, &file);
    let gateway = process_of(&up, "gateway");
    Up::signal(process_of(&up, "serve"), "-KILL");
    let (code, rest) = up.ended();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("the server ended"), "{rest}");
    assert!(!Path::new(&format!("/proc/{gateway}")).exists());
}

#[test]
fn a_role_that_does_not_start_ends_all() {
    let (world, file) = world("max-sessions = 0\n[dealer]\nport = 0");
    let output = marill()
        .arg("up")
        .arg(&file)
        .env("MARILL_STATE", world.state())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("the server did not start"), "{text}");
    assert!(text.contains("'0' for '--max-sessions <N>'"), "{text}");
}

#[test]
fn a_file_that_is_missing_or_wrong_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let run = || {
        let output = marill()
            .arg("up")
            .current_dir(scratch.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run();
    assert!(text.contains("cannot read `marill.toml`"), "{text}");
    assert!(text.contains("`partition = \"FOLDER\"`"), "{text}");
    std::fs::write(scratch.path().join("marill.toml"), "[serve]\nportt = 1\n").unwrap();
    let text = run();
    assert!(
        text.contains("`marill.toml`, line 2: `marill serve` has no flag `--portt`"),
        "{text}"
    );
}
