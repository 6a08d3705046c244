//! API keys and their budgets.

use marill_testkit::processes::{World, marill};
use serde_json::json;

use crate::{PROMPT, generate, parse};

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
