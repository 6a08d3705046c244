//! Dealer, server, gateway and client as separate processes of the real binary, with a tiny random
//! model.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
    time::{Duration, Instant},
};

use marill_numeric::Rounding;
use marill_testkit::{
    processes::{Service, World, marill},
    proxy::Proxy,
};
use serde_json::{Value, json};

const PROMPT: &str = "The quick brown fox jumps over the lazy dog";

fn generate(world: &World, server: &str, dealer: &str, prompt: &str) -> Output {
    let mut command = marill();
    command.args([
        "generate",
        server,
        "--dealer",
        dealer,
        "--prompt",
        prompt,
        "--max-tokens",
        "6",
        "--json",
    ]);
    command.arg("--check-twin").arg(&world.partition);
    world.client_folders(&mut command).output().unwrap()
}

fn parse(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn three_processes_answer_as_the_twin_and_leak_no_word() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let (to_server, server_url) = Proxy::start(&server.url.parse().unwrap());
    let (to_dealer, dealer_url) = Proxy::start(&dealer.url.parse().unwrap());
    let server_url = server_url.to_string();
    let dealer_url = dealer_url.to_string();

    let answer = parse(&generate(&world, &server_url, &dealer_url, PROMPT));
    assert_eq!(answer["twin_equal"], true);
    assert_eq!(
        (answer["setting"].as_str(), answer["rounding"].as_str()),
        (Some("dealer"), Some("exact"))
    );
    assert!(answer["prefill"]["rounds"].as_u64().unwrap() > 0);
    let sockets = &answer["socket_bytes"];
    assert_eq!(
        sockets["dealer_sent"].as_u64().unwrap(),
        to_dealer.sent().len() as u64
    );
    // A seed and heads of HTTP, no corrections.
    assert!(sockets["dealer_received"].as_u64().unwrap() < 64 << 10);

    let mut left = to_server.readable();
    left.extend(to_dealer.readable());
    // The handshakes alone are longer: less would mean that the wrong bytes were looked through.
    assert!(
        left.len() > 10_000 && contains(&left, "partition_id"),
        "handshakes are readable, so text would be too"
    );
    for word in telling(PROMPT)
        .chain([answer["text"].as_str().unwrap()])
        .filter(|word| word.len() > 4)
    {
        assert!(!contains(&left, word), "`{word}` left the client in clear");
    }
    // Once more with all downloads done: what the server can count depends on the bucket, not on
    // the prompt.
    let sizes = |prompt: &str| {
        let from = to_server.sent().len();
        let answer = parse(&generate(&world, &server_url, &dealer_url, prompt));
        (
            to_server.sent().len() - from,
            answer["completion_tokens"].clone(),
            answer["prefill"].clone(),
        )
    };
    let short = sizes("cat");
    let long = sizes("cats");
    assert_eq!(short.2["bytes_sent"], long.2["bytes_sent"]);
    if short.1 == long.1 {
        assert_eq!(short.0, long.0);
    }
}

/// Words that do not turn up in megabytes of random bytes.
fn telling(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| word.len() > 4)
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes
        .windows(word.len())
        .any(|window| window == word.as_bytes())
}

#[test]
fn the_gateway_answers_the_openai_interface() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let models = gateway.get("/v1/models");
    let model = models["data"][0]["id"].as_str().unwrap().to_string();
    assert_eq!(gateway.get("/health")["status"], "ok");

    let (status, page) =
        gateway.raw("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(
        status == 200 && page.contains("What leaves this machine"),
        "{page}"
    );
    assert_eq!(
        gateway
            .raw("GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
            .0,
        403
    );

    let question = json!([{ "role": "user", "content": "hello" }]);
    let (status, answer) = gateway.post(
        "/v1/chat/completions",
        &json!({ "model": model, "messages": question, "max_tokens": 5 }),
    );
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    let text = answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_string();
    // The request asks for so many.
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 5);

    let body = json!({
        "model": model, "messages": question, "max_tokens": 5, "stream": true,
        "stream_options": { "include_usage": true },
    });
    let events = gateway.stream("/v1/chat/completions", &body);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let joined: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(joined, text, "the pieces of a stream make up the whole");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(
        chunks
            .iter()
            .any(|chunk| chunk["choices"][0]["finish_reason"].is_string())
    );
    assert_eq!(chunks.last().unwrap()["usage"], answer["usage"]);
}

