//! The teacher of a distillation, and its answers as far as they are kept.

mod keep;

use std::sync::Arc;

use candle_core::{DType, Tensor};
use half::f16;
use marill_model::{
    Checkpoint, Llama, ModelConfig, Rows, Transforms,
    ops::{KeptRow, Teacher, TeacherLogits},
};
use marill_recipe::{Distill, FINE_TUNED, KeepLogits, Recipe, Stage, locate};

use self::keep::{Answer, Kept};
use crate::{Sample, TrainError, TrainOptions, samples::targets};

/// Memory for outputs of the teacher's layers that are kept from epoch to epoch; what is beyond is
/// computed again.
pub(crate) const STATES_BYTES: usize = 1 << 30;

/// Tokens that are kept of an answer where a recipe does not say.
const KEPT_TOKENS: usize = 64;

/// The teacher of a distillation and what it said so far.
pub(crate) struct Distillation {
    decoder: Llama,
    /// Of the teacher's weights, where they are not the base's own.
    sha256: Option<String>,
    /// Frozen layers whose output the student's cache already has.
    shared_layers: usize,
    /// Layers of the student that are compared with the teacher's.
    frozen: usize,
    /// What it says at the targets of a sample.
    answers: Vec<Option<Answer>>,
    kept: Kept,
    /// Outputs of its layers for a sample, as long as there is room, where the run comes back to
    /// its rows.
    states: Vec<Option<Vec<Tensor>>>,
    room: usize,
    temperature: f32,
    relation_parts: usize,
}

/// A teacher's answer to one batch.
#[derive(Default)]
pub(crate) struct Said {
    /// What it says about the next tokens, where the stage asks for logits.
    pub teacher: Option<Teacher>,
    /// Outputs of the private layers, `[N, hidden]` each, where the stage asks for them.
    pub layers: Vec<Tensor>,
    pub relations: Option<Relations>,
}

/// Queries, keys and values of the last layer, and how many parts they are cut into.
pub(crate) struct Relations {
    pub targets: [Tensor; 3],
    pub parts: usize,
}

impl Distillation {
    /// The teacher that a recipe names, if any. `revisits` says that the run comes back to its
    /// rows.
    pub fn open(
        recipe: &Recipe,
        options: &TrainOptions,
        base: &Checkpoint,
        transforms: &Transforms,
        samples: usize,
        revisits: bool,
    ) -> Result<Option<Distillation>, TrainError> {
        let Some(knobs) = &recipe.distill else {
            return Ok(None);
        };
        // A trial of a run whose teacher is still to be trained takes the base: it costs the same.
        let untrained = knobs.teacher == FINE_TUNED && options.teacher.is_none();
        let own = knobs.teacher == "base" || untrained;
        let checkpoint = match &options.teacher {
            _ if own => base.clone(),
            Some(path) => Checkpoint::open_ignoring_any(path, &recipe.model.ignore)?.0,
            None => {
                let path = locate(&knobs.teacher, &options.recipe_dir)?;
                Checkpoint::open_ignoring_any(&path, &recipe.model.ignore)?.0
            }
        };
        check(knobs, &checkpoint, base, transforms)?;
        let vb = checkpoint.var_builder();
        let decoder = Llama::new(checkpoint.config.llama()?, &Transforms::default(), vb)?;
        let tokens = knobs.kept_tokens.unwrap_or(KEPT_TOKENS);
        Ok(Some(Distillation {
            decoder,
            sha256: (!own).then(|| checkpoint.digest()),
            shared_layers: if own { transforms.frozen_layers } else { 0 },
            frozen: transforms.frozen_layers,
            answers: (0..samples).map(|_| None).collect(),
            kept: match knobs.keep_logits {
                KeepLogits::All => Kept::All,
                KeepLogits::TopK => Kept::TopK(tokens),
                KeepLogits::Sampled => Kept::Sampled(tokens, recipe.train.seed),
            },
            states: vec![None; samples],
            room: if revisits { STATES_BYTES } else { 0 },
            temperature: knobs.temperature as f32,
            relation_parts: relation_parts(knobs, base),
        }))
    }

