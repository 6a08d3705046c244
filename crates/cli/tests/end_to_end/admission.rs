//! Whom a gateway answers: pages of named origins, and other machines with a key.

use marill_net::{Endpoint, http::HttpClient};
use marill_testkit::processes::{World, marill};
use serde_json::{Value, json};

const PAGE: &str = "https://app.example";

/// What a command says on its way to an end with an error.
fn refusal(world: &World, flags: &[&str]) -> String {
    let mut gateway = marill();
    gateway.args(["gateway", "--port", "0"]).args(flags);
    let output = world.client_folders(&mut gateway).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn pages_of_named_origins_may_ask() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--allow-origin", PAGE]);
    let ask = |origin: &str| {
        let body = json!({ "prompt": "hello" }).to_string();
        gateway.whole(&format!(
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let (head, _) = ask(PAGE);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains(&format!("access-control-allow-origin: {PAGE}")),
        "{head}"
    );
    assert!(
        head.contains("access-control-expose-headers: x-request-id"),
        "{head}"
    );
    let (head, _) = ask("https://other.example");
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(!head.contains("access-control-allow-origin"), "{head}");

    let (head, _) = gateway.whole(&format!(
        "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\norigin: {PAGE}\r\n\
         access-control-request-method: POST\r\n\
         access-control-request-headers: authorization,content-type\r\nconnection: close\r\n\r\n"
    ));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("access-control-allow-headers: authorization,content-type"),
        "{head}"
    );
    assert!(
        head.contains("access-control-allow-methods: GET,POST"),
        "{head}"
    );
}

#[test]
fn every_origin_is_none_that_can_be_named() {
    let world = World::new();
    let said = refusal(&world, &["--allow-origin", "*"]);
    assert!(said.contains("name each origin"), "{said}");
}

#[test]
fn other_machines_are_answered_with_a_key_and_tls_only() {
    let world = World::new();
    let keys = world.folder("gateway.keys");
    let keys = keys.to_str().unwrap();
    let said = refusal(&world, &["--host", "0.0.0.0", "--tls"]);
    assert!(
        said.contains("--keys FILE") && said.contains("--allow-anonymous"),
        "{said}"
    );
    let said = refusal(&world, &["--host", "0.0.0.0", "--tls", "--keys", keys]);
    assert!(said.contains("gateway.keys"), "{said}");
    let added = marill()
        .args(["keys", "--keys", keys, "add", "ann"])
        .output()
        .unwrap();
    let key = String::from_utf8(added.stdout).unwrap().trim().to_string();
    let said = refusal(&world, &["--host", "0.0.0.0", "--keys", keys]);
    assert!(
        said.contains("plain text") && said.contains("--tls"),
        "{said}"
    );

    let (dealer, server) = world.parties();
    let flags = ["--host", "0.0.0.0", "--tls", "--keys", keys];
    let gateway = world.gateway_with(&server.url, &dealer.url, &flags);
    let endpoint: Endpoint = gateway.url.replace("0.0.0.0", "127.0.0.1").parse().unwrap();
    let get = |key: Option<&str>, path: &str| {
        let client = HttpClient::new(endpoint.clone(), key.map(str::to_string));
        let answer = client.get(path, 1 << 20).unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status, body)
    };
    assert_eq!(get(Some(&key), "/v1/models").0, 200);
    for wrong in [None, Some("mk-wrong")] {
        let (status, refused) = get(wrong, "/v1/models");
        assert_eq!(
            (status, &refused["error"]["code"]),
            (401, &json!("invalid_api_key"))
        );
        let (status, health) = get(wrong, "/health");
        assert_eq!(
            (status, &health["status"], &health["server"]),
            (200, &json!("ok"), &Value::Null)
        );
    }
    assert!(get(Some(&key), "/health").1["server"].is_string());

    // Who is withdrawn is out with the next request.
    let revoked = marill()
        .args(["keys", "--keys", keys, "revoke", "ann"])
        .output()
        .unwrap();
    assert!(revoked.status.success());
    assert_eq!(get(Some(&key), "/v1/models").0, 401);
}
