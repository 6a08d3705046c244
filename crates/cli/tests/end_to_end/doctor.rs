//! `marill doctor`: what works is `ok`, and what does not has a name and an advice.

use marill_testkit::processes::{World, marill};
use serde_json::Value;

/// Exit code and findings.
fn doctor(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let mut command = marill();
    command
        .args(["doctor", "--json", "--output-dir"])
        .arg(world.folder("runs"));
    command.args(args).env("HF_HUB_CACHE", world.folder("hub"));
    let output = world.client_folders(&mut command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (output.status.code(), found)
}

/// The state and what was found and advised, of the check of this name.
fn check<'a>(found: &'a Value, name: &str) -> (&'a str, String) {
    let checks = found["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no check `{name}` in {found:#}"));
    let told = format!("{} {}", check["found"], check["advice"]);
    (check["state"].as_str().unwrap(), told)
}

#[test]
fn this_machine_alone_needs_no_service() {
    let world = World::new();
    let (code, found) = doctor(&world, &[]);
    assert_eq!(code, Some(0), "{found:#}");
    for name in [
        "version",
        "cores",
        "ring_kernels",
        "hardware_aes",
        "loopback",
    ] {
        assert!(!found[name].is_null(), "{name}");
    }
    for name in [
        "memory",
        "disk of downloads",
        "disk of records",
        "disk of runs",
    ] {
        assert_ne!(check(&found, name).0, "failed", "{found:#}");
    }
    assert!(check(&found, "downloads").1.contains("nothing yet"));
}

#[test]
fn services_that_work_are_ok() {
    let world = World::new();
    let (dealer, server) = world.parties_with(&["--tls"]);
    let services = ["--server", &server.url, "--dealer", &dealer.url];
    let (code, found) = doctor(&world, &services);
    assert_eq!(code, Some(0), "{found:#}");
    for part in ["", ": protocol", ": clock", ": certificate", ": ready"] {
        for service in ["server", "dealer"] {
            let (state, told) = check(&found, &format!("{service}{part}"));
            assert_eq!(state, "ok", "{service}{part} {told}");
        }
    }
    assert!(check(&found, "server: certificate").1.contains("days"));
    assert!(check(&found, "server: key").1.contains("none needed"));
    assert_eq!(found["failed"], 0);
}

#[test]
fn what_a_service_says_of_itself_is_extended() {
    let world = World::new();
    let (dealer, server) = world.parties();
    for (service, name) in [(&dealer, "dealer"), (&server, "server")] {
        let health = service.get("/health");
        assert_eq!(
            (&health["status"], &health["service"]),
            (&"ok".into(), &name.into())
        );
        assert!(health["protocol"].as_u64().unwrap() > 0);
        assert!(health["time"].as_f64().unwrap() > 1.7e9);
    }
    let gateway = world.gateway(&server.url, &dealer.url).get("/health");
    assert_eq!(
        (&gateway["service"], &gateway["status"]),
        (&"gateway".into(), &"ok".into())
    );
}

#[test]
fn a_service_that_is_not_there_fails_with_an_advice() {
    let world = World::new();
    let (mut dealer, server) = world.parties();
    assert_eq!(dealer.terminate(), Some(0));
    let services = ["--server", &server.url, "--dealer", &dealer.url];
    let (code, found) = doctor(&world, &services);
    assert_eq!(code, Some(2), "{found:#}");
    let (state, told) = check(&found, "dealer");
    assert_eq!(state, "failed");
    assert!(
        told.contains("nothing answers") && told.contains("marill dealer"),
        "{told}"
    );
    assert_eq!(check(&found, "server").0, "ok");
}

#[test]
fn addresses_that_are_exchanged_are_noticed() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let services = ["--server", &dealer.url, "--dealer", &server.url];
    let (code, found) = doctor(&world, &services);
    assert_eq!(code, Some(2), "{found:#}");
    assert!(check(&found, "server").1.contains("is a dealer"));
    assert!(check(&found, "dealer").1.contains("is a server"));
}

#[test]
fn a_certificate_that_is_not_the_named_one_fails() {
    let world = World::new();
    let (_, server) = world.parties_with(&["--tls"]);
    let (address, _) = server.url.split_once('#').unwrap();
    let wrong = format!("{address}#{}", "0a".repeat(32));
    let (code, found) = doctor(&world, &["--server", &wrong]);
    assert_eq!(code, Some(2), "{found:#}");
    assert!(
        check(&found, "server").1.contains("another certificate"),
        "{found:#}"
    );
}

#[test]
fn a_key_is_accepted_or_not() {
    let world = World::new();
    let keys = world.partition.with_file_name("keys");
    // The digest of `secret`.
    let line = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b alice\n";
    std::fs::write(&keys, line).unwrap();
    let (dealer, _) = world.parties();
    let server = world.server(&dealer.url, &["--keys", keys.to_str().unwrap()]);
    for (key, code, state, word) in [
        (&[][..], Some(2), "failed", "`--api-key`"),
        (&["--api-key", "wrong"], Some(2), "failed", "another key"),
        (&["--api-key", "secret"], Some(0), "ok", "not refused"),
    ] {
        let (ended, found) = doctor(&world, &[&["--server", &server.url], key].concat());
        let (found_state, told) = check(&found, "server: key");
        assert_eq!((ended, found_state), (code, state), "{told}");
        assert!(told.contains(word), "{told}");
    }
}
