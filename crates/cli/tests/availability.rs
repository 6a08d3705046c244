//! One user, or one who is no user, does not stop the others: many at once, slow ones, silent ones,
//! a busy or changed server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use marill_numeric::Rounding;
use marill_testkit::processes::{Service, World, marill};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn chat(tokens: u64) -> Value {
    json!({
        "messages": [{ "role": "user", "content": "hello" }], "max_tokens": tokens,
        "ignore_eos": true
    })
}

/// Statuses and bodies of so many answers that are asked for at once.
fn at_once(gateway: &Service, count: usize, body: &Value) -> Vec<(String, String)> {
    thread::scope(|scope| {
        let ask = || gateway.exchange("/v1/chat/completions", body);
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn is_ok(answer: &(String, String)) -> bool {
    answer.0.starts_with("HTTP/1.1 200")
}

#[test]
fn the_first_requests_at_a_fresh_gateway_are_all_answered() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--max-sessions", "6"]);
    let answers = at_once(&gateway, 6, &chat(1));
    assert!(answers.iter().all(is_ok), "{answers:?}");
}

#[test]
fn a_fresh_party_answers_and_waits_for_a_full_server() {
    let world = World::new();
    let (dealer, server) = world.parties_with_server(&["--e0", "party", "--max-sessions", "1"]);
    let party = world.party(&server.url, &dealer.url, &[]);
    let flags = ["--party", &party.url, "--max-sessions", "4"];
    let gateway = world.gateway_with(&server.url, &dealer.url, &flags);
    let answers = at_once(&gateway, 4, &chat(3));
    assert!(answers.iter().all(is_ok), "{answers:?}");
}

#[test]
fn who_finds_no_place_in_the_queue_is_told_when_to_come_back() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--max-sessions", "1"]);
    // One runs, 32 wait.
    let answers = at_once(&gateway, 40, &chat(4));
    let refused: Vec<_> = answers.iter().filter(|answer| !is_ok(answer)).collect();
    assert!(refused.len() <= 8, "{refused:?}");
    for (head, body) in &refused {
        assert!(
            head.starts_with("HTTP/1.1 429") && body.contains("too_many_sessions"),
            "{head} {body}"
        );
        let retry = head
            .lines()
            .find_map(|line| line.strip_prefix("retry-after: "))
            .unwrap();
        assert!((1..=600).contains(&retry.parse::<u64>().unwrap()), "{head}");
    }
    let counted = format!(
        "marill_sessions_refused_total{{reason=\"too_many_sessions\"}} {}\n",
        refused.len()
    );
    assert!(
        gateway.metrics().contains(&counted),
        "{}",
        gateway.metrics()
    );
}

/// Reads until the service closes the line; how long that took.
fn closed_after(mut line: TcpStream, began: Instant) -> Duration {
    line.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut piece = [0; 4096];
    while let Ok(1..) = line.read(&mut piece) {}
    began.elapsed()
}

#[test]
fn silence_half_a_header_and_half_a_body_are_not_waited_for() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let kept = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let body =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    let grant = "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
        application/json\r\ncontent-length: 9\r\n\r\n{";
    let ticket = grant.replace("sessions", "tickets");
    let began = Instant::now();
    let mut lines = Vec::new();
    for service in [&gateway, &server, &dealer] {
        let own = if service.url == gateway.url {
            body
        } else {
            &*ticket
        };
        let own = if service.url == dealer.url {
            grant
        } else {
            own
        };
        for said in ["", "GET /health HTTP/1.1\r\nhost: loc", kept, own] {
            let mut line = TcpStream::connect(service.authority()).unwrap();
            line.write_all(said.as_bytes()).unwrap();
            lines.push(thread::spawn(move || closed_after(line, began)));
        }
    }
    for line in lines {
        let took = line.join().unwrap();
        assert!(took < Duration::from_secs(25), "{took:?}");
    }
}

#[test]
fn idle_connections_beyond_the_descriptors_hold_nobody_up() {
    let world = World::new();
    let mut dealer = std::process::Command::new("sh");
    dealer.args([
        "-c",
        "ulimit -n 64; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_marill"),
        "dealer",
        "--port",
        "0",
    ]);
    let dealer = Service::start(world.server_folders(&mut dealer));
    let mut idle = Vec::new();
    for _ in 0..120 {
        idle.extend(TcpStream::connect(dealer.authority()));
    }
    let began = Instant::now();
    assert_eq!(dealer.get("/health")["status"], "ok");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Most got through: more than the silent lines that one address may hold.
    assert!(idle.len() > 64);
}

