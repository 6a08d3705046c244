//! Which crate may see which.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

use crate::root;

/// Direct dependencies on our own crates that are allowed, tests aside. An arrow that is not here
/// does not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("marill-numeric", &[]),
    ("marill-crypto", &["marill-numeric"]),
    ("marill-net", &["marill-numeric"]),
    ("marill-lattice", &["marill-crypto"]),
    (
        "marill-ot",
        &["marill-numeric", "marill-crypto", "marill-net"],
    ),
    (
        "marill-two-party",
        &["marill-numeric", "marill-crypto", "marill-net", "marill-ot"],
    ),
    (
        "marill-image-networks",
        &[
            "marill-numeric",
            "marill-crypto",
            "marill-net",
            "marill-ot",
            "marill-lattice",
            "marill-two-party",
        ],
    ),
    ("marill-recipe", &["marill-numeric"]),
    ("marill-report", &["marill-numeric"]),
    ("marill-hub", &["marill-numeric"]),
    ("marill-model", &["marill-numeric"]),
    (
        "marill-mpc",
        &[
            "marill-numeric",
            "marill-crypto",
            "marill-net",
            "marill-ot",
            "marill-lattice",
            "marill-two-party",
        ],
    ),
    ("marill-plan", &["marill-mpc"]),
    (
        "marill-partition",
        &["marill-numeric", "marill-model", "marill-mpc"],
    ),
    (
        "marill-training",
        &[
            "marill-numeric",
            "marill-model",
            "marill-recipe",
            "marill-report",
            "marill-partition",
        ],
    ),
    (
        "marill-serving",
        &[
            "marill-numeric",
            "marill-crypto",
            "marill-net",
            "marill-mpc",
            "marill-model",
            "marill-partition",
            "marill-plan",
        ],
    ),
];

/// These see everything.
const TOP: &[&str] = &[
    "marill",
    "marill-evals",
    "marill-fuzz",
    "marill-benches",
    TESTKIT,
];

/// What tests share; a development dependency of whoever wants it.
pub(crate) const TESTKIT: &str = "marill-testkit";

/// Tests themselves, and in no build that ships: they may use the test kit as what they are made
/// of.
const ONLY_TESTS: &[&str] = &["marill-fuzz"];

/// What must not be reached by any path: a crate and what stays out of it.
const WALLS: &[(&str, &[&str])] = &[
    ("marill-numeric", &["candle-core", "tokio", "tungstenite"]),
    (
        "marill-crypto",
        &["candle-core", "tokio", "tungstenite", "marill-net"],
    ),
    ("marill-net", &["candle-core", "tokio"]),
    (
        "marill-lattice",
        &["candle-core", "tokio", "marill-net", "marill-mpc"],
    ),
    ("marill-ot", &["candle-core", "tokio", "marill-mpc"]),
    ("marill-two-party", &["candle-core", "tokio", "marill-mpc"]),
    (
        "marill-image-networks",
        &["candle-core", "tokio", "marill-mpc"],
    ),
    ("marill-recipe", &["candle-core", "tokio"]),
    ("marill-report", &["candle-core", "tokio"]),
    (
        "marill-mpc",
        &[
            "candle-core",
            "tokio",
            "axum",
            "marill-model",
            "marill-partition",
        ],
    ),
    (
        "marill-plan",
        &["candle-core", "tokio", "marill-model", "marill-partition"],
    ),
    ("marill-hub", &["candle-core", "tokio"]),
    ("marill-model", &["tokio", "axum", "marill-mpc"]),
    ("marill-training", &["tokio", "axum", "marill-serving"]),
    ("marill-serving", &["marill-training", "marill-evals"]),
];

/// Packages of other platforms need not be on this machine.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap()
        .to_string()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            &host(),
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Package name to the names of its dependencies, development ones left out.
fn dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in nodes {
        let used = node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| {
                dependency["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| kind["kind"] != "dev")
            });
        let used = used.map(|dependency| names[dependency["pkg"].as_str().unwrap()].clone());
        found
            .entry(names[node["id"].as_str().unwrap()].clone())
            .or_default()
            .extend(used);
    }
    found
}

fn reached(from: &str, dependencies: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_string()];
    while let Some(name) = open.pop() {
        for next in dependencies.get(&name).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}

#[test]
fn arrows_between_crates_point_one_way() {
    let metadata = metadata();
    let dependencies = dependencies(&metadata);
    let ours: Vec<&String> = dependencies.keys().filter(|name| is_ours(name)).collect();
    for name in ours {
        if TOP.contains(&name.as_str()) {
            continue;
        }
        let allowed = ARROWS.iter().find(|(from, _)| from == name);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("`{name}` is missing in the list of arrows"));
        for used in dependencies[name].iter().filter(|used| is_ours(used)) {
            assert!(
                allowed.contains(&used.as_str()),
                "`{name}` must not depend on `{used}`"
            );
        }
    }
    for (name, kept_out) in WALLS {
        let reached = reached(name, &dependencies);
        assert!(
            !reached.is_empty() || *name == "marill-numeric",
            "`{name}` is no crate any more"
        );
        for wall in *kept_out {
            assert!(!reached.contains(*wall), "`{name}` reaches `{wall}`");
        }
    }
}

#[test]
fn the_test_kit_is_in_no_build_that_ships() {
    let dependencies = dependencies(&metadata());
    assert!(dependencies.contains_key(TESTKIT), "it has another name");
    for (name, used) in &dependencies {
        let allowed = ONLY_TESTS.contains(&name.as_str());
        assert!(
            allowed || !used.contains(TESTKIT),
            "`{name}` may have `{TESTKIT}` among its `[dev-dependencies]` only"
        );
        for tests in ONLY_TESTS {
            assert!(
                !used.contains(*tests),
                "`{name}` must not depend on `{tests}`"
            );
        }
    }
}

/// Correlations that both parties know hide nothing.
#[test]
fn ideal_correlations_are_in_no_build_that_ships() {
    let insecure = |name: &Value| name.as_str().unwrap_or_default().contains("insecure-ideal");
    let metadata = metadata();
    let mut declared = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for (feature, enables) in package["features"].as_object().unwrap() {
            declared += usize::from(feature == "insecure-ideal");
            let passed_on = enables.as_array().unwrap().iter().any(insecure);
            assert!(!passed_on, "`{feature}` of `{name}` enables it");
        }
        for used in package["dependencies"].as_array().unwrap() {
            let enabled = used["features"].as_array().unwrap().iter().any(insecure);
            assert!(
                !enabled || used["kind"] == "dev",
                "`{name}` may enable it among its `[dev-dependencies]` only"
            );
        }
    }
    assert_eq!(declared, 1, "the feature has another name");
}

fn is_ours(name: &str) -> bool {
    name == "marill" || name.starts_with("marill-")
}
