//! Every table and key of a recipe with its default, and how a recipe is read and overridden.

use std::collections::BTreeMap;

use marill_numeric::{Approximations, MODULES};
use serde::{Deserialize, Serialize};

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
    /// `instruction`, `input`, `output`.
    Instruct,
    /// `messages`, each with `role` and `content`, or `conversations`, each with `from` and
    /// `value`.
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
    /// `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.txt`, also with `.gz`.
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Heads of different key-value heads, by their numbers.
    #[default]
    Strided,
    /// Neighbors.
    Adjacent,
    /// In each layer the one that changes the attention block's output least on training rows.
    Measured,
}

impl Grouping {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strided => "strided",
            Self::Adjacent => "adjacent",
            Self::Measured => "measured",
        }
    }
}

/// How a layer gets by with fewer softmaxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Groups of heads share one.
    #[default]
    Merge,
    /// One head of each group is left.
    Prune,
}

impl Method {
    fn is_merge(&self) -> bool {
        *self == Self::Merge
    }
}

/// `[heads]`: groups of `merge` query heads share one softmax, or one head of `merge` is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    pub merge: usize,
    #[serde(default)]
    pub grouping: Grouping,
    /// Factor of the summed scores; `1 / sqrt(merge * head_dim)` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    #[serde(default)]
    pub allow_kv_collapse: bool,
    #[serde(default, skip_serializing_if = "Method::is_merge")]
    pub method: Method,
    /// A factor for the scores of each head, with which its group's softmax comes nearest to the
    /// mean of the heads' own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fit_scales: bool,
    /// So many private layers stay whole: those that would change most.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep: usize,
    /// Layers that stay whole, counted over the whole model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_layers: Vec<usize>,
    /// In this share of the steps, from the first one on, the scores of each head move from its own
    /// to its group's.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub progressive: f64,
    /// Training rows on which groups, scales and layers are measured, at most.
    #[serde(
        default = "calibration_rows",
        skip_serializing_if = "is_calibration_rows"
    )]
    pub calibration_rows: usize,
}

impl Heads {
    /// Whether groups, scales or layers are measured on training rows.
    pub fn is_measured(&self) -> bool {
        self.grouping == Grouping::Measured || self.fit_scales || self.keep > 0
    }

    pub(crate) fn has_calibration_rows(&self) -> bool {
        !is_calibration_rows(&self.calibration_rows)
    }
}

fn calibration_rows() -> usize {
    64
}

fn is_calibration_rows(rows: &usize) -> bool {
    *rows == calibration_rows()
}

fn is_nothing(share: &f64) -> bool {
    *share == 0.0
}

/// The name of a teacher that is trained before the run.
pub const FINE_TUNED: &str = "fine-tune";

/// `[distill]`: learn from the logits of a teacher too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// `base`, `fine-tune` (the base, all of it trained on the same rows first), or a checkpoint
    /// with the same tokenizer.
    pub teacher: String,
    /// How a teacher `fine-tune` is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_tune: Option<FineTune>,
    /// Commit, branch or tag of a teacher on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default = "one")]
    pub temperature: f64,
    /// Part of the loss that follows the teacher's logits, the rest follows the labels; 0.5 when
    /// left out. Says the same as one stage with `logits = weight` and `labels = 1 - weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How much of the teacher's logits is kept from its first answer to a row on.
    #[serde(default, skip_serializing_if = "KeepLogits::is_all")]
    pub keep_logits: KeepLogits,
    /// Tokens kept of each answer, or drawn; 64 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_tokens: Option<usize>,
    /// Parts that queries, keys and values are cut into for `relations`; as many as the base has
    /// heads of keys when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation_heads: Option<usize>,
    /// Parts of the run with losses of their own, one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// `distill.fine_tune`: what the teacher's training has of its own; the rest is the recipe's,
/// without transformations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// 3e-4 when left out: all weights want a lower rate than low-rank factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// As many as the run itself when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
}

/// What a teacher's answer is kept as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepLogits {
    /// Its last hidden state: all logits follow from it.
    #[default]
    All,
    /// The likeliest tokens, and the mass of all others as one.
    TopK,
    /// Tokens drawn from it, each with its share of the draws: no bias, some noise.
    Sampled,
}

impl KeepLogits {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// One of `distill.stages`: the loss is the sum of parts with these weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Part of the run's steps; the shares of all stages are 1 together.
    pub share: f64,
    /// Distance of the private layers' outputs from the teacher's, relative to their size.
    #[serde(default)]
    pub hidden: f64,
    /// The same with every layer alone, on the teacher's own input of it.
    #[serde(default, skip_serializing_if = "is_zero_weight")]
    pub outputs: f64,
    /// `KL(teacher || student)` of how the last layer's queries, keys and values relate among
    /// themselves.
    #[serde(default, skip_serializing_if = "is_zero_weight")]
    pub relations: f64,
    /// `temperature^2 KL(teacher || student)` at the labels.
    #[serde(default)]
    pub logits: f64,
    /// Cross-entropy with the labels.
    #[serde(default)]
    pub labels: f64,
}

fn is_zero_weight(weight: &f64) -> bool {
    *weight == 0.0
}

impl Stage {
    /// A stage of the labels alone, the whole run.
    pub const LABELS: Self = Self {
        share: 1.0,
        hidden: 0.0,
        outputs: 0.0,
        relations: 0.0,
        logits: 0.0,
        labels: 1.0,
    };

    /// Weight of what needs the output head.
    pub fn head(&self) -> f64 {
        self.logits + self.labels
    }

    /// Whether a layer's output depends on the ones before it.
    pub fn runs_through(&self) -> bool {
        self.hidden + self.relations + self.head() > 0.0
    }

    /// Whether the teacher has to be run even where its logits are known.
    pub fn needs_states(&self) -> bool {
        self.hidden + self.outputs + self.relations > 0.0
    }
}

impl Distill {
    /// The stages, also where only `weight` or nothing is written.
    pub fn stages(&self) -> Vec<Stage> {
        if !self.stages.is_empty() {
            return self.stages.clone();
        }
        let logits = self.weight.unwrap_or(0.5);
        vec![Stage {
            logits,
            labels: 1.0 - logits,
            ..Stage::LABELS
        }]
    }
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
    pub warmup_ratio: f64,
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
}

impl Recipe {
    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds only what TOML can say")
    }
}