#[test]
fn the_gateway_gives_exactly_the_tokens_asked_for() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    // An answer that may not end early has exactly as many tokens as were asked for, and their ids
    // say which.
    let exact =
        json!({ "prompt": "hello", "max_tokens": 9, "ignore_eos": true, "return_token_ids": true });
    let (status, answer) = gateway.post("/v1/completions", &exact);
    assert_eq!(
        (status, answer["usage"]["completion_tokens"].as_u64()),
        (200, Some(9)),
        "{answer}"
    );
    assert_eq!(
        answer["choices"][0]["token_ids"].as_array().unwrap().len(),
        9
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "length");

    // Six sampled answers of eight tokens are not all the same.
    let sampled = json!({
        "prompt": "hello", "max_tokens": 8, "ignore_eos": true, "temperature": 2, "top_k": 50
    });
    let texts: Vec<Value> = (0..6)
        .map(|_| gateway.post("/v1/completions", &sampled).1["choices"][0].clone())
        .collect();
    assert!(
        texts[0]["text"].is_string() && texts.iter().any(|text| *text != texts[0]),
        "{texts:?}"
    );
}

#[test]
fn the_gateway_refuses_by_field_and_code() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let model = gateway.get("/v1/models")["data"][0]["id"].clone();
    let question = json!([{ "role": "user", "content": "hello" }]);
    for (path, body, param) in [
        (
            "/v1/completions",
            json!({ "prompt": "a", "min_tokens": 3, "max_tokens": 2 }),
            "min_tokens",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "a", "temperature": 1, "top_p": 0.5 }),
            "top_p",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": model, "messages": question, "n": 2 }),
            "n",
        ),
    ] {
        let (status, refused) = gateway.post(path, &body);
        assert_eq!(
            (status, refused["error"]["param"].as_str()),
            (400, Some(param))
        );
    }
    let (status, refused) = gateway.post(
        "/v1/chat/completions",
        &json!({ "model": "x", "messages": question }),
    );
    assert_eq!(
        (status, refused["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    let long = json!({ "model": model, "prompt": "word ".repeat(2000) });
    let (status, refused) = gateway.post("/v1/completions", &long);
    assert_eq!(
        (status, refused["error"]["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );

    drop(server);
    let (status, lost) = gateway.post(
        "/v1/chat/completions",
        &json!({ "model": model, "messages": question }),
    );
    assert_eq!(status, 502, "{lost}");
    assert!(
        lost["error"]["message"]
            .as_str()
            .unwrap()
            .contains("server"),
        "{lost}"
    );
}

#[test]
fn a_client_that_hangs_up_stops_its_session() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let body = json!({ "prompt": "hello", "stream": true }).to_string();
    let mut stream = TcpStream::connect(gateway.authority()).unwrap();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.metrics().contains("marill_sessions_active 0") {
        assert!(
            Instant::now() < deadline,
            "the session goes on:\n{}",
            server.metrics()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn services_end_in_order_on_a_signal_and_say_what_is_wrong() {
    let world = World::new();
    let (mut dealer, mut server) = world.parties();
    let port = server.url.rsplit(':').next().unwrap();
    let mut second = marill();
    second
        .args(["serve", "--port", port, "--dealer", &dealer.url])
        .arg(&world.partition);
    let output = world.server_folders(&mut second).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(port), "{said}");

    let mut outside = marill();
    outside.args(["dealer", "--host", "0.0.0.0", "--port", "0"]);
    let output = world.server_folders(&mut outside).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("plain text") && said.contains("--tls"),
        "{said}"
    );

    assert_eq!(dealer.terminate(), Some(0));
    let output = generate(&world, &server.url, &dealer.url, PROMPT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("dealer"), "{said}");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn under_tls_the_printed_addresses_are_all_that_a_client_needs() {
    let world = World::new();
    let (dealer, server) = world.parties_with(&["--tls"]);
    assert!(server.url.starts_with("https://") && dealer.url.starts_with("https://"));
    let answer = parse(&generate(&world, &server.url, &dealer.url, PROMPT));
    assert_eq!(answer["twin_equal"], true);
    let output = generate(
        &world,
        &server.url,
        &server.url.replace(server.authority(), dealer.authority()),
        PROMPT,
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("certificate"),
        "{said}"
    );
}

#[test]
fn a_conversation_in_the_terminal_is_answered_line_by_line() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let mut command = marill();
    command.args([
        "chat",
        &server.url,
        "--dealer",
        &dealer.url,
        "--max-tokens",
        "3",
    ]);
    world.client_folders(&mut command);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"hello\n/reset\nhello\n/quit\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let half = text.len() / 2;
    assert!(
        half > 0 && text[..half] == text[half..],
        "the same question, the same answer: {text:?}"
    );
    assert_eq!(said.matches("tokens; session").count(), 2, "{said}");
}

#[test]
fn a_server_with_keys_serves_their_holders_only() {
    let world = World::new();
    let keys = world.partition.with_file_name("keys");
    // The digest of `secret`.
    std::fs::write(
        &keys,
        "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b alice\n",
    )
    .unwrap();
    let (dealer, _) = world.parties();
    let server = world.server(&dealer.url, &["--api-keys", keys.to_str().unwrap()]);
    let output = generate(&world, &server.url, &dealer.url, PROMPT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("API key"),
        "{said}"
    );
    let mut command = marill();
    command.args([
        "generate",
        &server.url,
        "--dealer",
        &dealer.url,
        "-p",
        PROMPT,
        "--max-tokens",
        "1",
        "--json",
    ]);
    parse(
        &world
            .client_folders(command.args(["--api-key", "secret"]))
            .output()
            .unwrap(),
    );
}

#[test]
fn budgets_of_keys_survive_the_servers_sudden_death() {
    let world = World::new();
    let keys = |args: &[&str]| {
        let output = world
            .server_folders(marill().arg("keys").args(args))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let key = keys(&["add", "alice", "--tokens", "20"]);
    let (dealer, server) = world.parties();
    let ask = |url: &str| {
        let mut command = marill();
        command.args([
            "generate",
            url,
            "--dealer",
            &dealer.url,
            "-p",
            "hello",
            "--max-tokens",
            "3",
            "--raw",
            "--ignore-eos",
        ]);
        world
            .client_folders(command.args(["--json", "--api-key", &key]))
            .output()
            .unwrap()
    };
    parse(&ask(&server.url));
    assert!(
        keys(&["ls"]).contains("tokens 18 of 20, sessions 1"),
        "{}",
        keys(&["ls"])
    );

    drop(server); // Killed: no handler of its own runs.
    let server = world.server(&dealer.url, &[]);
    let output = ask(&server.url);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("budget of 20 tokens"),
        "{said}"
    );
    assert!(
        keys(&["ls", "--json"]).contains("\"tokens_used\":18"),
        "a refused step is not charged"
    );

    // Behind a gateway it is a 429 that says when to come back.
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--api-key", &key]);
    let (head, body) = gateway.exchange("/v1/completions", &json!({ "prompt": "hello" }));
    assert!(
        head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 3600"),
        "{head}"
    );
    assert!(body.contains("budget_spent"), "{body}");

    keys(&["revoke", "alice"]);
    let output = ask(&server.url);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("API key"),
        "a revoked key is refused by a server that runs: {said}"
    );
}

#[test]
fn every_service_tells_its_state_and_errs_in_one_form() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let get = |service: &Service, path: &str| {
        service.whole(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
    };
    for service in [&dealer, &server, &gateway] {
        assert!(get(service, "/health").0.starts_with("HTTP/1.1 200"));
        let (head, body) = get(service, "/ready");
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("x-request-id: req-"),
            "{head} {body}"
        );
        assert!(
            get(service, "/metrics").0.starts_with("HTTP/1.1 404"),
            "whoever is served does not see the others"
        );
        assert!(
            service.metrics().contains("\nmarill_sessions_active 0\n"),
            "{}",
            service.metrics()
        );
        let (head, body) = get(service, "/nowhere");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 404") && error["error"]["code"] == "not_found",
            "{body}"
        );
    }
    let models: Value = serde_json::from_str(&get(&server, "/v1/models").1).unwrap();
    let id = models["data"][0]["id"].as_str().unwrap();
    let manifest: Value =
        serde_json::from_str(&get(&server, &format!("/v1/models/{id}/manifest")).1).unwrap();
    assert_eq!(manifest["partition_id"], models["data"][0]["partition_id"]);

    let (head, body) =
        gateway.exchange("/v1/completions", &json!({ "prompt": "x".repeat(5 << 20) }));
    assert!(
        head.starts_with("HTTP/1.1 413") && body.contains("request_too_large"),
        "{head} {body}"
    );
    let (head, body) = get(&gateway, "/v1/completions");
    assert!(
        head.starts_with("HTTP/1.1 405") && body.contains("method_not_allowed"),
        "{head} {body}"
    );

    drop(dealer);
    // What was found before holds for a moment.
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(&gateway, "/ready").0.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (head, body) = get(&server, "/ready");
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("retry-after") && body.contains("dealer"),
        "{head} {body}"
    );
    assert!(get(&gateway, "/ready").0.starts_with("HTTP/1.1 503"));
    assert!(
        get(&server, "/health").0.starts_with("HTTP/1.1 200"),
        "alive, but not ready"
    );
}

#[test]
fn three_parties_answer_as_the_twin_does_and_say_so() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let server = world.server_in("helped", &dealer.url, &["--setting", "3pc"]);
    let answer = parse(&generate(&world, &server.url, &dealer.url, PROMPT));
    assert_eq!(
        (answer["setting"].as_str(), answer["twin_equal"].as_bool()),
        (Some("3pc"), Some(true))
    );
    assert_eq!(answer["correlations"], "live");
    assert_eq!(server.get("/v1/models")["data"][0]["setting"], "3pc");
    let sampled = parse(&generate_with(
        &world,
        &server.url,
        &dealer.url,
        &["--temperature", "1", "--top-k", "4"],
    ));
    assert_eq!(
        sampled["sampling"],
        json!({ "temperature": 1.0, "top_k": 4 })
    );

    let plain = world.server_in("plain", &dealer.url, &["--greedy-only"]);
    let output = generate_with(&world, &plain.url, &dealer.url, &["--temperature", "1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("decodes greedily only"),
        "{said}"
    );
    assert_eq!(plain.get("/v1/models")["data"][0]["sampling"], false);

    let mut refused = marill();
    refused
        .args([
            "serve",
            "--port",
            "0",
            "--setting",
            "3pc",
            "--preprocessed",
            ".",
        ])
        .arg(&world.partition);
    let output = world
        .server_folders(refused.args(["--dealer", &dealer.url]))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("while a session runs"),
        "{said}"
    );
}

