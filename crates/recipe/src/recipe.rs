//! Every table and key of a recipe with its default, and how a recipe is read and overridden.

use std::collections::BTreeMap;

use marill_numeric::{Approximations, MODULES};
use serde::{Deserialize, Serialize};

mod distill;
mod heads;

pub use crate::recipe::{
    distill::{Distill, FINE_TUNED, FineTune, KeepLogits, Stage},
    heads::{Grouping, Heads, Method},
};

/// A whole recipe; every knob that is not written has the default given here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub model: Model,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSpec>,
    pub dataset: Vec<Dataset>,
    #[serde(default)]
    pub data: Data,
    #[serde(default)]
    pub freeze: Freeze,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    #[serde(default, skip_serializing_if = "Approximations::is_none")]
    pub approx: Approximations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    #[serde(default)]
    pub train: Train,
    #[serde(default)]
    pub optimizer: Optimizer,
    #[serde(default)]
    pub export: Export,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Eval>,
    pub output: Output,
}

/// `[model]`: where the base weights come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A checkpoint folder, a GGUF file, or a name on the hub: `org/name`, `org/name/file.gguf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Commit, branch or tag on the hub; in a resolved recipe the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Keys of the checkpoint's files, names of tensors and tokens that may be left out though they
    /// are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    #[serde(default)]
    pub init: Init,
    /// Needed by `init = "random"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    #[default]
    Pretrained,
    Random,
}

/// `[model.architecture]`, with Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
}

fn rope_theta() -> f64 {
    10_000.0
}

/// `[tokenizer]`: a byte-level BPE learned from the data sets, for `init = "random"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    pub vocab_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A text and one of a few labels.
    Classify,
    /// `instruction`, `input`, `output`: Alpaca's columns.
    #[serde(alias = "alpaca")]
    Instruct,
    /// `messages`, each with `role` and `content`, or ShareGPT's `conversations`, each with `from`
    /// and `value`.
    #[serde(alias = "sharegpt")]
    Chat,
    /// `source` and `target`, or two aligned files.
    Translate,
    /// Running text without a prompt.
    Text,
}

/// How a prompt is written: through the checkpoint's chat template, or as it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    #[default]
    Chat,
    Plain,
}

/// One `[[dataset]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.txt`, also with `.gz` or `.zst`; a folder
    /// of such files, or a pattern (`data/*.jsonl`, `data/**/*.jsonl`).
    pub path: String,
    /// The other side of a translation, line by line: line n belongs to line n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,
    pub format: Format,
    #[serde(default)]
    pub style: Style,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The prompt, with `{column}` for values of the row. Columns of a file without header are `0`,
    /// `1`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The answer, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// The column with the label (`classify`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Names of the labels, in order of their numbers; a file may hold either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How the file writes the labels, in the same order, where it is neither name nor number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_codes: Vec<String>,
    /// Files of the same format, searched like `path`: rows whose prompt stands in one of them are
    /// left out, so that no question of a test is learned. Capitals and white space do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Rows of the same format that measure the loss and are never learned, in place of
    /// `data.val_fraction`; and the other side of a translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_target_path: Option<String>,
    /// Takes this many rows, drawn with the training seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Times that the rows occur in an epoch; a fraction draws a part.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Longer rows lose the front of their prompt.
    pub max_seq_len: usize,
    /// Rows held out to measure the loss.
    pub val_fraction: f64,
    /// Also learn to write the prompt.
    pub train_on_input: bool,
    /// Which turns of the assistant are learned in a conversation (`chat`).
    #[serde(skip_serializing_if = "TrainOn::is_all")]
    pub train_on: TrainOn,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            max_seq_len: 256,
            val_fraction: 0.0,
            train_on_input: false,
            train_on: TrainOn::All,
        }
    }
}

/// Turns of the assistant that are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every one.
    #[default]
    All,
    /// The last one of each conversation.
    Last,
}

impl TrainOn {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// `[freeze]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Freeze {
    /// The embedding and this many first layers stay public and run on the client.
    pub layers: usize,
    /// Without `[lora]` and with no frozen layer: embedding, final norm and head stay as they are
    /// all the same. They are public in a partition, so that one can be exported from such a run
    /// only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embedding: bool,
}

