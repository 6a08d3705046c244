//! Recipes of a tiny model: from nothing, and tuned to tell the classes of `rows.jsonl`.
//!
//! Macros, so that a test can have its recipe as a constant.

/// A recipe for a base model of three layers from nothing, which goes to `base` in `$place` (empty,
/// or ends with `/`). `$tables` come before `[output]`.
#[macro_export]
macro_rules! base_recipe {
    ($place:literal, $tables:literal) => {
        concat!(
            r#"
[model]
init = "random"
[model.architecture]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 3
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
max_position_embeddings = 64
[tokenizer]
vocab_size = 320
"#,
            $crate::rows_table!(),
            $tables,
            "[output]\ndir = \"",
            $place,
            "base\"\n"
        )
    };
}

/// A recipe that tunes the model of [`base_recipe`] into `tuned` in `$place`. `$tables` say what is
/// private of it and how it is trained.
#[macro_export]
macro_rules! tune_recipe {
    ($place:literal, $tables:literal) => {
        concat!(
            "\n[model]\nbase_model = \"",
            $place,
            "base/model\"\n",
            $crate::rows_table!(),
            $tables,
            "[optimizer]\nlearning_rate = 1e-2\n[output]\ndir = \"",
            $place,
            "tuned\"\n"
        )
    };
}

/// The data set of both recipes.
#[doc(hidden)]
#[macro_export]
macro_rules! rows_table {
    () => {
        "[[dataset]]\npath = \"rows.jsonl\"\nformat = \"classify\"\nlabels = [\"even\", \"odd\"]\n"
    };
}

/// A base model after two steps: enough to be tuned by a process.
pub const BASE: &str = base_recipe!(
    "",
    "[data]\ntrain_on_input = true\n[train]\nmax_steps = 2\n"
);
