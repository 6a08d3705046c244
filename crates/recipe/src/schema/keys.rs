//! The table of a recipe's keys and of what each takes.

use marill_numeric::{MODULES, approx::BOUNDS};

/// What a key takes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// The name of a file or folder.
    Path,
    OneOf(&'static [&'static str]),
    /// A whole number of at least so much.
    Whole(i64),
    /// A whole number in a closed interval.
    Within(i64, i64),
    /// A number in a closed interval.
    Number(f64, f64),
    /// A number of at least so much.
    AtLeast(f64),
    /// A number above zero.
    Positive,
    /// A number above zero, and at most so much.
    UpTo(f64),
    Flag,
    Texts,
    /// A list of whole numbers.
    Wholes,
    Paths,
    /// A list out of these.
    Some(&'static [&'static str]),
    Table(&'static [(&'static str, Kind)]),
    Tables(&'static [(&'static str, Kind)]),
}

impl Kind {
    /// What a list of it is called.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Wholes => "a list of whole numbers",
            _ => "a list of texts",
        }
    }
}

use Kind::{AtLeast, Flag, Number, OneOf, Path, Paths, Positive, Text, Texts, UpTo, Whole, Within};

/// What nobody needs and no memory holds: rows of a step, tokens of a row, ranks of a matrix.
const MANY: i64 = 1_000_000;

/// Steps that no run comes to.
const STEPS: i64 = 1_000_000_000;

const MODEL: &[(&str, Kind)] = &[
    ("base_model", Path),
    ("revision", Text),
    ("ignore", Texts),
    ("init", OneOf(&["pretrained", "random"])),
    (
        "architecture",
        Kind::Table(&[
            ("hidden_size", Whole(1)),
            ("intermediate_size", Whole(1)),
            ("num_hidden_layers", Whole(1)),
            ("num_attention_heads", Whole(1)),
            ("num_key_value_heads", Whole(1)),
            ("head_dim", Whole(2)),
            ("max_position_embeddings", Whole(1)),
            ("rope_theta", Positive),
        ]),
    ),
];

const DATASET: &[(&str, Kind)] = &[
    ("path", Path),
    ("target_path", Path),
    (
        "format",
        OneOf(&[
            "classify",
            "instruct",
            "chat",
            "translate",
            "text",
            "alpaca",
            "sharegpt",
        ]),
    ),
    ("style", OneOf(&["chat", "plain"])),
    ("system", Text),
    ("template", Text),
    ("completion", Text),
    ("label", Text),
    ("labels", Texts),
    ("label_codes", Texts),
    ("exclude", Paths),
    ("val_path", Path),
    ("val_target_path", Path),
    ("limit", Whole(1)),
    ("weight", UpTo(1e4)),
];

const TRAIN: &[(&str, Kind)] = &[
    ("epochs", UpTo(1e6)),
    ("max_steps", Within(1, STEPS)),
    ("max_tokens", Whole(1)),
    ("micro_batch_size", Within(1, MANY)),
    ("gradient_accumulation_steps", Within(1, MANY)),
    ("max_grad_norm", Positive),
    ("seed", Whole(0)),
    ("checkpoint_steps", Within(1, STEPS)),
    (
        "gradient_checkpointing",
        OneOf(&["auto", "always", "never"]),
    ),
    ("quantize_last_steps", Within(0, STEPS)),
    ("early_stopping_patience", Within(1, MANY)),
    ("early_stopping_threshold", Number(0.0, 1000.0)),
    ("keep_best", Flag),
];

const STAGE: &[(&str, Kind)] = &[
    ("share", Number(0.0, 1.0)),
    ("hidden", Number(0.0, 1e6)),
    ("outputs", Number(0.0, 1e6)),
    ("relations", Number(0.0, 1e6)),
    ("logits", Number(0.0, 1e6)),
    ("labels", Number(0.0, 1e6)),
];

const FINE_TUNE: &[(&str, Kind)] = &[("learning_rate", AtLeast(1e-12)), ("max_tokens", Whole(1))];

/// A rank by module, in the order of [`MODULES`].
const RANKS: &[(&str, Kind)] = &{
    let mut ranks = [("", Within(1, MANY)); MODULES.len()];
    let mut place = 0;
    while place < MODULES.len() {
        ranks[place].0 = MODULES[place];
        place += 1;
    }
    ranks
};

