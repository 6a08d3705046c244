//! A conversation on a terminal: a pseudo-terminal, real keys and real signals.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use marill_testkit::processes::{Service, World, marill};
use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// How the line editor leaves a prompt that waits for keys.
const PROMPT: &str = "> \r\u{1b}[2C\u{1b}[?2026l";

/// `marill chat` on a terminal of its own.
struct Chat {
    child: Child,
    keys: File,
    seen: Arc<Mutex<String>>,
    /// How much of it was there when keys were pressed last.
    before: usize,
}

impl Chat {
    fn start(world: &World, server: &str, dealer: &str, flags: &[&str]) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let name = name.into_string().unwrap();
        let terminal = || -> Stdio {
            let mut options = File::options();
            options.read(true).write(true);
            options.custom_flags(OFlags::NOCTTY.bits() as i32);
            options.open(&name).unwrap().into()
        };
        let mut command = marill();
        command
            .args(["chat", server, "--dealer", dealer])
            .args(flags);
        world.client_folders(&mut command);
        command.current_dir(world.folder("")).env("TERM", "xterm");
        command
            .stdin(terminal())
            .stdout(terminal())
            .stderr(terminal());
        let child = command.spawn().unwrap();
        // The command holds the terminal's ends that the child has.
        drop(command);
        let keys = File::from(keys);
        let mut shown = keys.try_clone().unwrap();
        let seen = Arc::<Mutex<String>>::default();
        let record = seen.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = shown.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..n]).into_owned();
                record.lock().unwrap().push_str(&text);
            }
        });
        let before = 0;
        let chat = Self {
            child,
            keys,
            seen,
            before,
        };
        chat.wait("the prompt", |seen| seen.contains("> "));
        chat
    }

    fn wait(&self, what: &str, is_there: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_there(&self.seen.lock().unwrap()) {
            let seen = self.seen.lock().unwrap().clone();
            assert!(Instant::now() < until, "{what} does not come: {seen:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until this was shown so often.
    fn expect(&self, text: &str, times: usize) {
        self.wait(text, |seen| seen.matches(text).count() >= times);
    }

    /// At the next prompt: a line editor may drop what is typed between two lines.
    fn press(&mut self, keys: &str) {
        let before = self.before;
        self.wait("a prompt", |seen| seen[before..].ends_with(PROMPT));
        self.before = self.seen.lock().unwrap().len();
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// The roles and contents of a conversation that was saved under this name.
    fn saved(&mut self, world: &World, name: &str) -> Vec<(String, String)> {
        self.press(&format!("/save {name}\r"));
        self.expect(&format!("saved as `{name}`"), 1);
        let text = std::fs::read_to_string(world.folder(name)).unwrap();
        let row: Value = serde_json::from_str(&text).unwrap();
        let turns = row["messages"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_string();
        turns
            .map(|turn| (word(&turn["role"]), word(&turn["content"])))
            .collect()
    }

    /// Leaves; the exit code.
    fn leave(mut self, keys: &str) -> Option<i32> {
        self.press(keys);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            let seen = self.seen.lock().unwrap().clone();
            assert!(Instant::now() < until, "it does not end: {seen:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows of it, colors and movements aside.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            // A sequence ends with a letter.
            '\u{1b}' => drop(rest.find(char::is_ascii_alphabetic)),
            c => plain.push(c),
        }
    }
    plain
}

fn signal(service: &Service, signal: Signal) {
    let id = Pid::from_raw(service.id() as i32).unwrap();
    kill_process(id, signal).unwrap();
}

#[test]
fn at_the_prompt_keys_edit_and_ctrl_d_leaves() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let flags = ["--max-tokens", "2", "--system", "Be brief"];
    let mut chat = Chat::start(&world, &server.url, &dealer.url, &flags);
    // Ctrl-C clears the line, arrow up brings a question back.
    chat.press("nonsense\x03");
    chat.press("hello\r");
    chat.expect("tokens; session", 1);
    chat.press("\x1b[A\r");
    chat.expect("tokens; session", 2);
    let turns = chat.saved(&world, "said.json");
    let of = |role: &str| -> Vec<_> {
        let turns = turns.iter().filter(|turn| turn.0 == role);
        turns.map(|turn| turn.1.clone()).collect()
    };
    assert_eq!(of("user"), ["hello", "hello"]);
    assert_eq!(
        (of("system"), of("assistant").len()),
        (vec!["Be brief".into()], 2)
    );
    for line in ["/system Be loud\r", "/reset\r", "/system\r"] {
        chat.press(line);
    }
    chat.expect("instructions: Be loud", 1);
    // Nothing is overwritten, and what is no command is not sent.
    chat.press("/save said.json\r");
    chat.expect("nothing was said yet", 1);
    chat.press("/rest\r");
    chat.expect("`/rest` is no command", 1);
    chat.expect("> ", 1);
    assert_eq!(chat.leave("\x04"), Some(0));
}

#[test]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let mut chat = Chat::start(&world, &server.url, &dealer.url, &["--max-tokens", "2"]);
    // A server that says nothing: the step would wait for two minutes.
    signal(&server, Signal::STOP);
    chat.press("first\r");
    chat.expect("opening a session", 1);
    chat.interrupt();
    chat.expect("stopped before its first word", 1);
    signal(&server, Signal::CONT);
    chat.press("second\r");
    chat.expect("tokens; session", 1);
    let turns = chat.saved(&world, "said.json");
    let asked: Vec<_> = turns.iter().filter(|turn| turn.0 == "user").collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, "second");
    assert_eq!(chat.leave("/quit\r"), Some(0));
}

/// Relays to a service, each piece a few milliseconds late.
fn slowly(target: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let target = target.to_string();
    let pass = |mut from: TcpStream, mut to: TcpStream| {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            thread::sleep(Duration::from_millis(2));
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&target) else {
                return;
            };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass(client, back));
            thread::spawn(move || pass(server, forth));
        }
    });
    address
}

#[test]
fn an_interrupt_between_tokens_keeps_what_was_said() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let slow = slowly(server.authority());
    let flags = ["--max-tokens", "60", "--ignore-eos", "--quiet"];
    let mut chat = Chat::start(&world, &slow, &dealer.url, &flags);
    chat.press("hello\r");
    // Behind the echo of the question nothing comes but the answer.
    let answer = |seen: &str| {
        let plain = without_escapes(seen);
        let behind = plain
            .rsplit_once("hello")
            .map(|(_, behind)| behind.to_string());
        behind.is_some_and(|behind| behind.chars().any(|c| !c.is_whitespace()))
    };
    chat.wait("the first words", answer);
    let started = Instant::now();
    chat.interrupt();
    let turns = chat.saved(&world, "said.json");
    // Sixty tokens of a hundred rounds, 4 ms each, would take longer.
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let roles: Vec<_> = turns.iter().map(|turn| turn.0.as_str()).collect();
    assert_eq!(roles, ["user", "assistant"]);
    assert!(!turns[1].1.is_empty());
    assert_eq!(chat.leave("/quit\r"), Some(0));
}

#[test]
fn without_a_terminal_errors_end_no_conversation() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let mut command = marill();
    command.args([
        "chat",
        &server.url,
        "--dealer",
        &dealer.url,
        "--max-tokens",
        "2",
    ]);
    world.client_folders(&mut command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let long = "word ".repeat(400);
    let lines = format!("/rest\n{long}\nhello\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`/rest` is no command"), "{said}");
    assert!(said.contains("`/reset` starts over"), "{said}");
    assert_eq!(said.matches("tokens; session").count(), 1, "{said}");
}