/// `[lora]`; without the table all private weights are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    pub rank: usize,
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The update is scaled by `alpha / sqrt(rank)` instead of `alpha / rank`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rslora: bool,
    /// What `A` begins with; `B` is zero.
    #[serde(default, skip_serializing_if = "LoraInit::is_random")]
    pub init: LoraInit,
    /// Rows of the training data whose inputs decide the factors (`init = "data"`).
    #[serde(default = "init_rows", skip_serializing_if = "is_init_rows")]
    pub init_rows: usize,
    /// The output folder of another run, or an adapter of PEFT, whose factors these begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Share of a factor's inputs that training leaves out.
    #[serde(default)]
    pub dropout: f64,
    #[serde(default = "all_modules")]
    pub target_modules: Vec<String>,
    /// Ranks of single modules in place of `rank`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<String, usize>,
}

/// How `A` of a LoRA update begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// Uniform, as PEFT draws it.
    #[default]
    Random,
    /// Leading directions of what its map takes on rows of the training data.
    Data,
}

impl LoraInit {
    /// Rows that are read where a recipe says no other number.
    pub const ROWS: usize = 64;

    fn is_random(&self) -> bool {
        *self == Self::Random
    }
}

fn init_rows() -> usize {
    LoraInit::ROWS
}

fn is_init_rows(rows: &usize) -> bool {
    *rows == LoraInit::ROWS
}

fn alpha() -> f64 {
    16.0
}

fn all_modules() -> Vec<String> {
    MODULES.map(String::from).to_vec()
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    pub epochs: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Stop after this many tokens (prompts included).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub max_grad_norm: f64,
    pub seed: u64,
    /// Steps from checkpoint to checkpoint.
    pub checkpoint_steps: usize,
    /// Keep one layer's graph at a time and compute its inside twice: the same result in less
    /// memory.
    pub gradient_checkpointing: Checkpointing,
    /// In this many steps at the end of the run the private layers compute with the secure
    /// program's roundings.
    #[serde(skip_serializing_if = "is_zero")]
    pub quantize_last_steps: usize,
    /// Ends the run behind so many measurements of the validation loss in a row without a new
    /// least one. Its teacher's run is not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// By how many nats a validation loss must be less than the least one to be a new one for
    /// `early_stopping_patience`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_threshold: Option<f64>,
    /// The run leaves the parameters of its least validation loss, not the last ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_best: bool,
}

fn is_zero(steps: &usize) -> bool {
    *steps == 0
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: 1.0,
            max_steps: None,
            max_tokens: None,
            micro_batch_size: 8,
            gradient_accumulation_steps: 1,
            max_grad_norm: 1.0,
            seed: 0,
            checkpoint_steps: 100,
            gradient_checkpointing: Checkpointing::Auto,
            quantize_last_steps: 0,
            early_stopping_patience: None,
            early_stopping_threshold: None,
            keep_best: false,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// When the graphs of all layers together would not fit into the memory that is free.
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    #[default]
    Cosine,
    Linear,
    Constant,
}

/// `[optimizer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    pub kind: String,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub lr_scheduler: Schedule,
    /// Share of the steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// Steps over which it rises, in place of `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// What the learning rate comes down to behind the last step, as a share of `learning_rate`.
    #[serde(skip_serializing_if = "is_nothing")]
    pub min_lr_ratio: f64,
}

fn is_nothing(ratio: &f64) -> bool {
    *ratio == 0.0
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: "adamw".into(),
            learning_rate: 2e-4,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            lr_scheduler: Schedule::Cosine,
            warmup_ratio: 0.03,
            warmup_steps: None,
            min_lr_ratio: 0.0,
        }
    }
}

/// `[export]`: the numeric specification of the secure program; what is left out keeps the numeric
/// format's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frac_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reveal: Option<String>,
}

/// `[eval]`: what `marill eval` runs on the export when no task is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// Test rows in the format of the first data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,
    /// Steps from one measurement of the validation loss to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<usize>,
    /// A score below it is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
}

/// `[output]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub dir: String,
    /// Also write the metrics as event files of TensorBoard.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub tensorboard: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(flag: &bool) -> bool {
    *flag
}

impl Recipe {
    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds only what TOML can say")
    }
}
