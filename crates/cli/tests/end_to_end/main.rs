//! Dealer, server, gateway and client as separate processes of the real binary, with a tiny random
//! model.

mod admission;
mod deployments;
mod doctor;
mod gateway;
mod keys;
mod logs;
mod openapi;
mod page;
mod proxies;
mod services;
mod terminal;
mod two_party;

use std::{io::Write, process::Output};

use marill_testkit::{
    processes::{World, marill},
    proxy::Proxy,
};
use serde_json::Value;

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
fn a_prompt_that_does_not_fit_is_the_users_to_mend() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let output = generate(&world, &server.url, &dealer.url, &"word ".repeat(2000));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tokens") && said.contains("hint:"), "{said}");
}
