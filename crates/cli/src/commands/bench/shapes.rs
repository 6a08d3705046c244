//! Shapes by name, with random weights.

use std::{path::Path, sync::Arc};

use marill_mpc::{
    Architecture, Pooling, PrivateForm, PrivateWeights, ProgramSpec, PublicWeights, Reveal,
    random_model::{AffineModel, gaussian, random_weights},
};
use marill_numeric::{NumericSpec, Rounding};
use marill_partition::Partition;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::output::failure::BadInput;

/// Names that `--arch` knows, beside a partition's folder.
pub const NAMES: &str = "smollm2-135m, gpt2, llama-7b, bert-base";

/// What is evaluated.
pub struct Model {
    pub name: String,
    pub public: Arc<PublicWeights>,
    pub private: Arc<PrivateWeights>,
}

impl Model {
    /// Random activations of every step.
    ///
    /// # Errors
    /// None of them is out of range.
    pub fn inputs(&self, plan: &Plan) -> anyhow::Result<Vec<Vec<u64>>> {
        let spec = &self.public.spec;
        let rows = (0..plan.steps()).map(|k| {
            let values = plan.rows(k) * spec.hidden_size;
            spec.encode(&gaussian(k as u64, "boundary", values, 1.0))
        });
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// In which form a shape is evaluated.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Form {
    /// Private layers; all of them when not given.
    pub layers: Option<usize>,
    /// Whether fewer layers than the model has keep its output head, as a model behind a prefix
    /// does.
    pub head: bool,
    /// Rank of the private LoRA updates; 0 where there are none.
    pub rank: usize,
    /// Whether every linear map is private as a whole.
    pub full: bool,
    /// Query heads that share a softmax.
    pub merge: usize,
    pub positions: usize,
    pub rounding: Rounding,
}

/// Sizes of a published model: hidden, MLP, heads, key-value heads, vocabulary, layers.
fn sizes(name: &str) -> Option<([usize; 6], Architecture)> {
    let bert = Architecture::Bert {
        pooling: Pooling::Cls,
        reveal: Reveal::Class,
    };
    Some(match name {
        "smollm2-135m" => ([576, 1536, 9, 3, 49_152, 30], Architecture::Llama),
        "llama-7b" => ([4096, 11_008, 32, 32, 32_000, 32], Architecture::Llama),
        "gpt2" => ([768, 3072, 12, 12, 50_257, 12], Architecture::Gpt2),
        "bert-base" => ([768, 3072, 12, 12, 2, 12], bert),
        _ => return None,
    })
}

/// The spec of a named shape. `layers` private ones; the whole model has its output head, a part of
/// it a head of two, unless the form keeps it.
///
/// # Errors
/// [`BadInput`] for an unknown name, or a `merge` that does not divide the heads.
pub fn spec(name: &str, form: Form) -> anyhow::Result<ProgramSpec> {
    let Form {
        layers,
        head,
        rank,
        full,
        merge,
        positions,
        rounding,
    } = form;
    let Some(([hidden, mlp, heads, kv, vocab, all], architecture)) = sizes(name) else {
        return Err(BadInput(anyhow::anyhow!(
            "there is no shape `{name}`\nhint: {NAMES}, or a partition's folder"
        ))
        .into());
    };
    let layers = layers.unwrap_or(all);
    if layers > all {
        return Err(BadInput(anyhow::anyhow!(
            "`--layers` {layers}: `{name}` has {all} layers"
        ))
        .into());
    }
    if layers == 0 || merge == 0 || heads % merge != 0 {
        let problem =
            anyhow::anyhow!("{layers} layers with {heads} heads merged by {merge} is no model");
        return Err(BadInput(problem).into());
    }
    let groups = heads / merge;
    Ok(ProgramSpec {
        hidden_size: hidden,
        intermediate_size: mlp,
        num_attention_heads: heads,
        num_key_value_heads: kv,
        head_dim: hidden / heads,
        vocab_size: if head || layers == all { vocab } else { 2 },
        num_layers: layers,
        max_positions: positions,
        rms_norm_eps: 1e-5,
        rope_theta: if name == "smollm2-135m" {
            100_000.0
        } else {
            10_000.0
        },
        head_groups: vec![
            (0..groups)
                .map(|g| (g..heads).step_by(groups).collect())
                .collect();
            layers
        ],
        attn_scale: vec![((hidden / heads * merge) as f64).powf(-0.5); layers],
        head_weights: Vec::new(),
        lora_rank: rank,
        lora_ranks: Vec::new(),
        numeric: NumericSpec::with_rounding(rounding),
        architecture,
        private: if full {
            PrivateForm::FullRank
        } else {
            PrivateForm::Lora
        },
        approx: Default::default(),
        variant: Default::default(),
    })
}

/// The program of a named shape, or of a partition.
///
/// # Errors
/// As [`model`].
pub fn spec_of(name: &str, form: Form) -> anyhow::Result<ProgramSpec> {
    if !Path::new(name).is_dir() {
        return spec(name, form);
    }
    let partition = Partition::open(Path::new(name)).map_err(|e| BadInput(e.into()))?;
    Ok(partition.program_spec().clone())
}

/// Random weights of a named shape, or those of a partition.
///
/// # Errors
/// As [`spec`], and [`BadInput`] for a damaged partition.
pub fn model(name: &str, form: Form) -> anyhow::Result<Model> {
    if Path::new(name).is_dir() {
        let open = || -> anyhow::Result<Model> {
            let partition = Partition::open(Path::new(name))?;
            anyhow::ensure!(
                partition.program_spec().numeric.rounding == form.rounding,
                "the partition's rounding is `{}`",
                partition.program_spec().numeric.rounding
            );
            let public = Arc::new(partition.public_weights()?);
            let private = Arc::new(partition.private_weights(&public)?);
            Ok(Model {
                name: partition.manifest.name.clone(),
                public,
                private,
            })
        };
        return open().map_err(|e| BadInput(e).into());
    }
    let spec = spec(name, form)?;
    let (public, private) = if spec.architecture.is_llama() {
        random_weights(&spec, 1)
    } else {
        AffineModel::random(&spec, 1).quantize()
    };
    Ok(Model {
        name: name.to_string(),
        public,
        private,
    })
}
