//! What every key of a recipe means, and what stands for one that is left out.

use super::keys::{Kind, NEEDED, ROOT, join};

/// A key or table of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// `train.epochs`.
    pub path: String,
    /// `a number above 0, at most 1000000`.
    pub takes: String,
    /// The value in TOML that means the same as nothing; a sentence where that depends on other
    /// keys; empty where nothing stands for it.
    pub default: &'static str,
    /// Whether its table cannot do without it.
    pub needed: bool,
    pub about: &'static str,
}

impl Key {
    /// Whether it is a table of keys.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.takes.starts_with("a table") || self.takes.starts_with("tables")
    }

    /// The table that it is in; empty for the tables of the root.
    #[must_use]
    pub fn table(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// All keys, tables before their keys, in the order of the page.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut out = Vec::new();
    below("", ROOT, &mut out);
    out
}

fn below(path: &str, table: &[(&'static str, Kind)], out: &mut Vec<Key>) {
    for (name, kind) in table {
        let path_of_key = join(path, name);
        // Ranks of single modules are alike.
        if path == "lora.ranks" {
            continue;
        }
        let row = ABOUT.iter().find(|(key, ..)| *key == path_of_key);
        let (default, about) = row.map_or(("", ""), |(_, default, about)| (*default, *about));
        let is_needed = |(table, keys): &(&str, &[&str])| *table == path && keys.contains(name);
        let needed = match path {
            "" => ["model", "dataset", "output"].contains(name),
            _ => NEEDED.iter().any(is_needed),
        };
        out.push(Key {
            path: path_of_key.clone(),
            takes: takes(*kind),
            default,
            needed,
            about,
        });
        if let Kind::Table(keys) | Kind::Tables(keys) = kind {
            below(&path_of_key, keys, out);
        }
    }
}

fn takes(kind: Kind) -> String {
    let words = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
        quoted.join(", ")
    };
    match kind {
        Kind::Text => "a text".into(),
        Kind::Path => "a path".into(),
        Kind::OneOf(names) => words(names),
        Kind::Whole(least) => format!("a whole number from {least}"),
        Kind::Within(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Number(least, most) => format!("a number from {least} to {most}"),
        Kind::AtLeast(least) => format!("a number from {least:e}"),
        Kind::Positive => "a number above 0".into(),
        Kind::UpTo(most) => format!("a number above 0, at most {most}"),
        Kind::Flag => "`true`, `false`".into(),
        Kind::Texts => "a list of texts".into(),
        Kind::Wholes => "a list of whole numbers".into(),
        Kind::Paths => "a list of paths".into(),
        Kind::Some(names) => format!("a list out of {}", words(names)),
        Kind::Table(_) => "a table".into(),
        Kind::Tables(_) => "tables, one or more".into(),
    }
}

/// A row for each key: path, default, meaning. Defaults in backquotes are TOML, and a test reads
/// each back as the same recipe.
const ABOUT: &[(&str, &str, &str)] = &[
    ("model", "", "The base weights."),
    (
        "model.base_model",
        "",
        "A checkpoint folder, a GGUF file, or a name on the hub: `org/name`, `org/name/file.gguf`. \
         Needed by `init = \"pretrained\"`.",
    ),
    (
        "model.revision",
        "the branch `main`",
        "Commit, branch or tag on the hub.",
    ),
    (
        "model.ignore",
        "`[]`",
        "Keys of the checkpoint's files, names of tensors and tokens that may be left out though \
         they are not used.",
    ),
    (
        "model.init",
        "`\"pretrained\"`",
        "Where the weights come from: a checkpoint, or a new model with random weights.",
    ),
    (
        "model.architecture",
        "",
        "The shape of a new model; needed by `init = \"random\"`. Names are those of \
         transformers' `LlamaConfig`.",
    ),
    (
        "model.architecture.hidden_size",
        "",
        "Width of the residual stream.",
    ),
    (
        "model.architecture.intermediate_size",
        "",
        "Width of the MLP.",
    ),
    ("model.architecture.num_hidden_layers", "", "Layers."),
    (
        "model.architecture.num_attention_heads",
        "",
        "Heads of queries.",
    ),
    (
        "model.architecture.num_key_value_heads",
        "",
        "Heads of keys and values.",
    ),
    ("model.architecture.head_dim", "", "Numbers in a head."),
    (
        "model.architecture.max_position_embeddings",
        "",
        "Positions of a text.",
    ),
    (
        "model.architecture.rope_theta",
        "`10000.0`",
        "Base of the rotation's angles.",
    ),
    (
        "tokenizer",
        "",
        "A byte-level BPE that is learned from the data sets; needed by `init = \"random\"`.",
    ),
    ("tokenizer.vocab_size", "", "Tokens that it has."),
    ("dataset", "", "Rows to learn from."),
    (
        "dataset.path",
        "",
        "A file: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.txt`, also with `.gz`. Looked \
         for here, beside the recipe, under `$MARILL_SHARED` and under `../shared`.",
    ),
    (
        "dataset.target_path",
        "",
        "The other side of a translation: line n belongs to line n.",
    ),
    (
        "dataset.format",
        "",
        "What a row is: a text and its label; instruction, input and output; messages; source and \
         target; running text.",
    ),
    (
        "dataset.style",
        "`\"chat\"`",
        "A prompt through the checkpoint's chat template, or as it stands.",
    ),
    ("dataset.system", "", "Instructions in front of every row."),
    (
        "dataset.template",
        "",
        "The prompt, with `{column}` for values of the row; columns of a file without header are \
         `{0}`, `{1}`.",
    ),
    ("dataset.completion", "", "The answer, likewise."),
    (
        "dataset.label",
        "",
        "The column with the label (`classify`).",
    ),
    (
        "dataset.labels",
        "`[]`",
        "Names of the labels, in the order of their numbers; a file may hold either.",
    ),
    (
        "dataset.label_codes",
        "`[]`",
        "How the file writes the labels, in the same order, where it is neither name nor number.",
    ),
    (
        "dataset.exclude",
        "`[]`",
        "Files of the same format: rows whose prompt also stands in one of them are left out.",
    ),
    (
        "dataset.limit",
        "all rows",
        "Takes so many rows, drawn with the training seed.",
    ),
    (
        "dataset.weight",
        "`1.0`",
        "Times that the rows occur in an epoch; a fraction draws a part.",
    ),
    ("data", "", "How rows become training sequences."),
    (
        "data.max_seq_len",
        "`256`",
        "Tokens of a sequence; a longer row loses the front of its prompt.",
    ),
    (
        "data.val_fraction",
        "`0.0`",
        "Rows held out to measure the loss.",
    ),
    (
        "data.train_on_input",
        "`false`",
        "Also learn to write the prompt.",
    ),
    (
        "data.train_on",
        "`\"all\"`",
        "Which turns of the assistant are learned in a conversation.",
    ),
    ("freeze", "", "What stays public."),
    (
        "freeze.layers",
        "`0`",
        "The embedding and so many first layers stay public and run on the client.",
    ),
    (
        "freeze.embedding",
        "`false`",
        "Without `[lora]` and frozen layers: embedding, final norm and head stay as they are all \
         the same, so that the run can be exported.",
    ),
    (
        "lora",
        "all private weights are trained",
        "Private low-rank updates on public weights.",
    ),
    ("lora.rank", "", "Rank of an update."),
    (
        "lora.alpha",
        "`16.0`",
        "An update is scaled by `alpha / rank`.",
    ),
    (
        "lora.rslora",
        "`false`",
        "Scale by `alpha / sqrt(rank)` instead.",
    ),
    (
        "lora.init",
        "`\"random\"`",
        "What `A` begins with: random numbers, or leading directions of the layer's inputs.",
    ),
    (
        "lora.init_rows",
        "`64`",
        "Training rows whose inputs decide the factors (`init = \"data\"`).",
    ),
    (
        "lora.dropout",
        "`0.0`",
        "Share of a factor's inputs that training leaves out.",
    ),
    (
        "lora.target_modules",
        "all seven",
        "Maps that get an update.",
    ),
    (
        "lora.ranks",
        "",
        "Ranks of single modules in place of `rank`: `{ q_proj = 4, down_proj = 32 }`.",
    ),
    (
        "heads",
        "a softmax for every head",
        "Fewer softmaxes in the private layers.",
    ),
    (
        "heads.merge",
        "",
        "So many heads share one, or are pruned to one.",
    ),
    (
        "heads.method",
        "`\"merge\"`",
        "Share it, or keep one head of each group.",
    ),
    (
        "heads.grouping",
        "`\"strided\"`",
        "Heads of different key-value heads, neighbors, or in each layer what changes its output \
         least.",
    ),
    (
        "heads.scale",
        "`1 / sqrt(merge * head_dim)`",
        "Factor of the summed scores.",
    ),
    (
        "heads.allow_kv_collapse",
        "`false`",
        "Allow groups within one key-value head, whose values are then averaged.",
    ),
    (
        "heads.fit_scales",
        "`false`",
        "A factor for each head's scores, measured on training rows.",
    ),
    (
        "heads.keep",
        "`0`",
        "So many private layers stay whole: those that would change most.",
    ),
    (
        "heads.keep_layers",
        "`[]`",
        "Layers that stay whole, counted over the whole model.",
    ),
    (
        "heads.progressive",
        "`0.0`",
        "In this first share of the steps each head's scores move from its own to its group's.",
    ),
    (
        "heads.calibration_rows",
        "`64`",
        "Training rows on which groups, scales and layers are measured, at most.",
    ),
    (
        "approx",
        "exact functions",
        "Cheaper functions in the private layers, trained and served alike.",
    ),
    ("approx.activation", "SiLU", "`x²/8 + x/2 + 1/16`."),
    (
        "approx.softmax",
        "exp of the distance to the maximum",
        "Weights that need no maximum.",
    ),
    (
        "approx.bound",
        "6, with `clipped`",
        "Scores above it weigh the same (`clipped`).",
    ),
    (
        "distill",
        "no teacher",
        "Learn from a teacher's logits too.",
    ),
    (
        "distill.teacher",
        "",
        "`base`, `fine-tune` (the base, all of it trained on the same rows first), or a checkpoint \
         with the same tokenizer.",
    ),
    (
        "distill.revision",
        "the branch `main`",
        "Commit, branch or tag of a teacher on the hub.",
    ),
    (
        "distill.fine_tune",
        "",
        "How a teacher `fine-tune` is trained.",
    ),
    (
        "distill.fine_tune.learning_rate",
        "3e-4",
        "Its learning rate.",
    ),
    (
        "distill.fine_tune.max_tokens",
        "as many as the run itself",
        "Tokens that it is trained on.",
    ),
    (
        "distill.temperature",
        "`1.0`",
        "Divides the logits of both.",
    ),
    (
        "distill.weight",
        "0.5, where there are no stages",
        "Part of the loss that follows the teacher's logits; the rest follows the labels.",
    ),
    (
        "distill.keep_logits",
        "`\"all\"`",
        "What of a teacher's answer is kept: everything, the likeliest tokens, or tokens drawn \
         from it.",
    ),
    (
        "distill.kept_tokens",
        "64, unless all are kept",
        "Tokens kept of each answer, or drawn.",
    ),
    (
        "distill.relation_heads",
        "as many as the base has heads of keys",
        "Parts that queries, keys and values are cut into for `relations`.",
    ),
    (
        "distill.stages",
        "one, of `weight`",
        "Parts of the run with losses of their own, one after another. The loss is the sum of the \
         parts below with these weights.",
    ),
    (
        "distill.stages.share",
        "",
        "Part of the run's steps; together the shares are 1.",
    ),
    (
        "distill.stages.hidden",
        "`0.0`",
        "Distance of the private layers' outputs from the teacher's, relative to their size.",
    ),
    (
        "distill.stages.outputs",
        "`0.0`",
        "The same with every layer alone, on the teacher's own input of it.",
    ),
    (
        "distill.stages.relations",
        "`0.0`",
        "How the last layer's queries, keys and values relate among themselves (MiniLMv2).",
    ),
    (
        "distill.stages.logits",
        "`0.0`",
        "`temperature² KL(teacher || student)` at the labels.",
    ),
    (
        "distill.stages.labels",
        "`0.0`",
        "Cross-entropy with the labels.",
    ),
    ("train", "", "The run."),
    (
        "train.epochs",
        "`1.0`",
        "Times that it goes through the rows.",
    ),
    (
        "train.max_steps",
        "as the epochs say",
        "Stop after so many steps.",
    ),
    (
        "train.max_tokens",
        "as the epochs say",
        "Stop after so many tokens, prompts included.",
    ),
    (
        "train.micro_batch_size",
        "`8`",
        "Sequences that are computed at once.",
    ),
    (
        "train.gradient_accumulation_steps",
        "`1`",
        "Micro-batches of a step.",
    ),
    (
        "train.max_grad_norm",
        "`1.0`",
        "Longer gradients are scaled down to it.",
    ),
    ("train.seed", "`0`", "Decides order, factors and dropout."),
    (
        "train.checkpoint_steps",
        "`100`",
        "Steps from checkpoint to checkpoint.",
    ),
    (
        "train.gradient_checkpointing",
        "`\"auto\"`",
        "Keep one layer's graph at a time and compute its inside twice: the same result in less \
         memory.",
    ),
    (
        "train.quantize_last_steps",
        "`0`",
        "In so many steps at the end the private layers compute with the secure program's \
         roundings.",
    ),
    ("optimizer", "", "AdamW and its schedule."),
    ("optimizer.kind", "`\"adamw\"`", "The optimizer."),
    (
        "optimizer.learning_rate",
        "`2e-4`",
        "The highest rate of the schedule.",
    ),
    ("optimizer.weight_decay", "`0.0`", "Decoupled weight decay."),
    ("optimizer.beta1", "`0.9`", "Decay of the first moment."),
    ("optimizer.beta2", "`0.999`", "Decay of the second moment."),
    (
        "optimizer.lr_scheduler",
        "`\"cosine\"`",
        "How the rate comes down after the warm-up.",
    ),
    (
        "optimizer.warmup_ratio",
        "`0.03`",
        "Share of the steps in which the rate rises.",
    ),
    (
        "export",
        "the numeric format's defaults",
        "The numbers of the secure program.",
    ),
    (
        "export.frac_bits",
        "14",
        "Fractional bits of activations; no other number is offered.",
    ),
    (
        "export.wire_bits",
        "one for each wire",
        "Refused: the numeric format fixes the widths.",
    ),
    (
        "export.rounding",
        "`exact`",
        "How truncations round: half up, or up with a probability equal to the fraction dropped.",
    ),
    (
        "export.reveal",
        "`token`",
        "What a session reveals; no other is offered.",
    ),
    (
        "eval",
        "",
        "What `marill eval` runs on the export when no task is named.",
    ),
    ("eval.tasks", "`[]`", "Tasks by name."),
    (
        "eval.path",
        "",
        "Test rows in the format of the first data set.",
    ),
    (
        "eval.target_path",
        "",
        "The other side of a translation's test rows.",
    ),
    (
        "eval.every_steps",
        "at the end only",
        "Steps from one measurement of the validation loss to the next.",
    ),
    ("eval.min", "", "A score below it is a failure."),
    ("output", "", "Where the run goes."),
    ("output.dir", "", "A folder of its own."),
];

#[cfg(test)]
mod tests {
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
}
