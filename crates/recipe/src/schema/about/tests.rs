//! Every key has a row, and every default is what stands for nothing.

use super::*;
use crate::Recipe;

#[test]
fn every_key_has_one_row_and_every_row_a_key() {
    let keys = keys();
    for key in &keys {
        assert!(!key.about.is_empty(), "`{}` is not explained", key.path);
        let ends = key.about.ends_with('.');
        assert!(ends, "`{}` is no sentence: {}", key.path, key.about);
    }
    for (n, (path, ..)) in ABOUT.iter().enumerate() {
        assert!(
            keys.iter().any(|key| key.path == *path),
            "`{path}` is no key"
        );
        let again = ABOUT[..n].iter().any(|(earlier, ..)| earlier == path);
        assert!(!again, "`{path}` is there twice");
    }
}

const LEAST: &str = "[model]\nbase_model = \"base\"\n[[dataset]]\npath = \"rows.jsonl\"\n\
                     format = \"chat\"\n[lora]\nrank = 4\n[heads]\nmerge = 3\n[distill]\n\
                     teacher = \"base\"\nstages = [{ share = 1.0, labels = 1.0 }]\n[eval]\n\
                     [output]\ndir = \"out\"\n";

#[test]
fn a_default_that_is_written_changes_nothing() {
    let without = Recipe::parse(LEAST, "recipe.toml", &[]).unwrap();
    let mut tried = 0;
    for key in keys() {
        let value = key
            .default
            .strip_prefix('`')
            .and_then(|v| v.strip_suffix('`'));
        // Of a new model, of formats with labels, in a list of tables, or of a formula.
        let apart = ["model.architecture", "dataset", "distill.stages", "export"];
        let Some(value) = value.filter(|_| !apart.contains(&key.table())) else {
            continue;
        };
        if key.path == "heads.scale" {
            continue;
        }
        let set = format!("{}={value}", key.path);
        let with = Recipe::parse(LEAST, "recipe.toml", std::slice::from_ref(&set));
        assert_eq!(
            with.unwrap_or_else(|e| panic!("{set}: {e}")),
            without,
            "{set}"
        );
        tried += 1;
    }
    assert!(tried > 30, "only {tried} defaults were read back");
}

#[test]
fn needed_keys_are_those_that_a_recipe_lacks() {
    let needed = |path: &str| keys().iter().any(|key| key.path == path && key.needed);
    for path in [
        "model",
        "dataset.path",
        "lora.rank",
        "output.dir",
        "heads.merge",
    ] {
        assert!(needed(path), "{path}");
    }
    for path in [
        "lora",
        "model.base_model",
        "train.epochs",
        "eval",
        "lora.alpha",
    ] {
        assert!(!needed(path), "{path}");
    }
}