const OPTIMIZER: &[(&str, Kind)] = &[
    ("kind", OneOf(&["adamw"])),
    ("learning_rate", AtLeast(1e-12)),
    ("weight_decay", Number(0.0, 10.0)),
    ("beta1", Number(0.0, 0.999_999)),
    ("beta2", Number(0.0, 0.999_999)),
    ("lr_scheduler", OneOf(&["cosine", "linear", "constant"])),
    ("warmup_ratio", Number(0.0, 1.0)),
    ("warmup_steps", Within(0, STEPS)),
    ("min_lr_ratio", Number(0.0, 1.0)),
];

pub(super) const ROOT: &[(&str, Kind)] = &[
    ("model", Kind::Table(MODEL)),
    (
        "tokenizer",
        Kind::Table(&[("vocab_size", Within(300, MANY))]),
    ),
    ("dataset", Kind::Tables(DATASET)),
    (
        "data",
        Kind::Table(&[
            ("max_seq_len", Within(2, MANY)),
            ("val_fraction", Number(0.0, 0.9)),
            ("train_on_input", Flag),
            ("train_on", OneOf(&["all", "last"])),
        ]),
    ),
    (
        "freeze",
        Kind::Table(&[("layers", Within(0, MANY)), ("embedding", Flag)]),
    ),
    (
        "lora",
        Kind::Table(&[
            ("rank", Within(1, MANY)),
            ("alpha", UpTo(1e9)),
            ("rslora", Flag),
            ("init", OneOf(&["random", "data"])),
            ("init_rows", Within(1, MANY)),
            ("init_from", Path),
            ("dropout", Number(0.0, 0.95)),
            ("target_modules", Kind::Some(&MODULES)),
            ("ranks", Kind::Table(RANKS)),
        ]),
    ),
    (
        "heads",
        Kind::Table(&[
            ("merge", Within(1, MANY)),
            ("method", OneOf(&["merge", "prune"])),
            ("grouping", OneOf(&["strided", "adjacent", "measured"])),
            ("scale", Number(1e-6, 1e3)),
            ("allow_kv_collapse", Flag),
            ("fit_scales", Flag),
            ("keep", Within(0, MANY)),
            ("keep_layers", Kind::Wholes),
            ("progressive", Number(0.0, 0.9)),
            ("calibration_rows", Within(1, MANY)),
        ]),
    ),
    (
        "approx",
        Kind::Table(&[
            ("activation", OneOf(&["quad"])),
            ("softmax", OneOf(&["clipped", "2relu", "2quad"])),
            ("bound", Number(BOUNDS.0, BOUNDS.1)),
        ]),
    ),
    (
        "distill",
        Kind::Table(&[
            ("teacher", Path),
            ("revision", Text),
            ("fine_tune", Kind::Table(FINE_TUNE)),
            ("temperature", Number(1e-3, 1e3)),
            ("weight", Number(0.0, 1.0)),
            ("keep_logits", OneOf(&["all", "top-k", "sampled"])),
            ("kept_tokens", Within(1, 4096)),
            ("relation_heads", Within(1, 4096)),
            ("stages", Kind::Tables(STAGE)),
        ]),
    ),
    ("train", Kind::Table(TRAIN)),
    ("optimizer", Kind::Table(OPTIMIZER)),
    (
        "export",
        Kind::Table(&[
            ("frac_bits", Whole(8)),
            ("wire_bits", Whole(24)),
            ("rounding", OneOf(&["exact", "stochastic"])),
            ("reveal", OneOf(&["token", "logits"])),
        ]),
    ),
    (
        "eval",
        Kind::Table(&[
            ("tasks", Texts),
            ("path", Path),
            ("target_path", Path),
            ("every_steps", Within(1, STEPS)),
            ("min", Number(0.0, 1000.0)),
        ]),
    ),
    (
        "output",
        Kind::Table(&[("dir", Path), ("tensorboard", Flag)]),
    ),
];

/// Keys that a recipe cannot do without.
pub(super) const NEEDED: &[(&str, &[&str])] = &[
    ("model", &[]),
    (
        "model.architecture",
        &[
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ],
    ),
    (
        "model.architecture",
        &["num_key_value_heads", "head_dim", "max_position_embeddings"],
    ),
    ("tokenizer", &["vocab_size"]),
    ("dataset", &["path", "format"]),
    ("lora", &["rank"]),
    ("heads", &["merge"]),
    ("distill", &["teacher"]),
    ("distill.stages", &["share"]),
    ("output", &["dir"]),
];

/// A key by its table and name.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
