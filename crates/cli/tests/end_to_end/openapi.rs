//! `/openapi.json` against what a gateway really answers.

use marill_testkit::processes::World;
use serde_json::{Value, json};

/// What is wrong with a value by a schema of the document, where anything is: types, required and
/// known properties, items, choices and references.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(to) = schema["$ref"].as_str() {
        let schema = document.pointer(to.strip_prefix('#').unwrap()).unwrap();
        return wrong(document, schema, value, at);
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        let fits = |form| wrong(document, form, value, at).is_none();
        return (!forms.iter().any(fits)).then(|| format!("{at}: none of the forms"));
    }
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("an unknown type `{other}`"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    };
    let chosen = schema["enum"]
        .as_array()
        .is_none_or(|choices| choices.contains(value));
    if !fits || !chosen {
        return Some(format!("{at}: {value} is not {schema}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return Some(format!("{at}: there is no {name}"));
        }
    }
    if let (Some(known), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            let Some(schema) = known.get(name) else {
                return Some(format!("{at}: `{name}` is not described"));
            };
            let found = wrong(document, schema, field, &format!("{at}.{name}"));
            if found.is_some() {
                return found;
            }
        }
    }
    let items = value.as_array().filter(|_| schema["items"].is_object());
    let mut items = items.into_iter().flatten();
    items.find_map(|item| wrong(document, &schema["items"], item, &format!("{at}[]")))
}

#[test]
fn what_the_gateway_answers_is_what_it_describes() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    let document = gateway.get("/openapi.json");
    let model = gateway.get("/v1/models")["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_string();
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let bodies = [
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "max_tokens": 2 }),
        ),
        (
            "/v1/completions",
            json!({ "prompt": "hello", "max_tokens": 2, "return_token_ids": true }),
        ),
        (
            "/v1/responses",
            json!({ "input": messages, "max_output_tokens": 2, "instructions": "x" }),
        ),
        ("/tokenize", json!({ "prompt": "hello" })),
        ("/detokenize", json!({ "tokens": [1, 2] })),
    ];
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schema = |status: &str| {
                operation["responses"][status]["content"]["application/json"]["schema"].clone()
            };
            let real = path.replace("{id}", &model);
            let answer = match (method.as_str(), path.as_str()) {
                ("get", "/ready") => {
                    let head = "host: localhost\r\nconnection: close";
                    let (status, _) =
                        gateway.raw(&format!("GET {real} HTTP/1.1\r\n{head}\r\n\r\n"));
                    assert_eq!(status, 200);
                    continue;
                }
                ("get", _) => gateway.get(&real),
                ("post", path) => {
                    let body = &bodies.iter().find(|(known, _)| *known == path).unwrap().1;
                    let request = &operation["requestBody"]["content"]["application/json"];
                    assert_eq!(wrong(&document, &request["schema"], body, path), None);
                    let (status, answer) = gateway.post(path, body);
                    assert_eq!(status, 200, "{path}: {answer}");
                    let (status, refused) = gateway.post(path, &json!({ "made_up": true }));
                    assert_eq!(
                        (status, wrong(&document, &schema("default"), &refused, path)),
                        (400, None)
                    );
                    answer
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(
                wrong(&document, &schema("200"), &answer, path),
                None,
                "{answer:#}"
            );
            asked += 1;
        }
    }
    // All but `/ready`.
    assert_eq!(asked, 8);
}
