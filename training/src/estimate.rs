//! What a run will need, from shapes and rows alone.

use std::collections::BTreeSet;

use candle_core::Tensor;
use marill_model::{Checkpoint, MODULES, ModelConfig, Transforms};
use marill_recipe::{Freeze, LoraInit, Recipe};
use serde::Serialize;

use crate::{TrainError, batches::Plan, distill::STATES_BYTES, samples::Samples};

const F32: usize = 4;
const F64: usize = 8;
/// Program, tokenizer, thread stacks and the packing buffers of matrix products.
const PROGRAM: usize = 60 << 20;
/// Rows of the run that the largest micro-batch is looked for in; the order of more of them is no
/// other.
const ROWS_LOOKED_AT: usize = 1 << 20;
/// Rows of logits that exist at a time, with their gradient's and a teacher's copies.
const LOGIT_ROWS: usize = 128;

/// Bytes and counts of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub trained_parameters: usize,
    pub steps: usize,
    /// Tokens of all steps; nothing is padded.
    pub tokens: usize,
    /// Tokens of the rows that occur at all.
    pub distinct_tokens: usize,
    /// Tokens of the rows held out, times the measurements of their loss.
    pub validation_tokens: usize,
    /// Rows in memory: the base model in f32.
    pub weight_bytes: usize,
    /// Trained values, gradients and both moments.
    pub optimizer_bytes: usize,
    /// What the frozen layers say to every row of the run, in f16.
    pub cache_bytes: usize,
    /// The graphs of all private layers for the largest micro-batch.
    pub graph_bytes: usize,
    /// The same with `gradient_checkpointing`.
    pub graph_bytes_in_blocks: usize,
    /// What `lora.init = "data"` takes before the first step, in place of a graph.
    pub init_bytes: usize,
    /// The teacher of a distillation: its weights where they are not the base's own (taken to be as
    /// many), and the outputs of its layers that are kept from epoch to epoch.
    pub teacher_bytes: usize,
    /// Logits, rounded copies of weights, and the vectors that reading and writing files takes.
    pub other_bytes: usize,
    /// One checkpoint on disk; two are kept.
    pub checkpoint_bytes: usize,
    /// The best steps that are kept beside them, at most one up to each checkpoint and one of all;
    /// none without `train.keep_best`. While a new one is written there is one more.
    pub best_bytes: usize,
    /// The trained tensors alone, as the run leaves them.
    pub adapter_bytes: usize,
}

impl Estimate {
    pub(crate) fn new(
        base: &Checkpoint,
        transforms: &Transforms,
        recipe: &Recipe,
        samples: &Samples,
        plan: &Plan,
    ) -> Self {
        let config = &base.config;
        let weights: usize = base.tensors.values().map(Tensor::elem_count).sum();
        let trained = trained_parameters(base, transforms, &recipe.freeze);
        let private = transforms.private_layers(config);
        let length = |i: &usize| samples.train[*i].tokens.len();
        let (rows, longest) = largest_batch(samples, plan);
        let distinct: BTreeSet<usize> = plan
            .samples_from(0)
            .take(plan.rows().min(samples.train.len()))
            .collect();
        let distinct_tokens = distinct.iter().map(length).sum::<usize>();
        let held_out = samples
            .validation
            .iter()
            .map(|s| s.tokens.len())
            .sum::<usize>();
        let steps = plan.len();
        let every = recipe
            .eval
            .as_ref()
            .and_then(|e| e.every_steps)
            .unwrap_or(steps)
            .max(1);
        let layer = rows * floats_a_row(config);
        // Backward adds the gradients of the widest place, and two rows of scores a thread.
        let passing = rows * 4 * config.intermediate_size().max(config.hidden_size()) + 4 * longest;
        let teacher = if recipe.distill.is_some() { 3 } else { 1 };
        let full = transforms.lora.is_none();
        Self {
            trained_parameters: trained,
            steps,
            tokens: plan.tokens(&samples.train, plan.rows()),
            distinct_tokens,
            validation_tokens: held_out.saturating_mul(steps.div_ceil(every)),
            weight_bytes: weights * F32,
            optimizer_bytes: 4 * trained * F32,
            cache_bytes: if transforms.frozen_layers == 0 {
                0
            } else {
                (distinct_tokens + held_out) * config.hidden_size() * 2
            },
            graph_bytes: (private * layer + passing) * F32,
            graph_bytes_in_blocks: (private * rows * config.hidden_size() + layer + passing) * F32,
            init_bytes: init_bytes(config, recipe, samples, plan),
            teacher_bytes: teacher_bytes(recipe, weights * F32, plan.rows() > samples.train.len()),
            other_bytes: PROGRAM
                + LOGIT_ROWS * config.vocab_size() * F32 * teacher
                + if recipe.train.quantize_last_steps > 0 {
                    rounded_copies(config, private)
                } else {
                    0
                },
            checkpoint_bytes: 3 * trained * F32,
            best_bytes: match recipe.train.keep_best {
                true => 3 * trained * F32,
                false => 0,
            },
            adapter_bytes: if full { weights * F32 } else { trained * F32 },
        }
    }

    /// The peak of a run that keeps all layers' graphs, or one at a time.
    pub fn memory_bytes(&self, in_blocks: bool) -> usize {
        let graph = if in_blocks {
            self.graph_bytes_in_blocks
        } else {
            self.graph_bytes
        };
        let passing = graph.max(self.init_bytes);
        self.weight_bytes
            + self.optimizer_bytes
            + self.cache_bytes
            + passing
            + self.teacher_bytes
            + self.other_bytes
    }