#[test]
fn a_stochastic_partition_is_served_and_named_as_one() {
    let world = World::rounding(Rounding::Stochastic);
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    assert_eq!(
        server.get("/v1/models")["data"][0]["rounding"],
        "stochastic"
    );
    assert_eq!(gateway.get("/health")["rounding"], "stochastic");
    let (status, answer) = gateway.post(
        "/v1/completions",
        &json!({ "prompt": PROMPT, "max_tokens": 4, "ignore_eos": true }),
    );
    assert_eq!(
        (status, answer["usage"]["completion_tokens"].as_u64()),
        (200, Some(4)),
        "{answer}"
    );

    let answer = parse(&generate(&world, &server.url, &dealer.url, PROMPT));
    assert_eq!(
        (answer["rounding"].as_str(), &answer["twin_equal"]),
        (Some("stochastic"), &Value::Null)
    );
    let near = &answer["exact_twin"];
    assert_eq!(near["tokens"], answer["completion_tokens"]);
    // Logits of this model are far apart: a token picked at random lies below the best by ones.
    assert!(near["largest_shortfall"].as_f64().unwrap() < 0.1, "{near}");

    let shared = world.server_in("shared", &dealer.url, &["--e0", "party"]);
    let party = world.party(&shared.url, &dealer.url, &[]);
    let flags = ["--party", &party.url, "--comparison", "dcf", "--check-twin"];
    let flags = [&flags[..], &[world.partition.to_str().unwrap()]].concat();
    let answer = parse(&generate_with(&world, &shared.url, &dealer.url, &flags));
    assert_eq!(
        (&answer["material"], &answer["exact_twin"]["tokens"]),
        (&json!("points"), &json!(2)),
        "{answer}"
    );
}