    /// Digest of a teacher that is not the base.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
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
        let logits = stage.logits > 0.0 && !batch.iter().all(|&i| self.answers[i].is_some());
        if stage.needs_states() || logits {
            let lengths: Vec<usize> = batch.iter().map(|&i| samples[i].tokens.len()).collect();
            let rows = Rows::packed(&lengths);
            // The input of the first compared layer, then the outputs of all.
            let mut states = match stage.needs_states() {
                true => self.states_of(boundary, samples, batch, &rows)?,
                false => self.run(boundary, samples, batch, &rows)?,
            };
            if logits {
                self.remember(&states[states.len() - 1], samples, batch)?;
            }
            if stage.relations > 0.0 {
                let input = &states[states.len() - 2];
                let last = self.decoder.layers.len() - 1;
                said.relations = Some(Relations {
                    targets: self.decoder.attention_inputs(last, input, &rows)?,
                    parts: self.relation_parts,
                });
            }
            states.remove(0);
            if stage.hidden + stage.outputs > 0.0 {
                said.layers = states;
            }
        }
        if stage.logits > 0.0 {
            said.teacher = Some(self.teacher(boundary, batch, stage)?);
        }
        Ok(said)
    }

    /// What enters the first compared layer and what leaves it and each one behind it: read back,
    /// or computed, and kept while there is room.
    fn states_of(
        &mut self,
        boundary: &Tensor,
        samples: &[Sample],
        batch: &[usize],
        rows: &Rows,
    ) -> Result<Vec<Tensor>, TrainError> {
        let known: Option<Vec<&Vec<Tensor>>> =
            batch.iter().map(|&i| self.states[i].as_ref()).collect();
        if let Some(known) = known {
            let layers = known.first().map_or(0, |states| states.len());
            let joined = (0..layers).map(|layer| {
                let parts: Vec<&Tensor> = known.iter().map(|states| &states[layer]).collect();
                Ok(Tensor::cat(&parts, 0)?)
            });
            return joined.collect();
        }
        let states = self.run(boundary, samples, batch, rows)?;
        let width = self.decoder.config.hidden_size;
        for (&i, segment) in batch.iter().zip(rows.segments.iter()) {
            let bytes = states.len() * segment.q_len * width * size_of::<f32>();
            if self.states[i].is_none() && bytes <= self.room {
                let own = states
                    .iter()
                    .map(|state| state.narrow(0, segment.q_start, segment.q_len)?.copy());
                self.states[i] = Some(own.collect::<candle_core::Result<_>>()?);
                self.room -= bytes;
            }
        }
        Ok(states)
    }

    fn run(
        &self,
        boundary: &Tensor,
        samples: &[Sample],
        batch: &[usize],
        rows: &Rows,
    ) -> Result<Vec<Tensor>, TrainError> {
        let mut x = if self.shared_layers > 0 {
            boundary.detach()
        } else {
            let tokens: Vec<u32> = batch
                .iter()
                .flat_map(|&i| samples[i].tokens.clone())
                .collect();
            self.decoder.embed(&tokens)?
        };
        let mut states = Vec::new();
        for layer in self.shared_layers..self.decoder.layers.len() {
            if layer == self.frozen || layer + 1 == self.decoder.layers.len() && states.is_empty() {
                states.push(x.clone());
            }
            x = self.decoder.run(x, layer..layer + 1, rows, None)?;
            if layer >= self.frozen || layer + 1 == self.decoder.layers.len() {
                states.push(x.clone());
            }
        }
        Ok(states)
    }

    /// Keeps what the teacher says at the targets of a batch; `x` is its last layer's output.
    fn remember(
        &mut self,
        x: &Tensor,
        samples: &[Sample],
        batch: &[usize],
    ) -> Result<(), TrainError> {
        let (rows, _) = targets(samples, batch);
        let rows = Tensor::new(rows, x.device())?;
        let finished = self.decoder.finish(&x.index_select(&rows, 0)?)?;
        let mut first = 0;
        for &i in batch {
            let count = samples[i].targets().count();
            let own = finished.narrow(0, first, count)?;
            first += count;
            let answer = match self.kept {
                Kept::All => {
                    let flat: Vec<f16> = own.to_dtype(DType::F16)?.flatten_all()?.to_vec1()?;
                    Answer::Hidden(flat)
                }
                kept => Answer::Tokens(kept.of(&self.decoder, &own, self.temperature, i)?),
            };
            self.answers[i] = Some(answer);
        }
        Ok(())
    }

    fn teacher(
        &self,
        boundary: &Tensor,
        batch: &[usize],
        stage: &Stage,
    ) -> Result<Teacher, TrainError> {
        let answers = batch.iter().filter_map(|&i| self.answers[i].as_ref());
        let width = self.decoder.config.hidden_size;
        let logits = if let Kept::All = self.kept {
            let rows = answers.flat_map(Answer::hidden);
            let hidden: Vec<f32> = rows.map(|v| v.to_f32()).collect();
            let rows = hidden.len() / width;
            TeacherLogits::Whole {
                hidden: Tensor::from_vec(hidden, (rows, width), boundary.device())?,
                head: self.decoder.lm_head.clone(),
            }
        } else {
            let rows: Vec<KeptRow> = answers.flat_map(Answer::tokens).cloned().collect();
            TeacherLogits::Kept(Arc::new(rows))
        };
        Ok(Teacher {
            logits,
            temperature: self.temperature,
            weight: (stage.logits / stage.head()) as f32,
        })
    }
}

