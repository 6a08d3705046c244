//! What pages name and link is there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Backquoted words of a page that are paths of this repository: below one of its folders.
fn paths(page: &str) -> BTreeSet<String> {
    let folders = [
        "crates/",
        "mpc/",
        "serving/",
        "training/",
        "evals/",
        "recipes/",
        "docs/",
        "fuzz/",
        "benches/",
        ".ci/",
        ".github/",
    ];
    let is_path = |word: &&str| folders.iter().any(|folder| word.starts_with(folder));
    let no_example = |word: &&str| !word.contains(char::is_whitespace) && !word.contains("NAME");
    page.split('`')
        .skip(1)
        .step_by(2)
        .filter(is_path)
        .filter(no_example)
        .map(str::to_owned)
        .collect()
}

#[test]
fn pages_for_contributors_name_files_that_exist() {
    for page in ["CONTRIBUTING.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let named = paths(&text);
        assert!(!named.is_empty(), "{page} names no file");
        for path in named {
            assert!(
                root().join(&path).exists(),
                "{page} names `{path}`, which is not there"
            );
        }
    }
}

/// Relative targets of a page's links, without anchors.
fn links(page: &str) -> Vec<&str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .filter(|target| !target.contains(char::is_whitespace))
        .collect()
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let listed = Command::new("git")
        .args(["ls-files", "*.md"])
        .current_dir(root())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut checked = 0;
    for page in listed.lines() {
        let path = root().join(page);
        let text = std::fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let target = path.parent().unwrap().join(link);
            assert!(
                target.exists(),
                "{page} links to `{link}`, which is not there"
            );
            checked += 1;
        }
    }
    // The index alone links more than ten pages; fewer would mean that links are not found.
    assert!(checked > 20, "only {checked} links were found");
}

#[test]
fn the_page_of_recipe_keys_is_what_the_program_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(["recipes", "keys", "--markdown"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let page = String::from_utf8(output.stdout).unwrap();
    let path = root().join("docs/recipe.md");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let again = "`INSTA_UPDATE=always cargo test -p marill --test pages` writes it anew";
    assert!(written == page, "docs/recipe.md is out of date: {again}");
}

#[test]
fn one_key_of_a_recipe_is_explained_and_no_key_is_refused() {
    let keys = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marill"));
        command
            .args(["recipes", "keys"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let said = String::from_utf8(keys(&["lora.rank"]).stdout).unwrap();
    assert!(
        said.starts_with("lora.rank\n") && said.contains("; needed"),
        "{said}"
    );
    let list: serde_json::Value =
        serde_json::from_slice(&keys(&["train", "--json"]).stdout).unwrap();
    let epochs = list
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["key"] == "train.epochs");
    assert_eq!(epochs.unwrap()["default"], "1.0");
    let refused = keys(&["lora.rnk"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("a recipe has no key `lora.rnk`"), "{said}");
}
