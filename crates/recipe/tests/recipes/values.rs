//! Values that make no sense are refused by their key.

use marill_recipe::Recipe;

use crate::{GOOD, problems};

/// An override, and what is said of its number.
const USELESS_NUMBERS: &[(&str, &str)] = &[
    (
        "lora.rank=9223372036854775807",
        "`lora.rank` must be at most 1000000",
    ),
    ("lora.rank=99999999999999999999", "`lora.rank` is too large"),
    (
        "lora.alpha=1e300",
        "`lora.alpha` must be above 0, and at most",
    ),
    (
        "train.epochs=1e18",
        "`train.epochs` must be above 0, and at most 1000000",
    ),
    ("train.epochs=nan", "`train.epochs` must be above 0"),
    (
        "train.max_steps=4611686018427387904",
        "`train.max_steps` must be at most",
    ),
    (
        "train.micro_batch_size=4611686018427387904",
        "`train.micro_batch_size` must be at most",
    ),
    (
        "train.gradient_accumulation_steps=4611686018427387904",
        "`train.gradient_accumulation_steps` must be",
    ),
    (
        "train.checkpoint_steps=4611686018427387904",
        "`train.checkpoint_steps` must be at most",
    ),
    (
        "train.quantize_last_steps=4611686018427387904",
        "`train.quantize_last_steps` must be at most",
    ),
    // The spelling of the version before.
    (
        "train.quantise_last_steps=4611686018427387904",
        "`train.quantize_last_steps` must be at most",
    ),
    (
        "data.max_seq_len=4611686018427387904",
        "`data.max_seq_len` must be at most",
    ),
    (
        "dataset.0.weight=1e6",
        "`dataset.weight` must be above 0, and at most 10000",
    ),
    (
        "freeze.layers=4611686018427387904",
        "`freeze.layers` must be at most",
    ),
    (
        "heads.merge=4611686018427387904",
        "`heads.merge` must be at most",
    ),
    (
        "tokenizer.vocab_size=4611686018427387904",
        "`tokenizer.vocab_size` must be at most",
    ),
    (
        "eval.every_steps=4611686018427387904",
        "`eval.every_steps` must be at most",
    ),
    (
        "heads.scale=1e-300",
        "`heads.scale` must be between 0.000001 and 1000",
    ),
    (
        "optimizer.learning_rate=1e-60",
        "`optimizer.learning_rate` must be at least 1e-12",
    ),
];

#[test]
fn numbers_that_no_run_can_use_are_refused_by_their_key() {
    let good = format!("{GOOD}[train]\nepochs = 1\n");
    for (set, said) in USELESS_NUMBERS {
        let all = problems(&good, &[set]);
        assert!(
            all[0].contains(said) && all[0].contains(&format!("--set {set}")),
            "{set}: {all:#?}"
        );
    }
    // The plan is bounded by its steps, not by its epochs.
    let list = ["train.epochs=1e6", "train.max_steps=40"].map(String::from);
    assert!(Recipe::parse(&good, "r.toml", &list).is_ok());
}

/// A change of the good recipe, and what is said of it: names and paths.
const SENSELESS_NAMES: &[(&str, &str, &str)] = &[
    ("dir = \"out\"", "dir = \"\"", "`output.dir` is empty"),
    ("dir = \"out\"", "dir = \"  \"", "`output.dir` is empty"),
    (
        "dir = \"out\"",
        "dir = \"/\"",
        "`output.dir` is the root folder",
    ),
    (
        "dir = \"out\"",
        "dir = \"//.\"",
        "`output.dir` is the root folder",
    ),
    (
        "dir = \"out\"",
        "dir = \"/tmp/..\"",
        "`output.dir` is the root folder",
    ),
    (
        "dir = \"out\"",
        "dir = \"a\\u0000b\"",
        "`output.dir` has a NUL",
    ),
    ("\"rows.jsonl\"", "\"\"", "`dataset.path` is empty"),
    ("\"base\"", "\"\"", "`model.base_model` is empty"),
    (
        "\"rows.jsonl\"",
        "\"rows.jsonl\"\nexclude = [\"a\", \"\"]",
        "`dataset.exclude` is empty",
    ),
    (
        "[\"no\", \"yes\"]",
        "[\"no\", \"no\"]",
        "`dataset.labels` has `no` twice",
    ),
    (
        "[\"no\", \"yes\"]",
        "[\"no\", \" No\"]",
        "`dataset.labels` has `No` twice",
    ),
    (
        "[\"no\", \"yes\"]",
        "[\"no\", \" \"]",
        "`dataset.labels` has an empty name",
    ),
    (
        "[\"no\", \"yes\"]",
        "[\"no\", \"y\\ns\"]",
        "`dataset.labels` has a line break",
    ),
    (
        "\"yes\"]",
        "\"yes\"]\nlabel_codes = [\"1\", \"1\"]",
        "`dataset.label_codes` has `1` twice",
    ),
    (
        "\"yes\"]",
        "\"yes\"]\nlabel_codes = [\"Yes\", \"n\"]",
        "`dataset.label_codes` has `Yes`, which is the name",
    ),
    (
        "\"yes\"]",
        "\"yes\"]\nlabel_codes = [\"1\"]",
        "`dataset.label_codes` has 1 codes for 2 labels",
    ),
];

/// The same for keys that do nothing where they stand.
const SENSELESS_KEYS: &[(&str, &str, &str)] = &[
    (
        "labels =",
        "completion = \"x\"\nlabels =",
        "`dataset.completion` does nothing in a data set of format `classify`",
    ),
    (
        "labels =",
        "target_path = \"x\"\nlabels =",
        "`dataset.target_path` does nothing",
    ),
    (
        "labels =",
        "style = \"plain\"\nsystem = \"x\"\nlabels =",
        "`dataset.system` does nothing",
    ),
    (
        "\"classify\"",
        "\"chat\"\nsystem = \"x\"",
        "`dataset.system` does nothing in a data set of format `chat`",
    ),
    (
        "\"classify\"",
        "\"chat\"\ntemplate = \"x\"",
        "`dataset.template` does nothing",
    ),
    (
        "\"classify\"",
        "\"chat\"\nstyle = \"plain\"",
        "`dataset.style` does nothing",
    ),
    (
        "\"classify\"",
        "\"instruct\"",
        "`dataset.labels` does nothing in a data set of format `instruct`",
    ),
    (
        "[freeze]",
        "[tokenizer]\nvocab_size = 300\n[freeze]",
        "`[tokenizer]` belong to `init = \"random\"`",
    ),
    (
        "rank = 4",
        "rank = 4\ntarget_modules = []",
        "`lora.target_modules` is empty",
    ),
    (
        "rank = 4",
        "rank = 4\ntarget_modules = [\"q_proj\", \"q_proj\"]",
        "`lora.target_modules` has `q_proj` twice",
    ),
    (
        "[freeze]",
        "[eval]\ntarget_path = \"x\"\n[freeze]",
        "`eval.target_path` is the other side of `eval.path`",
    ),
    (
        "[freeze]",
        "[data]\ntrain_on = \"first\"\n[freeze]",
        "`data.train_on` is one of `all`, `last`",
    ),
];

#[test]
fn values_without_sense_are_refused() {
    for (from, to, said) in SENSELESS_NAMES.iter().chain(SENSELESS_KEYS) {
        let all = problems(&GOOD.replace(from, to), &[]);
        assert!(all.iter().any(|p| p.contains(said)), "{said}: {all:#?}");
    }
}