/// Parts of queries, keys and values that are related apart.
fn relation_parts(knobs: &Distill, base: &Checkpoint) -> usize {
    let heads = || base.config.num_key_value_heads();
    knobs.relation_heads.unwrap_or_else(heads)
}

/// Whether a teacher can teach what the stages ask for.
fn check(
    knobs: &Distill,
    teacher: &Checkpoint,
    base: &Checkpoint,
    transforms: &Transforms,
) -> Result<(), TrainError> {
    let theirs = &teacher.config;
    let ours = &base.config;
    let fail = |key, reason| Err(TrainError::Setting { key, reason });
    if theirs.vocab_size() != ours.vocab_size() {
        let reason = format!(
            "the teacher has {} tokens, the base model {}",
            theirs.vocab_size(),
            ours.vocab_size()
        );
        return fail("distill.teacher", reason);
    }
    let stages = knobs.stages();
    let compares = |stage: &Stage| stage.hidden + stage.outputs > 0.0;
    let shape = |c: &marill_model::Architecture| (c.num_hidden_layers(), c.hidden_size());
    if stages.iter().any(compares) && shape(theirs) != shape(ours) {
        let reason = format!(
            "hidden states of {} layers of {} cannot be matched with {} of {}",
            theirs.num_hidden_layers(),
            theirs.hidden_size(),
            ours.num_hidden_layers(),
            ours.hidden_size()
        );
        return fail("distill.teacher", reason);
    }
    let parts = relation_parts(knobs, base);
    if stages.iter().any(|stage| stage.relations > 0.0) {
        for config in [ours, theirs] {
            let heads = [config.num_attention_heads(), config.num_key_value_heads()];
            for width in heads.map(|heads| heads * config.head_dim()) {
                if !width.is_multiple_of(parts) {
                    let reason = format!("{width} columns cannot be cut into {parts} parts");
                    return fail("distill.relation_heads", reason);
                }
            }
        }
    }
    let full = transforms.lora.is_none() && transforms.frozen_layers == 0;
    if full && stages.iter().any(|stage| stage.head() == 0.0) {
        let reason = "a stage of hidden states alone leaves the final norm and the head \
            untrained\n\n\
            hint: give the stage some `labels`, or train low-rank factors with `[lora]`";
        return fail("distill.stages", reason.into());
    }
    Ok(())
}
