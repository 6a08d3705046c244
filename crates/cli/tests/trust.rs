//! What the services refuse to do by default, and what their processes do not leave behind.

use std::{fs, process::Output};

use marill_testkit::processes::{World, marill};

fn said(output: &Output) -> String {
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_without_keys_does_not_leave_this_machine_unasked() {
    let world = World::new();
    let (dealer, _server) = world.parties();
    let folder = tempfile::tempdir().unwrap();
    let serve = |flags: &[&str]| {
        let mut serve = marill();
        serve
            .args([
                "serve",
                "--port",
                "0",
                "--host",
                "0.0.0.0",
                "--dealer",
                &dealer.url,
            ])
            .arg(&world.partition);
        serve
            .arg("--dealer-key")
            .arg(world.state().join("dealer/server.key"));
        serve.args(flags).arg("--state").arg(folder.path());
        said(&serve.output().unwrap())
    };
    let refused = serve(&["--tls"]);
    assert!(
        refused.contains("without API keys") && refused.contains("--allow-anonymous"),
        "{refused}"
    );
    // With the flag the next thing in the way is plain text.
    let refused = serve(&["--allow-anonymous"]);
    assert!(refused.contains("plain text"), "{refused}");
    let added = marill()
        .args(["keys", "add", "alice", "--state"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let refused = serve(&[]);
    assert!(
        refused.contains("plain text"),
        "with keys nothing else is asked: {refused}"
    );
}

/// A first start on a full disk left an empty key, which the next start took.
#[test]
fn an_empty_or_cut_key_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("dealer");
    fs::create_dir_all(&state).unwrap();
    let digits = "ab".repeat(32);
    for name in ["server.key", "masks.key", "vault.id"] {
        for text in ["", &digits[..55], &*digits.replace('a', "g")] {
            fs::write(state.join(name), text).unwrap();
            let output = marill()
                .args(["dealer", "--port", "0", "--state"])
                .arg(folder.path())
                .output()
                .unwrap();
            let refused = said(&output);
            assert!(
                refused.contains(&format!("dealer/{name}` holds {} characters", text.len())),
                "{refused}"
            );
        }
        fs::write(state.join(name), &digits).unwrap();
    }
}

#[test]
fn an_empty_name_of_a_client_is_refused_by_its_path() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("client")).unwrap();
    fs::write(folder.path().join("client/id"), "").unwrap();
    let mut generate = marill();
    generate.args([
        "generate",
        &server.url,
        "--dealer",
        &dealer.url,
        "-p",
        "x",
        "--max-tokens",
        "1",
        "--state",
    ]);
    let refused = said(
        &generate
            .arg(folder.path())
            .arg("--cache")
            .arg(folder.path().join("cache"))
            .output()
            .unwrap(),
    );
    assert!(
        refused.contains("client/id` holds 0 characters"),
        "{refused}"
    );
}

#[test]
fn a_cut_key_that_a_server_is_given_is_refused_by_its_path() {
    let world = World::new();
    let (dealer, _server) = world.parties();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.key");
    fs::write(&cut, &"ab".repeat(32)[..63]).unwrap();
    let mut serve = marill();
    serve
        .args([
            "serve",
            "--port",
            "0",
            "--dealer",
            &dealer.url,
            "--dealer-key",
        ])
        .arg(&cut)
        .arg(&world.partition);
    let refused = said(
        &serve
            .arg("--state")
            .arg(folder.path().join("other"))
            .output()
            .unwrap(),
    );
    assert!(
        refused.contains("cut.key` holds 63 characters"),
        "{refused}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn processes_that_hold_secrets_dump_no_core() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let gateway = world.gateway(&server.url, &dealer.url);
    for service in [&dealer, &server, &gateway] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", service.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{line}");
    }
}

#[test]
fn an_owner_added_to_a_running_dealer_is_served() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let add = marill()
        .args(["dealer", "--add-owner", "second", "--state"])
        .arg(world.state())
        .output()
        .unwrap();
    assert!(add.status.success(), "{add:?}");
    let key = world.state().join("dealer/owners/second.key");
    assert!(String::from_utf8_lossy(&add.stderr).contains(&*key.to_string_lossy()));
    let second = world.server_with_key("second", &dealer.url, &key);
    for url in [&server.url, &second.url] {
        let mut generate = marill();
        generate.args([
            "generate",
            url,
            "--dealer",
            &dealer.url,
            "-p",
            "fox",
            "--max-tokens",
            "2",
        ]);
        let answer = world.client_folders(&mut generate).output().unwrap();
        assert!(
            answer.status.success(),
            "{}",
            String::from_utf8_lossy(&answer.stderr)
        );
    }
    for name in ["../x", "a b", ""] {
        let refused = marill()
            .args(["dealer", "--add-owner", name, "--state"])
            .arg(world.state())
            .output()
            .unwrap();
        assert!(!refused.status.success(), "{name}");
    }
}

#[test]
fn records_are_printed_beside_running_services() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let mut generate = marill();
    generate.args([
        "generate",
        &server.url,
        "--dealer",
        &dealer.url,
        "-p",
        "fox",
        "--max-tokens",
        "2",
    ]);
    let answer = world.client_folders(&mut generate).output().unwrap();
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let export = |folder: &std::path::Path, more: &[&str]| {
        let output = marill()
            .args(["state", "export", "--state"])
            .arg(folder)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = export(&world.state(), &[]);
    let session = text
        .lines()
        .find_map(|line| line.strip_prefix("server session e1 "))
        .unwrap();
    let session = session.split(' ').next().unwrap();
    assert!(
        text.contains(&format!("dealer session e1 {session} "))
            && text.contains("dealer session ticket "),
        "{text}"
    );
    assert!(!export(&world.state(), &["--service", "server"]).contains("dealer"));
    assert!(export(&world.user_state(), &[]).contains(&format!("client session e0 {session} ")));
    let nothing = marill()
        .args(["state", "export", "--state"])
        .arg(world.partition.clone())
        .output()
        .unwrap();
    assert!(said(&nothing).contains("no service has records"));
}

#[test]
fn keys_and_records_are_one_servers() {
    let world = World::new();
    let (dealer, _server) = world.parties();
    let second = |state: &str, keys: &std::path::Path| {
        let mut serve = marill();
        serve.args([
            "serve",
            "--port",
            "0",
            "--dealer",
            &dealer.url,
            "--dealer-key",
        ]);
        serve
            .arg(world.state().join("dealer/server.key"))
            .arg(&world.partition)
            .arg("--keys")
            .arg(keys);
        said(
            &serve
                .arg("--state")
                .arg(world.state().join(state))
                .output()
                .unwrap(),
        )
    };
    let keys = world.state().join("server/keys");
    fs::write(&keys, "").unwrap();
    let refused = second("another", &keys);
    assert!(refused.contains("keys` is in use"), "{refused}");
    let refused = second(".", &keys);
    assert!(refused.contains("records.redb` is in use"), "{refused}");
}