/// Five processes: dealer, server, evaluator, gateway and a client.
#[test]
fn with_a_separate_party_the_client_sends_shares_only() {
    let world = World::new();
    let (dealer, other) = world.parties();
    let server = world.server_in("shared", &dealer.url, &["--e0", "party"]);
    let party = world.party(&server.url, &dealer.url, &[]);
    let (to_server, server_url) = Proxy::start(&server.url.parse().unwrap());
    let (to_party, party_url) = Proxy::start(&party.url.parse().unwrap());
    let server_url = server_url.to_string();
    let party_url = party_url.to_string();
    let ask = |flags: &[&str]| {
        let mut command = marill();
        command
            .args([
                "generate",
                &server_url,
                "-p",
                PROMPT,
                "--max-tokens",
                "6",
                "--json",
            ])
            .args(flags);
        world
            .client_folders(command.arg("--check-twin").arg(&world.partition))
            .output()
            .unwrap()
    };
    // The client needs no dealer: the address it has for one does not answer.
    let answer = parse(&ask(&[
        "--party",
        &party_url,
        "--dealer",
        "http://127.0.0.1:1",
    ]));
    assert_eq!(answer["twin_equal"], true);
    let steps = answer["decode_steps"].as_u64().unwrap();
    assert_eq!(
        answer["decode"]["rounds"].as_u64().unwrap(),
        steps,
        "one round per token for the client"
    );
    for left in [to_server.readable(), to_party.readable()] {
        // As above: the handshakes alone are longer.
        assert!(left.len() > 10_000 && contains(&left, "partition_id"));
        telling(PROMPT)
            .for_each(|word| assert!(!contains(&left, word), "`{word}` left the client in clear"));
    }

    let output = ask(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("none is named") && said.contains("--party"),
        "{said}"
    );
    let output = generate_with(&world, &other.url, &dealer.url, &["--party", &party.url]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("`e0`"), "{said}");
}