fn upgraded(service: &Service, path: &str) -> TcpStream {
    let mut line = TcpStream::connect(service.authority()).unwrap();
    let request = "HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    write!(line, "GET {path} {request}").unwrap();
    let mut head = [0; 12];
    line.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    line
}

#[test]
fn connections_without_a_handshake_leave_their_slots_soon() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let silent: Vec<_> = (0..4).map(|_| upgraded(&server, "/v1/session")).collect();
    let began = Instant::now();
    // It waits in the server's queue meanwhile.
    let answer = gateway.exchange("/v1/chat/completions", &chat(1));
    assert!(
        is_ok(&answer) && began.elapsed() < Duration::from_secs(30),
        "{answer:?} {:?}",
        began.elapsed()
    );
    drop(silent);
}

#[test]
fn a_changed_partition_is_noticed_and_fetched() {
    changed_partition(false);
}

#[test]
fn a_party_goes_on_with_a_changed_partition_too() {
    changed_partition(true);
}

fn changed_partition(with_party: bool) {
    let world = World::new();
    let other = World::rounding(Rounding::Stochastic);
    let flags: &[&str] = if with_party { &["--e0", "party"] } else { &[] };
    let (dealer, mut server) = world.parties_with_server(flags);
    let party = with_party.then(|| world.party(&server.url, &dealer.url, &[]));
    let named = party
        .as_ref()
        .map_or(Vec::new(), |party| vec!["--party", &party.url]);
    let gateway = world.gateway_with(&server.url, &dealer.url, &named);
    assert!(is_ok(&gateway.exchange("/v1/chat/completions", &chat(1))));
    let former = gateway.get("/health")["partition_id"].clone();
    server.terminate();
    let port = server.url.rsplit(':').next().unwrap().to_string();
    let mut again = marill();
    again
        .args(["serve", "--port", &port, "--dealer", &dealer.url])
        .arg(&other.partition)
        .args(flags);
    let server = Service::start(world.server_folders(&mut again));

    let began = Instant::now();
    let mut codes = std::collections::BTreeSet::new();
    loop {
        let (head, body) = gateway.exchange("/v1/chat/completions", &chat(1));
        if head.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(
            head.starts_with("HTTP/1.1 503") && head.contains("retry-after: "),
            "{head} {body}"
        );
        let error: Value = serde_json::from_str(&body).unwrap();
        codes.insert(error["error"]["code"].as_str().unwrap().to_string());
        assert!(began.elapsed() < PATIENCE, "{codes:?}");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["partition_changed"]);
    let now = gateway.get("/health")["partition_id"].clone();
    assert!(now != former && now == server.get("/v1/models")["data"][0]["partition_id"]);
    let ready = gateway.raw("GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!(ready.0, 200, "{}", ready.1);
}

fn turn(role: &str, content: Value) -> Value {
    json!({ "role": role, "content": content })
}

fn talk(turns: Value, more: Value) -> (&'static str, Value) {
    let mut body = json!({ "messages": turns, "max_tokens": 2 });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ("/v1/chat/completions", body)
}

fn text(prompt: Value) -> (&'static str, Value) {
    (
        "/v1/completions",
        json!({ "prompt": prompt, "max_tokens": 2 }),
    )
}

/// Turns whose last is the assistant's.
fn begun() -> Value {
    json!([turn("user", json!("a")), turn("assistant", json!("The "))])
}

#[test]
fn bodies_as_programs_send_them() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let part = |text: &str| json!([{ "type": "text", "text": text }]);
    let silent = json!([
        turn("user", json!("a")),
        turn("assistant", Value::Null),
        turn("user", json!("b"))
    ]);
    for (path, body) in [
        talk(silent, json!({})),
        talk(
            json!([turn("user", part("hello"))]),
            json!({ "user": "me", "store": false, "metadata": { "a": "b" } }),
        ),
        talk(begun(), json!({ "continue_final_message": true })),
        talk(begun(), json!({ "add_generation_prompt": true })),
        talk(
            json!([turn("user", json!("a"))]),
            json!({ "presence_penalty": 0, "n": 1, "response_format": { "type": "text" } }),
        ),
        text(json!("hello")),
        text(json!(["hello"])),
        text(json!([1, 20, 30])),
        text(json!([[1, 20, 30]])),
    ] {
        let (status, answer) = gateway.post(path, &body);
        assert_eq!(status, 200, "{body} {answer}");
    }
}

