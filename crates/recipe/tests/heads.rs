//! What `[heads]` may say.

use marill_recipe::{Grouping, Heads, Method, Recipe, RecipeError};

const START: &str = r#"
[model]
base_model = "base"

[[dataset]]
path = "rows.jsonl"
format = "classify"
labels = ["no", "yes"]

[freeze]
layers = 2

[lora]
rank = 4

[heads]
"#;

const END: &str = r#"
[output]
dir = "out"
"#;

fn problems(text: &str) -> Vec<String> {
    match Recipe::parse(text, "r.toml", &[]) {
        Err(RecipeError::Problems(all)) => all.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

/// Keys of `[heads]`, and what is said of them.
const SENSELESS_HEADS: &[(&str, &str)] = &[
    (
        "merge = 3\nmethod = \"prune\"",
        "write `grouping = \"measured\"`",
    ),
    (
        "merge = 3\nmethod = \"prune\"\ngrouping = \"measured\"\nprogressive = 0.5",
        "`heads.progressive` is about groups",
    ),
    (
        "merge = 3\nfit_scales = true\nscale = 0.1",
        "`heads.scale` says what `heads.fit_scales` measures",
    ),
    (
        "merge = 3\nkeep = 1\nkeep_layers = [3]",
        "`heads.keep_layers` names them",
    ),
    (
        "merge = 3\nkeep_layers = [3, 3]",
        "`heads.keep_layers` has 3 twice",
    ),
    ("merge = 3\nkeep_layers = 3", "a list of whole numbers"),
    ("merge = 3\nkeep_layers = [-1]", "must be at least 0"),
    (
        "merge = 1\nfit_scales = true",
        "`heads.merge = 1` changes no head",
    ),
    (
        "merge = 3\ncalibration_rows = 8",
        "`heads.calibration_rows` is about what is measured",
    ),
    (
        "merge = 3\nfit_scales = true\n[approx]\nsoftmax = \"2relu\"",
        "`[heads]` measures with the exact softmax",
    ),
    (
        "merge = 3\nmethod = \"prune\"\ngrouping = \"measured\"\n[train]\nquantize_last_steps = 2",
        "`train.quantize_last_steps` rounds as a program with all heads",
    ),
    ("merge = 3\nprogressive = 1.5", "must be between 0 and 0.9"),
    (
        "merge = 3\ngrouping = \"best\"",
        "`heads.grouping` is one of `strided`, `adjacent`, `measured`",
    ),
];

#[test]
fn heads_without_sense_are_refused() {
    for (table, said) in SENSELESS_HEADS {
        let all = problems(&format!("{START}{table}\n{END}"));
        assert!(all.iter().any(|p| p.contains(said)), "{said}: {all:#?}");
    }
}

#[test]
fn keys_of_heads_are_read_and_left_out_where_they_are_usual() {
    let heads = |table: &str| -> Heads {
        let text = format!("{START}{table}\n{END}");
        let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
        let written = Recipe::parse(&recipe.to_toml(), "r.toml", &[]).unwrap();
        assert_eq!(written, recipe);
        recipe.heads.unwrap()
    };
    let all = heads(
        "merge = 3\ngrouping = \"measured\"\nfit_scales = true\nkeep = 2\nprogressive = 0.4\n\
         calibration_rows = 32",
    );
    assert!(all.grouping == Grouping::Measured && all.is_measured());
    assert_eq!(
        (all.keep, all.progressive, all.calibration_rows),
        (2, 0.4, 32)
    );
    let prune = heads("merge = 3\nmethod = \"prune\"\ngrouping = \"measured\"");
    assert_eq!(prune.method, Method::Prune);
    // A checkpoint's digest is of this text: keys that are usual must not enter it.
    let text = Recipe::parse(&format!("{START}merge = 3\n{END}"), "r.toml", &[]).unwrap();
    let text = text.to_toml();
    let table = text
        .split("[heads]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let keys: Vec<&str> = table.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        keys,
        [
            "merge = 3",
            "grouping = \"strided\"",
            "allow_kv_collapse = false"
        ]
    );
}
