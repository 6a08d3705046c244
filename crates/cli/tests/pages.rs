//! What the pages for contributors name is there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
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
