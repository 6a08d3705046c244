//! The loss of a micro-batch and its gradients, over the whole graph or, to save memory, one layer
//! at a time.

use candle_core::{Tensor, Var};
use marill_model::{
    Llama, Rows,
    ops::{Dropout, FakeQuant, HeadLoss, head_loss, row_distance},
};
use marill_recipe::{Distill, Stage};

use crate::{Sample, TrainError, distill::Said, params::Params, samples::targets};

/// One micro-batch on its way through the private layers.
pub(crate) struct Pass<'a> {
    pub decoder: &'a Llama,
    pub frozen: usize,
    pub samples: &'a [Sample],
    pub batch: &'a [usize],
    pub dropout: Option<Dropout>,
    /// The private layers compute with the secure program's values.
    pub fake_quant: Option<FakeQuant>,
    /// How much of its own scores a merged head still has.
    pub own_share: f32,
    pub stage: Stage,
    /// What the teacher says to this batch, as far as the stage asks.
    pub said: Said,
    /// Targets and tokens of the whole optimizer step: sums over them become means.
    pub targets: usize,
    pub tokens: usize,
}

/// The stage of a step (from 1); plain cross-entropy without distillation.
pub(crate) fn stage_of(distill: Option<&Distill>, step: usize, steps: usize) -> Stage {
    let Some(distill) = distill else {
        return Stage {
            share: 1.0,
            hidden: 0.0,
            logits: 0.0,
            labels: 1.0,
        };
    };
    let stages = distill.stages();
    let mut share = 0.0;
    for stage in &stages {
        share += stage.share;
        if step as f64 <= (share * steps as f64).round() {
            return *stage;
        }
    }
    *stages
        .last()
        .expect("a distillation has at least one stage")
}

impl Pass<'_> {
    fn rows(&self) -> Rows {
        let lengths: Vec<usize> = self
            .batch
            .iter()
            .map(|&i| self.samples[i].tokens.len())
            .collect();
        Rows {
            dropout: self.dropout,
            fake_quant: self.fake_quant,
            own_share: self.own_share,
            ..Rows::packed(&lengths)
        }
    }

    /// The loss as one graph over all private layers; `x [N, hidden]` is what enters them.
    pub fn loss(&self, x: Tensor) -> Result<Tensor, TrainError> {
        let mut x = x;
        let rows = self.rows();
        let mut total = None;
        for layer in self.frozen..self.decoder.layers.len() {
            x = self.decoder.run(x, layer..layer + 1, &rows, None)?;
            total = sum(total, self.hidden_loss(&x, layer)?)?;
        }
        let total = sum(total, self.head_loss(&x)?)?;
        total.ok_or_else(|| self.nothing_to_learn())
    }

    /// The same with one layer's graph at a time: more work, and memory for one layer instead of
    /// all of them. The gradients go into `params`, bit for bit those of [`Pass::loss`]; the loss
    /// is returned.
    pub fn backward_in_blocks(&self, x: Tensor, params: &mut Params) -> Result<f32, TrainError> {
        let rows = self.rows();
        let layers = self.frozen..self.decoder.layers.len();
        let mut inputs = Vec::with_capacity(layers.len());
        let mut x = x.detach();
        for layer in layers.clone() {
            inputs.push(x.clone());
            x = self.decoder.run(x, layer..layer + 1, &rows, None)?.detach();
        }
        let top = Var::from_tensor(&x)?;
        let mut total = 0f32;
        let mut upstream = None;
        if let Some(loss) = self.head_loss(top.as_tensor())? {
            total += loss.to_scalar::<f32>()?;
            let grads = loss.backward()?;
            params.accumulate(&grads)?;
            upstream = grads.get(top.as_tensor()).cloned();
        }
        for (layer, input) in layers.zip(inputs).rev() {
            // The first layer's input is constant, as it is in the whole graph.
            let leaf = (layer > self.frozen)
                .then(|| Var::from_tensor(&input))
                .transpose()?;
            let x = leaf.as_ref().map_or(input, |leaf| leaf.as_tensor().clone());
            let y = self.decoder.run(x, layer..layer + 1, &rows, None)?;
            let hidden = self.hidden_loss(&y, layer)?;
            if let Some(hidden) = &hidden {
                total += hidden.to_scalar::<f32>()?;
            }
            let carried = upstream.map(|g: Tensor| (&y * g)?.sum_all()).transpose()?;
            let Some(loss) = sum(carried, hidden)? else {
                return Err(self.nothing_to_learn());
            };
            let grads = loss.backward()?;
            params.accumulate(&grads)?;
            upstream = leaf.and_then(|leaf| grads.get(leaf.as_tensor()).cloned());
        }
        Ok(total)
    }

    fn hidden_loss(&self, x: &Tensor, layer: usize) -> Result<Option<Tensor>, TrainError> {
        let Some(target) = self.said.layers.get(layer - self.frozen) else {
            return Ok(None);
        };
        let private = self.decoder.layers.len() - self.frozen;
        let scale = self.stage.hidden / (private * self.tokens) as f64;
        Ok(Some(row_distance(x, target, scale as f32)?))
    }

    fn head_loss(&self, x: &Tensor) -> Result<Option<Tensor>, TrainError> {
        let weight = self.stage.logits + self.stage.labels;
        if weight == 0.0 {
            return Ok(None);
        }
        let (rows, labels) = targets(self.samples, self.batch);
        let rows = Tensor::new(rows, x.device())?;
        let hidden = self.decoder.finish(&x.index_select(&rows, 0)?)?;
        let scale = (weight / self.targets as f64) as f32;
        let loss = HeadLoss {
            labels,
            scale,
            teacher: self.said.teacher.clone(),
        };
        Ok(Some(head_loss(&hidden, &self.decoder.lm_head, loss)?))
    }

    fn nothing_to_learn(&self) -> TrainError {
        TrainError::Setting {
            key: "distill.stages",
            reason: "a stage without any weight learns nothing".into(),
        }
    }
}

fn sum(total: Option<Tensor>, part: Option<Tensor>) -> Result<Option<Tensor>, TrainError> {
    Ok(match (total, part) {
        (Some(total), Some(part)) => Some((total + part)?),
        (total, part) => total.or(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_by_their_shares() {
        let stage = |share, hidden, logits, labels| Stage {
            share,
            hidden,
            logits,
            labels,
        };
        let mut distill = Distill {
            teacher: "base".into(),
            revision: None,
            temperature: 1.0,
            weight: None,
            stages: vec![stage(0.25, 1.0, 0.0, 0.0), stage(0.75, 0.0, 0.5, 0.5)],
        };
        let hidden = |distill: &Distill| -> Vec<f64> {
            (1..=8)
                .map(|step| stage_of(Some(distill), step, 8).hidden)
                .collect()
        };
        assert_eq!(hidden(&distill), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        distill.stages.clear();
        distill.weight = Some(0.75);
        let only = stage_of(Some(&distill), 3, 8);
        assert_eq!((only.hidden, only.logits, only.labels), (0.0, 0.75, 0.25));
        assert_eq!(stage_of(None, 1, 8).labels, 1.0);
    }
}
