//! The teacher of a distillation, and its answers as far as they are kept.

use candle_core::{DType, Tensor};
use half::f16;
use marill_model::{Checkpoint, Llama, ModelConfig, Rows, Transforms, ops::Teacher};
use marill_recipe::{Recipe, Stage, locate};

use crate::{Sample, TrainError, TrainOptions, samples::targets};

/// The teacher of a distillation and what it said so far.
pub(crate) struct Distillation {
    decoder: Llama,
    /// Frozen layers whose output the student's cache already has.
    shared_layers: usize,
    /// Layers of the student that are compared with the teacher's.
    frozen: usize,
    /// Final normed rows at the targets of a sample, f16.
    rows: Vec<Option<Vec<f16>>>,
    temperature: f32,
}

/// A teacher's answer to one batch.
#[derive(Default)]
pub(crate) struct Said {
    /// What it says about the next tokens, where the stage asks for logits.
    pub teacher: Option<Teacher>,
    /// Outputs of the private layers, `[N, hidden]` each, where the stage asks for hidden states.
    pub layers: Vec<Tensor>,
}

impl Distillation {
    /// The teacher that a recipe names, if any.
    pub fn open(
        recipe: &Recipe,
        options: &TrainOptions,
        base: &Checkpoint,
        transforms: &Transforms,
        samples: usize,
    ) -> Result<Option<Distillation>, TrainError> {
        let Some(knobs) = &recipe.distill else {
            return Ok(None);
        };
        let own = knobs.teacher == "base";
        let checkpoint = match &options.teacher {
            _ if own => base.clone(),
            Some(path) => Checkpoint::open_ignoring_any(path, &recipe.model.ignore)?.0,
            None => {
                let path = locate(&knobs.teacher, &options.recipe_dir)?;
                Checkpoint::open_ignoring_any(&path, &recipe.model.ignore)?.0
            }
        };
        let theirs = &checkpoint.config;
        let ours = &base.config;
        if theirs.vocab_size() != ours.vocab_size() {
            let reason = format!(
                "the teacher has {} tokens, the base model {}",
                theirs.vocab_size(),
                ours.vocab_size()
            );
            return Err(TrainError::Setting {
                key: "distill.teacher",
                reason,
            });
        }
        let hidden = knobs.stages().iter().any(|stage| stage.hidden > 0.0);
        let shape = |c: &marill_model::Architecture| (c.num_hidden_layers(), c.hidden_size());
        if hidden && shape(theirs) != shape(ours) {
            let reason = format!(
                "hidden states of {} layers of {} cannot be matched with {} of {}",
                theirs.num_hidden_layers(),
                theirs.hidden_size(),
                ours.num_hidden_layers(),
                ours.hidden_size()
            );
            return Err(TrainError::Setting {
                key: "distill.teacher",
                reason,
            });
        }
        let headless = |stage: &Stage| stage.logits + stage.labels == 0.0;
        if transforms.lora.is_none()
            && transforms.frozen_layers == 0
            && knobs.stages().iter().any(headless)
        {
            let reason = "a stage of hidden states alone leaves the final norm and the head \
                untrained\n\n\
                hint: give the stage some `labels`, or train low-rank factors with `[lora]`";
            return Err(TrainError::Setting {
                key: "distill.stages",
                reason: reason.into(),
            });
        }
        let vb = checkpoint.var_builder();
        let decoder = Llama::new(checkpoint.config.llama()?, &Transforms::default(), vb)?;
        Ok(Some(Distillation {
            decoder,
            shared_layers: if own { transforms.frozen_layers } else { 0 },
            frozen: transforms.frozen_layers,
            rows: vec![None; samples],
            temperature: knobs.temperature as f32,
        }))
    }

    /// The teacher's answer to a batch; `boundary` is the student's input of its private layers.
    pub fn answer(
        &mut self,
        boundary: &Tensor,
        samples: &[Sample],
        batch: &[usize],
        stage: &Stage,
    ) -> Result<Said, TrainError> {
        let mut said = Said::default();
        let known = batch.iter().all(|&i| self.rows[i].is_some());
        if stage.hidden > 0.0 || stage.logits > 0.0 && !known {
            said.layers = self.listen(boundary, samples, batch, stage)?;
        }
        if stage.logits > 0.0 {
            said.teacher = Some(self.teacher(boundary, batch, stage)?);
        }
        Ok(said)
    }

    /// Runs the teacher: keeps its final rows where logits are asked for, returns its layers where
    /// they are.
    fn listen(
        &mut self,
        boundary: &Tensor,
        samples: &[Sample],
        batch: &[usize],
        stage: &Stage,
    ) -> Result<Vec<Tensor>, TrainError> {
        let lengths: Vec<usize> = batch.iter().map(|&i| samples[i].tokens.len()).collect();
        let rows = Rows::packed(&lengths);
        let mut x = if self.shared_layers > 0 {
            boundary.detach()
        } else {
            let tokens: Vec<u32> = batch
                .iter()
                .flat_map(|&i| samples[i].tokens.clone())
                .collect();
            self.decoder.embed(&tokens)?
        };
        let mut layers = Vec::new();
        for layer in self.shared_layers..self.decoder.layers.len() {
            x = self.decoder.run(x, layer..layer + 1, &rows, None)?;
            if stage.hidden > 0.0 && layer >= self.frozen {
                layers.push(x.clone());
            }
        }
        if stage.logits > 0.0 {
            let (rows, _) = targets(samples, batch);
            let rows = Tensor::new(rows, x.device())?;
            let rows = self.decoder.finish(&x.index_select(&rows, 0)?)?;
            let flat: Vec<f16> = rows.to_dtype(DType::F16)?.flatten_all()?.to_vec1()?;
            let mut rest = &flat[..];
            for &i in batch {
                let (own, tail) =
                    rest.split_at(samples[i].targets().count() * self.decoder.config.hidden_size);
                self.rows[i] = Some(own.to_vec());
                rest = tail;
            }
        }
        Ok(layers)
    }

    fn teacher(
        &self,
        boundary: &Tensor,
        batch: &[usize],
        stage: &Stage,
    ) -> Result<Teacher, TrainError> {
        let hidden_size = self.decoder.config.hidden_size;
        let stored = batch
            .iter()
            .flat_map(|&i| self.rows[i].as_deref().unwrap_or_default());
        let hidden: Vec<f32> = stored.map(|v| v.to_f32()).collect();
        let rows = hidden.len() / hidden_size;
        Ok(Teacher {
            hidden: Tensor::from_vec(hidden, (rows, hidden_size), boundary.device())?,
            head: self.decoder.lm_head.clone(),
            temperature: self.temperature,
            weight: (stage.logits / (stage.logits + stage.labels)) as f32,
        })
    }
}