    /// Refuses a run whose graphs are far beyond what this machine has, before they are built.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for `train.micro_batch_size`.
    pub(crate) fn fits(&self, in_blocks: bool) -> Result<(), TrainError> {
        let graph = if in_blocks {
            self.graph_bytes_in_blocks
        } else {
            self.graph_bytes
        };
        let Some(memory) = proc_bytes("/proc/meminfo", "MemTotal") else {
            return Ok(());
        };
        let memory = memory + proc_bytes("/proc/meminfo", "SwapTotal").unwrap_or(0);
        // Estimates hold within a third.
        if graph / 3 * 2 <= memory {
            return Ok(());
        }
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let reason = format!(
            "its graph takes about {:.0} GiB, and this machine has {:.0} GiB\n\n\
             hint: fewer rows, and more `train.gradient_accumulation_steps` instead",
            gib(graph),
            gib(memory)
        );
        Err(TrainError::Setting {
            key: "train.micro_batch_size",
            reason,
        })
    }

    /// Whether the graphs of all layers would take more than nine tenths of the memory that is
    /// free.
    pub(crate) fn needs_blocks(&self) -> bool {
        available_bytes()
            .is_some_and(|free| self.memory_bytes(false) - self.weight_bytes > free / 10 * 9)
    }
}

/// Rows of the largest micro-batch among the first ones, and the most pairs of tokens that a text
/// of it has.
fn largest_batch(samples: &Samples, plan: &Plan) -> (usize, usize) {
    let length = |i: &usize| samples.train[*i].tokens.len();
    let mut rows = 0;
    let mut longest = 0;
    let mut seen = 0;
    for step in 1..=plan.len() {
        for batch in plan.step(&samples.train, step).micro_batches {
            rows = rows.max(batch.iter().map(length).sum::<usize>());
            longest = longest.max(
                batch
                    .iter()
                    .map(|i| length(i) * length(i))
                    .max()
                    .unwrap_or(0),
            );
            seen += batch.len();
        }
        if seen >= ROWS_LOOKED_AT {
            break;
        }
    }
    (rows, longest)
}

/// What each row leaves in a layer's graph: norms, projections, rotations, attention, the two sums,
/// gate, up and their product.
fn floats_a_row(config: &dyn ModelConfig) -> usize {
    let q = config.num_attention_heads() * config.head_dim();
    let kv = config.num_key_value_heads() * config.head_dim();
    6 * config.hidden_size() + 3 * q + 3 * kv + 3 * config.intermediate_size()
}

/// The frozen matrices of the private layers on the secure program's grid, beside the ones they
/// were made of.
fn rounded_copies(config: &dyn ModelConfig, private: usize) -> usize {
    let shapes = MODULES
        .iter()
        .filter_map(|module| config.module_shape(module));
    private * shapes.map(|[out, inner]| out * inner).sum::<usize>() * F32
}

/// The residual stream of the rows that decide the factors, and one layer's Gram matrices with a
/// batch of rows beside them, in f64.
fn init_bytes(config: &dyn ModelConfig, recipe: &Recipe, samples: &Samples, plan: &Plan) -> usize {
    let lora = recipe.lora.as_ref();
    let Some(lora) = lora.filter(|lora| lora.init == LoraInit::Data) else {
        return 0;
    };
    let length = |i: usize| samples.train[i].tokens.len();
    let count = lora.init_rows.min(samples.train.len());
    let rows: usize = plan.samples_from(0).take(count).map(length).sum();
    let hidden = config.hidden_size();
    let inner = config.intermediate_size();
    let heads = config.num_attention_heads() * config.head_dim();
    let grams = 2 * hidden * hidden + heads * heads + inner * inner;
    let (batch, _) = largest_batch(samples, plan);
    let layer = batch * (floats_a_row(config) * F32 + inner * F64);
    rows * hidden * F32 + grams * F64 + layer
}

/// Memory that a teacher takes. What it says of logits is little beside it.
fn teacher_bytes(recipe: &Recipe, weights: usize, revisits: bool) -> usize {
    let Some(distill) = &recipe.distill else {
        return 0;
    };
    let states = revisits && distill.stages().iter().any(|stage| stage.needs_states());
    let own = if distill.teacher == "base" {
        0
    } else {
        weights
    };
    own + if states { STATES_BYTES } else { 0 }
}

fn trained_parameters(base: &Checkpoint, transforms: &Transforms, freeze: &Freeze) -> usize {
    let config = &base.config;
    if let Some(lora) = &transforms.lora {
        let factors = lora.target_modules.iter().filter_map(|module| {
            let [out, inner] = config.module_shape(module)?;
            Some(lora.rank_of(module) * (out + inner))
        });
        return transforms.private_layers(config) * factors.sum::<usize>();
    }
    crate::params::full_names(base, transforms, freeze)
        .map(|name| base.tensors[name].elem_count())
        .sum()
}

/// A line of a file under `/proc` that gives kibibytes; `None` on systems without it.
fn proc_bytes(file: &str, key: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<usize>()
            .ok()?
            * 1024,
    )
}

fn available_bytes() -> Option<usize> {
    proc_bytes("/proc/meminfo", "MemAvailable")
}

/// The most memory that this process ever held, where the system says it.
pub fn peak_memory_bytes() -> Option<usize> {
    proc_bytes("/proc/self/status", "VmHWM")
}
