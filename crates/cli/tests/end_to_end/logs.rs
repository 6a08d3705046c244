//! Logs of services: one name of a request in all of them, and nothing that is secret.

use marill_testkit::processes::{Service, World};
use serde_json::{Value, json};

const JSON: [&str; 2] = ["--log-format", "json"];
/// What is asked, and must be in no log.
const QUESTION: &str = "zebrafish";

/// A question with its request's name, where it has one of its own: the status, the name that the
/// answer has, and the answer.
fn ask(gateway: &Service, messages: &Value, id: Option<&str>) -> (u16, String, Value) {
    let body = json!({ "messages": messages, "max_tokens": 3, "ignore_eos": true }).to_string();
    let own = id.map(|id| format!("x-request-id: {id}\r\n"));
    let (head, body) = gateway.whole(&format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}\
         content-length: {}\r\n\r\n{body}",
        own.unwrap_or_default(),
        body.len()
    ));
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        id.unwrap().to_string(),
        serde_json::from_str(&body).unwrap(),
    )
}

/// The lines of a service's log in JSON that belong to this request and say so.
fn lines_of(service: &Service, id: &str, message: &str) -> Vec<Value> {
    let lines = service.logged(&[&format!("\"request_id\":\"{id}\""), message]);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_request_is_found_in_the_logs_of_all_services() {
    let world = World::new();
    let (dealer, server) = world.parties_with(&JSON);
    let gateway = world.gateway_with(&server.url, &dealer.url, &JSON);
    let partition = gateway.get("/health")["partition_id"]
        .as_str()
        .unwrap()
        .to_string();
    let mut messages = json!([{ "role": "user", "content": QUESTION }]);
    let (status, first, answer) = ask(&gateway, &messages, None);
    assert_eq!(status, 200, "{answer}");
    assert!(first.starts_with("req-"), "{first}");
    for (service, message) in [
        (&gateway, "an answer is complete"),
        (&server, "a session begins"),
        (&dealer, "a session begins"),
    ] {
        for line in lines_of(service, &first, message) {
            assert_eq!(line["span"]["partition"], partition.as_str(), "{line}");
            assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
            assert_eq!(line["level"], "INFO", "{line}");
        }
    }

    // A further turn in the same session, with a name of the client's own.
    messages.as_array_mut().unwrap().extend([
        answer["choices"][0]["message"].clone(),
        json!({ "role": "user", "content": QUESTION }),
    ]);
    let (status, second, answer) = ask(&gateway, &messages, Some("my.own:2"));
    assert_eq!((status, second.as_str()), (200, "my.own:2"), "{answer}");
    let details = &answer["usage"]["prompt_tokens_details"];
    assert!(details["cached_tokens"].as_u64().unwrap() > 0, "{answer}");
    let begun = &lines_of(&server, &first, "a session begins")[0];
    let dealt = &lines_of(&dealer, &first, "a session begins")[0];
    let turn = &lines_of(&server, "my.own:2", "a session goes on")[0];
    let session = &begun["span"]["session"];
    assert!(session.is_string(), "{begun}");
    assert_eq!(&dealt["span"]["session"], session);
    assert_eq!(&turn["span"]["session"], session);

    for service in [gateway, server, dealer] {
        for line in service.log() {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
            assert!(!line.contains(QUESTION), "{line}");
        }
    }
}

#[test]
fn a_computing_party_logs_the_name_of_the_request() {
    let world = World::new();
    let (dealer, server) = world.parties_with_server(&["--e0", "party"]);
    let party = world.party(&server.url, &dealer.url, &[]);
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--party", &party.url]);
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let (status, _, answer) = ask(&gateway, &messages, Some("mine"));
    assert_eq!(status, 200, "{answer}");
    for service in [&gateway, &party, &server, &dealer] {
        for line in service.logged(&["request_id=\"mine\""]) {
            let time = line.split(' ').next().unwrap();
            assert!(time.len() > 20 && time.ends_with('Z'), "{line}");
            assert!(
                line.contains(" INFO ") && line.contains("partition=\""),
                "{line}"
            );
        }
        assert!(!service.log().concat().contains(QUESTION));
    }
}

#[test]
fn a_name_of_another_form_is_refused() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    for bad in ["two words", "a/b", &"x".repeat(129)] {
        let (status, id, refused) = ask(&gateway, &messages, Some(bad));
        assert_eq!(
            (status, &refused["error"]["param"]),
            (400, &json!("x-request-id"))
        );
        assert_eq!(refused["error"]["request_id"], id.as_str());
        assert!(id.starts_with("req-") && !gateway.log().concat().contains(bad));
    }
}

#[test]
fn an_error_says_the_name_of_its_request() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let (status, id, refused) = ask(&gateway, &json!([]), Some("wrong-1"));
    assert_eq!((status, id.as_str()), (400, "wrong-1"));
    assert_eq!(refused["error"]["request_id"], "wrong-1");
    drop(server);
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let (status, id, lost) = ask(&gateway, &messages, None);
    assert_eq!(
        (status, &lost["error"]["request_id"]),
        (502, &json!(id)),
        "{lost}"
    );
    assert!(!gateway.logged(&[&id, "an answer failed"]).is_empty());
}
