use crate::samples::targets;
use crate::{Sample, TrainError, TrainOptions};
use candle_core::{DType, Tensor};
use half::f16;
use marill_model::ops::Teacher;
use marill_model::{Checkpoint, Decoder, Rows, Transforms};
use marill_recipe::{Recipe, locate};

/// The teacher of a distillation and what it said so far.
pub(crate) struct Distillation {
    decoder: Decoder,
    /// Frozen layers whose output the student's cache already has.
    shared_layers: usize,
    /// Final normed rows at the targets of a sample, f16.
    rows: Vec<Option<Vec<f16>>>,
    temperature: f32,
    weight: f32,
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
        let Some(knobs) = &recipe.distill else { return Ok(None) };
        let own = knobs.teacher == "base";
        let checkpoint = match &options.teacher {
            _ if own => base.clone(),
            Some(path) => Checkpoint::open(path)?,
            None => Checkpoint::open(&locate(&knobs.teacher, &options.recipe_dir)?)?,
        };
        if checkpoint.config.vocab_size != base.config.vocab_size {
            let (theirs, ours) = (checkpoint.config.vocab_size, base.config.vocab_size);
            let reason = format!("the teacher has {theirs} tokens, the base model {ours}");
            return Err(TrainError::Setting { key: "distill.teacher", reason });
        }
        let weight = |name: &str| checkpoint.tensor(name).cloned();
        let decoder = Decoder::assemble(&checkpoint.config, &Transforms::default(), weight, |_, _| None)?;
        Ok(Some(Distillation {
            decoder,
            shared_layers: if own { transforms.frozen_layers } else { 0 },
            rows: vec![None; samples],
            temperature: knobs.temperature as f32,
            weight: knobs.weight as f32,
        }))
    }

    /// The teacher's final rows at the targets of a batch; `boundary` is the student's input of its private layers.
    pub fn rows_for(&mut self, boundary: &Tensor, samples: &[Sample], batch: &[usize]) -> Result<Teacher, TrainError> {
        let hidden_size = self.decoder.config.hidden_size;
        if batch.iter().any(|&i| self.rows[i].is_none()) {
            let lengths: Vec<usize> = batch.iter().map(|&i| samples[i].tokens.len()).collect();
            let x = if self.shared_layers > 0 {
                boundary.detach()
            } else {
                let tokens: Vec<u32> = batch.iter().flat_map(|&i| samples[i].tokens.clone()).collect();
                self.decoder.embed(&tokens)?
            };
            let layers = self.shared_layers..self.decoder.layers.len();
            let x = self.decoder.run(x, layers, &Rows::packed(&lengths), None)?;
            let (rows, _) = targets(samples, batch);
            let rows = Tensor::new(rows, x.device())?;
            let rows = self.decoder.finish(&x.index_select(&rows, 0)?)?;
            let flat: Vec<f16> = rows.to_dtype(DType::F16)?.flatten_all()?.to_vec1()?;
            let mut rest = &flat[..];
            for &i in batch {
                let (own, tail) = rest.split_at(samples[i].targets().count() * hidden_size);
                self.rows[i] = Some(own.to_vec());
                rest = tail;
            }
        }
        let stored = batch.iter().flat_map(|&i| self.rows[i].as_deref().unwrap_or_default());
        let hidden: Vec<f32> = stored.map(|v| v.to_f32()).collect();
        let rows = hidden.len() / hidden_size;
        Ok(Teacher {
            hidden: Tensor::from_vec(hidden, (rows, hidden_size), boundary.device())?,
            head: self.decoder.lm_head.clone(),
            temperature: self.temperature,
            weight: self.weight,
        })
    }
}
