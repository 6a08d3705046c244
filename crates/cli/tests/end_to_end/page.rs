//! The gateway's page: what `/status` tells it, in every setting, and the page itself in a browser.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use marill_testkit::processes::{Service, World, marill};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until what is told is as wanted.
fn until(gateway: &Service, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = gateway.get("/status");
        if wanted(&told) {
            return told;
        }
        assert!(Instant::now() < end, "waited in vain for {what}: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A setting's services with a gateway, which come last.
fn services(world: &World, form: &str) -> Vec<Service> {
    match form {
        "2pc" => {
            let mut server = marill();
            server
                .args(["serve", "--port", "0", "--setting", "2pc"])
                .arg(&world.partition);
            let server = Service::start(world.server_folders(&mut server));
            let gateway = world.gateway(&server.url, "http://127.0.0.1:1");
            vec![server, gateway]
        }
        "party" => {
            let (dealer, server) = world.parties_with_server(&["--e0", "party"]);
            let party = world.party(&server.url, &dealer.url, &[]);
            let flags = ["--party", &party.url];
            let gateway = world.gateway_with(&server.url, &dealer.url, &flags);
            vec![dealer, server, party, gateway]
        }
        setting => {
            let (dealer, server) = world.parties_with_server(&["--setting", setting]);
            let gateway = world.gateway(&server.url, &dealer.url);
            vec![dealer, server, gateway]
        }
    }
}

#[test]
fn status_names_who_takes_part_in_every_setting() {
    for (form, setting, e0, roles) in [
        (
            "dealer",
            "dealer",
            "client",
            ["server", "dealer"].as_slice(),
        ),
        ("3pc", "3pc", "client", &["server", "dealer"]),
        ("2pc", "2pc", "client", &["server"]),
        ("party", "dealer", "party", &["server", "party"]),
    ] {
        let world = World::new();
        let services = services(&world, form);
        let gateway = services.last().unwrap();
        let ready = until(gateway, "readiness", |told| told["state"] == "ready");
        assert_eq!(
            (&ready["setting"], &ready["e0"]),
            (&json!(setting), &json!(e0))
        );
        let parties = ready["parties"].as_array().unwrap();
        let found: Vec<_> = parties.iter().map(|party| &party["role"]).collect();
        assert_eq!(json!(found), json!(roles), "{form}");
        for party in parties {
            let address = party["address"].as_str().unwrap();
            assert!(
                services.iter().any(|service| service.url == address),
                "{address}"
            );
        }
        assert_eq!(ready["warnings"][0]["code"], "one_machine");
        assert_eq!(ready["api_key"], false);
        assert_eq!(ready["public_layers"], 2);

        let before = parties[0]["bytes_sent"].as_u64().unwrap();
        let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
        let (status, answer) = gateway.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let after = until(gateway, "the end", |told| told["sessions"]["active"] == 0);
        let sent = after["parties"][0]["bytes_sent"].as_u64().unwrap() - before;
        // What a session sends, its frames at least.
        let least = match form {
            "party" => 1,
            _ => answer["marill"]["bytes_sent"].as_u64().unwrap(),
        };
        assert!(sent >= least, "{form}: {sent}, {least}");
        let kept = after["sessions"]["kept"].as_u64().unwrap() > 0;
        assert_eq!(after["keeps_sessions"], kept, "{form}");
    }
}

#[test]
fn status_tells_how_far_each_answer_is() {
    let world = World::new();
    let services = services(&world, "dealer");
    let gateway = services.last().unwrap();
    let body = json!({
        "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 200, "ignore_eos": true,
        "stream": true,
    });
    let events = std::thread::scope(|scope| {
        let answer = scope.spawn(|| gateway.stream("/v1/chat/completions", &body));
        let first = until(gateway, "a token", |told| {
            told["answers"][0]["phase"] == "token"
        });
        assert_eq!(first["state"], "busy");
        let [began, tokens] = ["id", "tokens"].map(|key| first["answers"][0][key].clone());
        let later = until(gateway, "a later token", |told| {
            told["answers"][0]["tokens"].as_u64() > tokens.as_u64()
        });
        assert_eq!(later["answers"][0]["id"], began);
        assert!(later["answers"][0]["bytes"].as_u64().unwrap() > 0);
        let events = answer.join().unwrap();
        let first: Value = serde_json::from_str(&events[0]).unwrap();
        assert_eq!(first["id"], began);
        events
    });
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    until(gateway, "the end", |told| told["answers"] == json!([]));
}

#[test]
fn status_says_that_a_server_is_lost_and_why() {
    let world = World::new();
    let mut services = services(&world, "dealer");
    let gateway = services.pop().unwrap();
    until(&gateway, "readiness", |told| told["state"] == "ready");
    let server = services.pop().unwrap();
    let address = server.authority().to_owned();
    drop(server);
    let lost = until(&gateway, "the loss", |told| told["state"] == "lost");
    let reason = lost["reason"].as_str().unwrap();
    assert!(reason.contains(&address), "{reason}");
}

/// `npm ci --prefix serving/tests/page` comes before, and Chromium is there.
#[test]
#[ignore = "needs Node.js, Chromium and packages of npm; takes minutes"]
fn the_page_holds_in_a_browser_in_every_setting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for form in ["dealer", "3pc", "2pc", "party"] {
        let world = World::new();
        let services = services(&world, form);
        let mut node = Command::new("node");
        node.arg(root.join("serving/tests/page/browser.mjs"));
        if form != "dealer" {
            node.arg("--brief");
        }
        let status = node.arg(&services.last().unwrap().url).status().unwrap();
        assert!(status.success(), "{form}");
    }
}