#[test]
fn a_gateway_names_a_separate_party_that_is_lost() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let server = world.server_in("shared", &dealer.url, &["--e0", "party"]);
    let party = world.party(&server.url, &dealer.url, &[]);
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--party", &party.url]);
    let body =
        json!({ "prompt": PROMPT, "max_tokens": 4, "ignore_eos": true, "return_token_ids": true });
    let (status, answer) = gateway.post("/v1/completions", &body);
    assert_eq!(
        (status, answer["usage"]["completion_tokens"].as_u64()),
        (200, Some(4)),
        "{answer}"
    );
    let mut cold = body.clone();
    (cold["temperature"], cold["top_k"]) = (json!(1e-5), json!(8));
    let (status, sampled) = gateway.post("/v1/completions", &cold);
    assert_eq!(status, 200, "{sampled}");
    assert_eq!(
        sampled["choices"][0]["token_ids"], answer["choices"][0]["token_ids"],
        "a sample with next to no noise"
    );
    assert_eq!(gateway.get("/health")["e0"], "operator");

    drop(party);
    let (status, lost) = gateway.post("/v1/completions", &body);
    assert!(
        status == 502
            && lost["error"]["message"]
                .as_str()
                .unwrap()
                .contains("computing party"),
        "{lost}"
    );
}

/// Whose choice of comparisons counts: who insists, or else the computing party, whose rounds wait.
#[test]
fn a_separate_party_computes_with_dcf_too() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let server = world.server_in("shared", &dealer.url, &["--e0", "party"]);
    let ask = |party: &Service, comparison: &str| {
        let flags = ["--party", &party.url, "--comparison", comparison];
        let mut command = marill();
        command
            .args([
                "generate",
                &server.url,
                "-p",
                PROMPT,
                "--max-tokens",
                "3",
                "--json",
            ])
            .args(flags);
        world
            .client_folders(command.arg("--check-twin").arg(&world.partition))
            .output()
            .unwrap()
    };
    // So far away that rounds are all that counts.
    let far = world.party(&server.url, &dealer.url, &["--network", "2000/100000"]);
    for (asked, expected) in [("auto", "points"), ("dcf", "points"), ("one-hot", "digits")] {
        let answer = parse(&ask(&far, asked));
        assert_eq!(
            (&answer["twin_equal"], answer["material"].as_str()),
            (&json!(true), Some(expected)),
            "{asked}"
        );
    }
    let firm = world.party(&server.url, &dealer.url, &["--comparison", "one-hot"]);
    assert_eq!(parse(&ask(&firm, "auto"))["material"], "digits");
    let output = ask(&firm, "dcf");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("disagree on `comparison`"),
        "{said}"
    );
}

fn generate_with(world: &World, server: &str, dealer: &str, flags: &[&str]) -> Output {
    let mut command = marill();
    command
        .args([
            "generate",
            server,
            "--dealer",
            dealer,
            "-p",
            PROMPT,
            "--max-tokens",
            "2",
            "--json",
        ])
        .args(flags);
    world.client_folders(&mut command).output().unwrap()
}

#[test]
fn a_prompt_that_does_not_fit_is_the_users_to_mend() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let output = generate(&world, &server.url, &dealer.url, &"word ".repeat(2000));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tokens") && said.contains("hint:"), "{said}");
}

/// `python3 -m venv venv && venv/bin/pip install openai`, then
/// `MARILL_PYTHON=venv/bin/python cargo test -p marill --test end_to_end -- --ignored openai`.
#[test]
#[ignore = "needs the `openai` package: name its interpreter in MARILL_PYTHON"]
fn the_official_openai_client_works_unmodified() {
    let python = std::env::var("MARILL_PYTHON").unwrap_or_else(|_| "python3".into());
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway: Service = world.gateway(&server.url, &dealer.url);
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/end_to_end/openai_client.py"
    );
    let output = Command::new(python)
        .arg(script)
        .arg(format!("{}/v1", gateway.url))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("all passed"),
        "{said}"
    );
}
