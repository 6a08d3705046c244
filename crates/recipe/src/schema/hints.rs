//! Hints for keys that are unknown here: what other tools call them, and near misses.

use crate::schema::{
    foreign::{self, VALUES, VALUES_NOT_OFFERED},
    keys::join,
};

/// Keys of other tools and ours in their place.
pub(super) const FOREIGN: &[(&str, &str)] = &[
    ("lora_r", "lora.rank"),
    ("r", "lora.rank"),
    ("lora_rank", "lora.rank"),
    ("lora_dropout", "lora.dropout"),
    ("lora_alpha", "lora.alpha"),
    ("use_rslora", "lora.rslora"),
    ("rank_pattern", "lora.ranks"),
    ("init_lora_weights", "lora.init"),
    ("lora_target_modules", "lora.target_modules"),
    ("lora_modules_to_train", "lora.target_modules"),
    ("sequence_len", "data.max_seq_len"),
    ("max_seq_length", "data.max_seq_len"),
    ("max_length", "data.max_seq_len"),
    ("max_seq_len", "data.max_seq_len"),
    ("val_set_size", "data.val_fraction"),
    ("train_on_inputs", "data.train_on_input"),
    ("base_model", "model.base_model"),
    ("model_name_or_path", "model.base_model"),
    ("datasets", "dataset"),
    ("type", "dataset.format"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("epochs", "train.epochs"),
    ("max_steps", "train.max_steps"),
    ("per_device_train_batch_size", "train.micro_batch_size"),
    ("micro_batch_size", "train.micro_batch_size"),
    ("batch_size", "train.micro_batch_size"),
    (
        "gradient_accumulation_steps",
        "train.gradient_accumulation_steps",
    ),
    ("gradient_clipping", "train.max_grad_norm"),
    ("max_grad_norm", "train.max_grad_norm"),
    ("save_steps", "train.checkpoint_steps"),
    ("eval_steps", "eval.every_steps"),
    ("learning_rate", "optimizer.learning_rate"),
    ("lr", "optimizer.learning_rate"),
    ("lr_scheduler_type", "optimizer.lr_scheduler"),
    ("lr_scheduler", "optimizer.lr_scheduler"),
    ("weight_decay", "optimizer.weight_decay"),
    ("warmup_ratio", "optimizer.warmup_ratio"),
    ("warmup_steps", "optimizer.warmup_steps"),
    ("min_lr_ratio", "optimizer.min_lr_ratio"),
    ("min_lr_rate", "optimizer.min_lr_ratio"),
    ("cosine_min_lr_ratio", "optimizer.min_lr_ratio"),
    ("early_stopping_patience", "train.early_stopping_patience"),
    ("early_stopping_threshold", "train.early_stopping_threshold"),
    ("load_best_model_at_end", "train.keep_best"),
    ("use_tensorboard", "output.tensorboard"),
    ("output_dir", "output.dir"),
    ("seed", "train.seed"),
    ("unfrozen_parameters", "freeze.layers"),
    ("freeze_layers", "freeze.layers"),
    ("quantize_last_steps", "train.quantize_last_steps"),
];

/// Keys of other tools that have no counterpart, and why.
const NOT_NEEDED: &[(&str, &str)] = &[
    (
        "sample_packing",
        "rows are always laid one after another without padding",
    ),
    (
        "packing",
        "rows are always laid one after another without padding",
    ),
    (
        "pad_to_sequence_len",
        "rows are always laid one after another without padding",
    ),
    (
        "alpha_pattern",
        "one `lora.alpha` serves every module, over its own rank",
    ),
    ("adapter", "write a `[lora]` table instead"),
    (
        "load_in_4bit",
        "weights are dequantized when a GGUF file is read",
    ),
    (
        "load_in_8bit",
        "weights are dequantized when a GGUF file is read",
    ),
    ("bf16", "training runs in 32-bit floats"),
    ("fp16", "training runs in 32-bit floats"),
];

/// What adapters of other tools train besides their factors, and why nothing does here.
const TRAINED_NORMS: &[&str] = &[
    "train_norms",
    "trainable_norms",
    "modules_to_save",
    "lora_modules_to_save",
];

pub(super) fn hint(path: &str, key: &str, names: &[&str]) -> Option<String> {
    // Other tools write some of their names in capitals, or with hyphens.
    let plain = key.to_lowercase().replace('-', "_");
    let key = plain.as_str();
    let mut renamed = FOREIGN.iter().chain(foreign::KEYS);
    if let Some((_, ours)) = renamed.find(|(k, ours)| *k == key && join(path, key) != *ours) {
        return Some(format!("here it is `{ours}`"));
    }
    let mut needless = NOT_NEEDED.iter().chain(foreign::NOT_NEEDED);
    if let Some((_, why)) = needless.find(|(k, _)| *k == key) {
        return Some(format!("not needed: {why}"));
    }
    if let Some((_, why)) = foreign::NOT_OFFERED.iter().find(|(k, _)| *k == key) {
        return Some(format!("not offered: {why}"));
    }
    if TRAINED_NORMS.contains(&key) {
        let why = "not offered: beside a LoRA update the matrices are public, so that a norm gain \
                   of its own would cost two rounds per norm, and within the update it is a part \
                   of `A`; without `[lora]`, gains are trained and stay private \
                   (`docs/full-fine-tunes.md`)";
        return Some(why.into());
    }
    closest(key, names)
}

/// What to write in place of a value of another tool, or why there is none.
pub(super) fn value_hint(path: &str, value: &str, words: &[&str]) -> Option<String> {
    let value = value.to_lowercase();
    let mut ours = VALUES.iter().filter(|(key, ..)| *key == path);
    if let Some((.., ours)) = ours.find(|(_, theirs, _)| *theirs == value) {
        return Some(format!("here it is `{ours}`"));
    }
    let mut none = VALUES_NOT_OFFERED.iter().filter(|(key, ..)| *key == path);
    if let Some((.., why)) = none.find(|(_, begin, _)| value.starts_with(begin)) {
        return Some(format!("not offered: {why}"));
    }
    closest(&value, words)
}

/// "did you mean", when one candidate is near enough.
pub(super) fn closest(word: &str, candidates: &[&str]) -> Option<String> {
    let best = candidates.iter().map(|c| (distance(word, c), c)).min()?;
    (best.0 <= 1 + word.len() / 4).then(|| format!("did you mean `{}`?", best.1))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
