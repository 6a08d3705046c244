//! `marill bench`: the twin's values, the tally's traffic.

use crate::{json, marill, stderr, with_partition};

/// Every operation alone: the twin's values, the tally's traffic.
#[test]
fn bench_of_single_operations_finds_the_twins_values() {
    let dir = tempfile::tempdir().unwrap();
    let output = marill(dir.path(), &["bench", "ops", "--n", "16", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // One line for each of the fourteen operations.
    assert!(lines.len() >= 14);
    for line in lines {
        assert_eq!(
            (&line["twin_equal"], &line["tally_equal"]),
            (&true.into(), &true.into()),
            "{line}"
        );
    }
}

#[test]
fn bench_of_protocols_is_exact_and_dumps_what_it_saw() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "bench",
        "protocols",
        "--n",
        "100",
        "--json",
        "--dump",
        "csv",
    ];
    let output = marill(dir.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    assert!(lines.len() > 10);
    for line in &lines {
        assert_eq!(line["mismatches"], 0, "{line}");
        let bytes = |key: &str| line[format!("{key}bytes_per_instance")].as_f64().unwrap();
        let parts = bytes("online_") + bytes("offline_") + bytes("extension_");
        assert!((bytes("") - parts).abs() < 1e-9 && parts > 0.0, "{line}");
    }
    let dumped = std::fs::read_to_string(dir.path().join("csv/relu_32.csv")).unwrap();
    let mut rows = dumped.lines();
    assert_eq!(rows.next(), Some("x,output"));
    for row in rows.by_ref() {
        let (x, output) = row.split_once(',').unwrap();
        let x: u64 = x.parse().unwrap();
        let relu = if x >> 31 == 1 { 0 } else { x };
        assert_eq!(output.parse(), Ok(relu));
    }
    assert_eq!(dumped.lines().count(), 101);
}

#[test]
fn bench_of_protocols_takes_shapes_of_products() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["matmul", "5x700x3", "conv", "7x7x3-4@20/2"];
    let args = [&["bench", "protocols"], &names[..], &["--json"]].concat();
    let output = marill(dir.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    for (line, name) in lines.iter().zip(names.chunks(2)) {
        let named = [&line["protocol"], &line["shape"]];
        assert_eq!(named, [name[0], name[1]]);
        assert_eq!((&line["mismatches"], &line["n"]), (&0.into(), &1.into()));
    }
    assert_eq!(lines.len(), 2);
    let output = marill(dir.path(), &["bench", "protocols", "conv", "7x7"]);
    assert_eq!(output.status.code(), Some(1));
    let message = "`7x7` is no shape of `conv`";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
}

#[test]
fn bench_of_protocols_names_the_set_of_silent_transfers() {
    let dir = tempfile::tempdir().unwrap();
    let relu = ["bench", "protocols", "relu", "--n", "2000", "--json"];
    let silent = ["--source", "silent", "--lpn-set", "b10"];
    let output = marill(dir.path(), &[&relu[..], &silent[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(
            (&line["source"], &line["lpn_set"]),
            (&"silent".into(), &"b10".into())
        );
        assert_eq!(line["mismatches"], 0, "{line}");
        // SoftSpoken's 31 bits a transfer are in the set-up, of both directions, not in the rows.
        let extension = line["extension_bytes_per_instance"].as_f64().unwrap();
        assert!(extension > 0.0 && extension < 0.1 * line["bits"].as_f64().unwrap() * 8.0);
        assert!(line["setup_bytes"].as_u64().unwrap() > 500_000, "{line}");
    }
}

#[test]
fn flags_of_another_source_of_transfers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, message) in [
        (
            ["--source", "silent", "--tree-bits", "8"],
            "`--tree-bits` belongs to",
        ),
        (
            ["--source", "softspoken", "--lpn-set", "b13"],
            "belongs to `--source silent`",
        ),
    ] {
        let output = marill(
            dir.path(),
            &[&["bench", "protocols", "cot"], &flags[..]].concat(),
        );
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

#[test]
fn a_protocol_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = marill(dir.path(), &["bench", "protocols", "expp"]);
    assert_eq!(output.status.code(), Some(1));
    for message in ["no protocol is called `expp`", "matmul, conv"] {
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

#[test]
fn bench_finds_the_twins_tokens_and_the_tallys_traffic() {
    let dir = with_partition();
    let output = marill(
        dir.path(),
        &[
            "bench",
            "out",
            "--prompt-tokens",
            "20",
            "--tokens",
            "4",
            "--json",
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let found = json(&output);
    assert_eq!(
        (
            &found["twin_equal"],
            &found["tally_equal"],
            &found["bucket"]
        ),
        (&true.into(), &true.into(), &32.into())
    );
}

#[test]
fn bench_with_processes_finds_the_same_in_both_settings() {
    let dir = with_partition();
    let found = |more: &[&str]| {
        let args = [
            "bench",
            "--arch",
            "out",
            "--context",
            "20",
            "--tokens",
            "2",
            "--json",
        ];
        let output = marill(dir.path(), &[&args, more].concat());
        assert!(output.status.success(), "{more:?}: {}", stderr(&output));
        json(&output)
    };
    let alone = found(&[]);
    for more in [
        ["--setting", "dealer", "--comparison", "one-hot"],
        ["--setting", "dealer", "--comparison", "dcf"],
        ["--setting", "3pc", "--comparison", "dcf"],
        ["--setting", "3pc", "--comparison", "one-hot"],
    ] {
        let apart = found(&[&["--processes"], more.as_slice()].concat());
        assert_eq!(
            (&apart["twin_equal"], &apart["tally_equal"]),
            (&true.into(), &true.into())
        );
        assert_eq!(apart["setting"], more[1]);
        if more[3] == "one-hot" {
            assert_eq!(apart["online_bytes"], alone["online_bytes"]);
        }
    }
}

#[test]
fn a_party_of_a_bench_needs_its_task() {
    let dir = tempfile::tempdir().unwrap();
    let output = marill(dir.path(), &["bench", "party"]);
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("is for `marill bench`"), "{said}");
}

/// Values with units for a person, and the keys under `--json` alone.
#[test]
fn bench_of_an_architecture_is_a_table_with_units() {
    let dir = with_partition();
    let args = ["bench", "--arch", "out", "--context", "20", "--tokens", "1"];
    for (setting, columns) in [("dealer", "dealer to E1 |"), ("2pc", "| phase ")] {
        let output = marill(dir.path(), &[&args[..], &["--setting", setting]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in [
            columns,
            "per token",
            "KiB",
            " ms |",
            "the twin's: equal",
            "tally: equal",
        ] {
            assert!(text.contains(part), "{setting}: no `{part}` in\n{text}");
        }
        assert!(
            !text.contains('_') && !text.contains('{') && !text.contains("| - "),
            "keys or nothing in\n{text}"
        );
    }
}
