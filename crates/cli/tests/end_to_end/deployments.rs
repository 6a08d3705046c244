//! Settings and roundings beside the usual one, and a computing party of its own.

use std::process::Output;

use marill_numeric::Rounding;
use marill_testkit::{
    processes::{Service, World, marill},
    proxy::Proxy,
};
use serde_json::{Value, json};

use crate::{PROMPT, contains, generate, parse, telling};

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
}

#[test]
fn sessions_of_three_parties_sample_tokens() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let server = world.server_in("helped", &dealer.url, &["--setting", "3pc"]);
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
}

#[test]
fn a_greedy_only_server_refuses_to_sample() {
    let world = World::new();
    let (dealer, _) = world.parties();
    let plain = world.server_in("plain", &dealer.url, &["--greedy-only"]);
    let output = generate_with(&world, &plain.url, &dealer.url, &["--temperature", "1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("decodes greedily only"),
        "{said}"
    );
    assert_eq!(plain.get("/v1/models")["data"][0]["sampling"], false);
}

#[test]
fn three_parties_have_nothing_preprocessed() {
    let world = World::new();
    let (dealer, _) = world.parties();
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
