//! The OpenAI interface of a gateway: answers, streams, refusals, hang-ups.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use marill_testkit::processes::{Service, World};
use serde_json::{Value, json};

#[test]
fn the_gateways_page_is_for_this_machine_only() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    assert_eq!(gateway.get("/health")["status"], "ok");
    let (status, page) =
        gateway.raw("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(
        status == 200 && page.contains("What leaves this machine"),
        "{page}"
    );
    let (status, _) =
        gateway.raw("GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    assert_eq!(status, 403);
}

#[test]
fn the_gateway_answers_the_openai_interface() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let models = gateway.get("/v1/models");
    let model = models["data"][0]["id"].as_str().unwrap().to_string();
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

/// What a conversation's turns say, and how many tokens of each prompt were seen before.
fn conversation(gateway: &Service) -> (Vec<Value>, Vec<u64>) {
    let mut messages = vec![json!({ "role": "user", "content": "hello" })];
    let mut said = Vec::new();
    let mut cached = Vec::new();
    for question in ["and", "then", "what"] {
        let body = json!({ "messages": messages, "max_tokens": 4, "ignore_eos": true });
        let (status, answer) = gateway.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let details = &answer["usage"]["prompt_tokens_details"];
        cached.push(details["cached_tokens"].as_u64().unwrap());
        let message = answer["choices"][0]["message"].clone();
        said.push(message["content"].clone());
        messages.push(message);
        messages.push(json!({ "role": "user", "content": question }));
    }
    (said, cached)
}

#[test]
fn a_conversation_at_the_gateway_goes_on_in_its_session() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let (said, cached) = conversation(&gateway);
    assert_eq!(cached[0], 0);
    drop(gateway);
    let apart = world.gateway_with(&server.url, &dealer.url, &["--no-keep"]);
    let (fresh, seen) = conversation(&apart);
    assert_eq!((said, seen), (fresh, vec![0; 3]));
    assert!(cached[1] > 0 && cached[2] > cached[1], "{cached:?}");
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
}

#[test]
fn sampled_answers_of_the_gateway_differ() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    // Six answers of eight tokens are not all the same.
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
}

#[test]
fn the_gateway_names_a_server_that_is_lost() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let model = gateway.get("/v1/models")["data"][0]["id"].clone();
    let question = json!([{ "role": "user", "content": "hello" }]);
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

/// The events of a stream of `/v1/responses`: all have their kind and their number.
fn response_events(gateway: &Service, body: &Value) -> Vec<Value> {
    let events = gateway.stream("/v1/responses", body);
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], index, "{event}");
    }
    events
}

#[test]
fn the_gateway_answers_responses_as_it_does_chats() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway_with(&server.url, &dealer.url, &["--no-keep"]);
    let messages = json!([
        { "role": "system", "content": "be brief" }, { "role": "user", "content": "hello" }
    ]);
    let limits = json!({ "messages": messages, "max_tokens": 5, "ignore_eos": true });
    let (_, chat) = gateway.post("/v1/chat/completions", &limits);
    let mut body = json!({
        "input": "hello", "instructions": "be brief", "max_output_tokens": 5, "ignore_eos": true,
        "metadata": { "a": "b" },
    });
    let (status, answer) = gateway.post("/v1/responses", &body);
    assert_eq!(status, 200, "{answer}");
    let text = &chat["choices"][0]["message"]["content"];
    assert_eq!(&answer["output"][0]["content"][0]["text"], text);
    assert_eq!(
        answer["usage"]["input_tokens"],
        chat["usage"]["prompt_tokens"]
    );
    assert_eq!(answer["usage"]["output_tokens"], 5);
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(
        (&answer["metadata"]["a"], &answer["store"]),
        (&json!("b"), &json!(false))
    );

    body["stream"] = json!(true);
    let events = response_events(&gateway, &body);
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let pieces = kinds
        .iter()
        .filter(|kind| **kind == "response.output_text.delta")
        .count();
    let mut expected = vec![
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ];
    expected.extend(vec!["response.output_text.delta"; pieces]);
    expected.extend([
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]);
    assert_eq!(kinds, expected);
    let joined: String = events
        .iter()
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(text, joined.as_str());
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["usage"], answer["usage"]);
    assert_eq!(last["output"][0]["content"], answer["output"][0]["content"]);
}

#[test]
fn a_response_goes_on_behind_its_own_output() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let mut input = json!([{ "role": "user", "content": "hello" }]);
    let ask = |input: &Value| {
        let body = json!({ "input": input, "max_output_tokens": 4, "ignore_eos": true });
        let (status, answer) = gateway.post("/v1/responses", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let first = ask(&input);
    let turns = input.as_array_mut().unwrap();
    turns.extend(first["output"].as_array().unwrap().iter().cloned());
    turns.push(json!({ "role": "user", "content": "and" }));
    let second = ask(&input);
    let cached = &second["usage"]["input_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().unwrap() > 0, "{second}");
    let kept = json!({ "input": "and", "previous_response_id": first["id"] });
    let (status, refused) = gateway.post("/v1/responses", &kept);
    assert_eq!(
        (status, &refused["error"]["param"]),
        (400, &json!("previous_response_id"))
    );
}

#[test]
fn tokens_are_told_without_an_answer() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let text = "hello, world";
    let (status, told) = gateway.post("/tokenize", &json!({ "prompt": text }));
    assert_eq!(status, 200, "{told}");
    let tokens = told["tokens"].as_array().unwrap();
    assert_eq!(told["count"], tokens.len());
    let (_, back) = gateway.post("/detokenize", &json!({ "tokens": tokens }));
    assert!(back["prompt"].as_str().unwrap().ends_with(text), "{back}");

    // An answer's prompt is counted as `/tokenize` counts it.
    let messages = json!([{ "role": "user", "content": text }]);
    let (_, told) = gateway.post("/tokenize", &json!({ "messages": messages }));
    let body = json!({ "messages": messages, "max_tokens": 1, "return_token_ids": true });
    let (_, answer) = gateway.post("/v1/chat/completions", &body);
    assert_eq!(told["tokens"], answer["prompt_token_ids"]);
    assert_eq!(told["count"], answer["usage"]["prompt_tokens"]);

    for (path, body, param) in [
        ("/tokenize", json!({ "prompt": 5 }), "prompt"),
        (
            "/tokenize",
            json!({ "prompt": "a", "return_token_strs": true }),
            "return_token_strs",
        ),
        ("/detokenize", json!({ "tokens": [1u64 << 40] }), "tokens"),
        ("/detokenize", json!({ "prompt": "a" }), "prompt"),
    ] {
        let (status, refused) = gateway.post(path, &body);
        assert_eq!(
            (status, refused["error"]["param"].as_str()),
            (400, Some(param))
        );
    }
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