#[test]
fn bodies_with_fields_that_cannot_be_followed() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let hello = || json!([turn("user", json!("hello"))]);
    for ((path, body), param) in [
        (text(json!([1, 20, 1_000_000])), "prompt"),
        (text(json!([[1, 20, 1_000_000]])), "prompt"),
        (text(json!([-1])), "prompt"),
        (text(json!([])), "prompt"),
        (text(json!([[1], [2]])), "prompt"),
        (text(json!([["a"]])), "prompt"),
        (text(json!({ "a": 1 })), "prompt"),
        (talk(begun(), json!({})), "messages[1]"),
        (
            talk(hello(), json!({ "presence_penalty": 0.5 })),
            "presence_penalty",
        ),
        (
            talk(hello(), json!({ "repetition_penalty": 1.2 })),
            "repetition_penalty",
        ),
        (
            talk(hello(), json!({ "logit_bias": { "5": -100 } })),
            "logit_bias",
        ),
        (talk(hello(), json!({ "min_p": 0.1 })), "min_p"),
        (
            talk(
                hello(),
                json!({ "response_format": { "type": "json_object" } }),
            ),
            "response_format",
        ),
        (talk(hello(), json!({ "best_of": 3 })), "best_of"),
        (
            talk(hello(), json!({ "something_new": 1 })),
            "something_new",
        ),
        (
            talk(json!([turn("user", Value::Null)]), json!({})),
            "messages[0]",
        ),
    ] {
        let (status, answer) = gateway.post(path, &body);
        assert_eq!(
            (status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{body} {answer}"
        );
    }
}

#[test]
fn wrong_keys_are_counted_and_slowed() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let mut add = marill();
    add.args(["keys", "add", "alice", "--state"])
        .arg(world.folder("keyed"));
    assert!(add.output().unwrap().status.success());
    let server = world.server_in("keyed", &dealer.url, &[]);
    let guess = || {
        let request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
            authorization: Bearer mk-guess\r\n\r\n";
        assert_eq!(server.raw(request).0, 401);
    };
    let began = Instant::now();
    (0..8).for_each(|_| guess());
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let counted = "marill_sessions_refused_total{reason=\"invalid_api_key\"} 8\n";
    assert!(server.metrics().contains(counted), "{}", server.metrics());
}

#[test]
fn a_bad_peer_or_download_is_named_with_what_to_do() {
    let world = World::new();
    let (dealer, server) = world.parties_with(&["--tls"]);
    let generate = |server: &str| {
        let mut command = marill();
        command.args([
            "generate",
            server,
            "--dealer",
            &dealer.url,
            "--prompt",
            "hello",
            "--max-tokens",
            "1",
        ]);
        let output = world.client_folders(&mut command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(said)
        }
    };
    generate(&server.url).unwrap();
    let (address, pin) = server.url.split_once('#').unwrap();
    let other = format!(
        "{address}#{}",
        if pin.starts_with('0') {
            pin.replace('0', "1")
        } else {
            pin.replacen(&pin[..1], "0", 1)
        }
    );
    for (url, parts) in [
        (other, ["another certificate", "\nhint: ask its operator"]),
        (
            address.replace("https", "http"),
            ["speaks TLS", "\nhint: use the `https://`"],
        ),
        (
            address.to_string(),
            ["no authority", "\nhint: use the whole address"],
        ),
    ] {
        let said = generate(&url).unwrap_err();
        assert!(
            parts.iter().all(|part| said.contains(part)) && !said.contains("start it"),
            "{said}"
        );
    }
    let folder = world.folder("cache").join("partitions");
    let cached = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir());
    let file = cached.unwrap().join("public/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let said = generate(&server.url).unwrap_err();
    assert!(
        said.contains("model.safetensors") && said.contains("\nhint: delete `"),
        "{said}"
    );
}
