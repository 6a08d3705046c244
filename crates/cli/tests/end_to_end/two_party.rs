//! The setting `2pc`: a server and a client as processes, and no dealer anywhere.

use marill_testkit::processes::{Service, World, marill};

use crate::{PROMPT, parse};

/// A server that needs no dealer.
fn server(world: &World, flags: &[&str]) -> Service {
    let mut server = marill();
    server
        .args(["serve", "--port", "0", "--setting", "2pc"])
        .arg(&world.partition)
        .args(flags);
    Service::start(world.server_folders(&mut server))
}

fn generate(world: &World, target: &str, flags: &[&str]) -> std::process::Output {
    let mut command = marill();
    // Nobody listens where a dealer would be.
    command.args(["generate", target, "--dealer", "http://127.0.0.1:1"]);
    command.args(["--prompt", PROMPT, "--json"]).args(flags);
    command.arg("--check-twin").arg(&world.partition);
    world.client_folders(&mut command).output().unwrap()
}

#[test]
fn two_processes_generate_32_tokens_that_are_the_twins() {
    let world = World::new();
    let server = server(&world, &[]);
    let flags = ["--max-tokens", "32", "--ignore-eos", "--setting", "2pc"];
    let answer = parse(&generate(&world, &server.url, &flags));
    assert_eq!(answer["twin_equal"], true);
    assert_eq!(answer["completion_tokens"], 32);
    assert_eq!(answer["setting"], "2pc");
    assert_eq!(answer["correlations"], "none");
    assert!(answer["material"].is_null(), "{}", answer["material"]);
    let sockets = &answer["socket_bytes"];
    assert_eq!(sockets["dealer_sent"], 0);
    assert_eq!(sockets["dealer_received"], 0);
}

#[test]
fn a_folder_answers_without_a_dealer_in_this_process() {
    let world = World::new();
    let target = world.partition.to_string_lossy().into_owned();
    let flags = ["--max-tokens", "2", "--setting", "2pc"];
    let answer = parse(&generate(&world, &target, &flags));
    assert_eq!(answer["twin_equal"], true);
    assert_eq!(answer["setting"], "2pc");
}

#[test]
fn flags_of_a_dealers_sessions_are_refused() {
    let world = World::new();
    let server = server(&world, &[]);
    for (flags, what) in [
        (["--correlations", "live"], "no correlations"),
        (["--comparison", "one-hot"], "no choice of comparisons"),
        (["--comparison", "dcf"], "no choice of comparisons"),
    ] {
        let output = generate(&world, &server.url, &flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(what), "{said}");
    }
    let models = server.get("/v1/models");
    assert_eq!(models["data"][0]["materials"], serde_json::json!([]));
}

/// A prompt is the first step that is measured.
#[test]
fn a_full_fine_tunes_prompt_is_timed_and_counted() {
    let mut bench = marill();
    bench.args([
        "bench",
        "--arch",
        "smollm2-135m",
        "--layers",
        "1",
        "--setting",
        "2pc",
    ]);
    bench.args([
        "--private",
        "full",
        "--phase",
        "prefill",
        "--tokens",
        "4",
        "--json",
    ]);
    let found = parse(&bench.output().unwrap());
    assert_eq!(found["twin_equal"], true, "{found}");
    assert_eq!(found["tally_equal"], true, "{found}");
}

#[test]
fn a_client_that_insists_on_another_setting_is_told() {
    let world = World::new();
    let server = server(&world, &[]);
    let output = generate(&world, &server.url, &["--setting", "3pc"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in ["`setting`", "`3pc`", "`2pc`"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_gateway_answers_without_a_dealer() {
    let world = World::new();
    let server = server(&world, &[]);
    let gateway = world.gateway(&server.url, "http://127.0.0.1:1");
    let request = serde_json::json!({
        "model": "base", "max_tokens": 2,
        "messages": [{"role": "user", "content": "hello"}],
    });
    let (status, answer) = gateway.post("/v1/chat/completions", &request);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["marill"]["correlations"], "none", "{answer}");
    assert_eq!(gateway.get("/health")["setting"], "2pc");
}
