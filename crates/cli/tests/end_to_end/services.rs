//! What operators see of a service: its end, its state, its errors, TLS.

use std::time::{Duration, Instant};

use marill_testkit::processes::{Service, World, marill};
use serde_json::{Value, json};

use crate::{PROMPT, generate, parse};

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
