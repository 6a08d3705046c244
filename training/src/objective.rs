//! The loss of a micro-batch and its gradients, over the whole graph or, to save memory, one layer
//! at a time.

use candle_core::{Tensor, Var};
use marill_model::{
    Llama, Rows,
    ops::{Dropout, FakeQuant, HeadLoss, head_loss, relation_loss, row_distance},
};
use marill_recipe::{Distill, Stage};

use crate::{
    Sample, TrainError,
    distill::{Relations, Said},
    params::Params,
    samples::targets,
};

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
        return Stage::LABELS;
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

    /// Adds the gradients to `params` and returns the loss; `x [N, hidden]` is what enters the
    /// private layers. With `in_blocks` one layer's graph exists at a time: more work, and memory
    /// for one layer instead of all of them, for the same gradients bit for bit.
    pub fn backward(
        &self,
        x: Tensor,
        in_blocks: bool,
        params: &mut Params,
    ) -> Result<f32, TrainError> {
        let rows = self.rows();
        let mut total = 0f32;
        // Layers that are compared alone have graphs of their own in any case.
        if self.stage.outputs > 0.0 {
            total += self.outputs_backward(&x, &rows, params)?;
        }
        // The last layer's input has a gradient by the relations and one by what follows; one graph
        // would add their parts in another order.
        let in_blocks = in_blocks || self.stage.relations > 0.0;
        if self.stage.runs_through() && in_blocks {
            total += self.through_backward(x, &rows, params)?;
        } else if self.stage.runs_through() {
            let loss = self.loss(x)?;
            params.accumulate(&loss.backward()?)?;
            total += loss.to_scalar::<f32>()?;
        }
        Ok(total)
    }

    /// The loss of what goes through all private layers, as one graph.
    pub fn loss(&self, x: Tensor) -> Result<Tensor, TrainError> {
        let mut x = x;
        let rows = self.rows();
        let mut total = None;
        for layer in self.frozen..self.decoder.layers.len() {
            total = sum(total, self.relation_loss(&x, layer, &rows)?)?;
            x = self.decoder.run(x, layer..layer + 1, &rows, None)?;
            total = sum(total, self.hidden_loss(&x, layer)?)?;
        }
        let total = sum(total, self.head_loss(&x)?)?;
        total.ok_or_else(|| self.nothing_to_learn())
    }

    /// The layers that are compared alone.
    fn outputs_backward(
        &self,
        x: &Tensor,
        rows: &Rows,
        params: &mut Params,
    ) -> Result<f32, TrainError> {
        let mut total = 0f32;
        for layer in self.frozen..self.decoder.layers.len() {
            if let Some(loss) = self.output_loss(x, layer, rows)? {
                total += loss.to_scalar::<f32>()?;
                params.accumulate(&loss.backward()?)?;
            }
        }
        Ok(total)
    }

    /// What goes through all layers, from the last one down.
    fn through_backward(
        &self,
        x: Tensor,
        rows: &Rows,
        params: &mut Params,
    ) -> Result<f32, TrainError> {
        let layers = self.frozen..self.decoder.layers.len();
        let mut inputs = Vec::with_capacity(layers.len());
        let mut x = x.detach();
        for layer in layers.clone() {
            inputs.push(x.clone());
            x = self.decoder.run(x, layer..layer + 1, rows, None)?.detach();
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
            let related = self.relation_loss(&x, layer, rows)?;
            let y = self.decoder.run(x, layer..layer + 1, rows, None)?;
            let hidden = sum(related, self.hidden_loss(&y, layer)?)?;
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
        self.distance(x, layer, self.stage.hidden)
    }

    /// A layer's output for the teacher's input of it; the first one takes `x`, what the frozen
    /// layers will give it, since theirs may differ from the teacher's.
    fn output_loss(
        &self,
        x: &Tensor,
        layer: usize,
        rows: &Rows,
    ) -> Result<Option<Tensor>, TrainError> {
        let before = (layer - self.frozen).checked_sub(1);
        let input = before
            .map_or(x, |before| &self.said.layers[before])
            .detach();
        let y = self.decoder.run(input, layer..layer + 1, rows, None)?;
        self.distance(&y, layer, self.stage.outputs)
    }

    fn distance(
        &self,
        x: &Tensor,
        layer: usize,
        weight: f64,
    ) -> Result<Option<Tensor>, TrainError> {
        let target = self.said.layers.get(layer - self.frozen);
        let Some(target) = target.filter(|_| weight > 0.0) else {
            return Ok(None);
        };
        let private = self.decoder.layers.len() - self.frozen;
        let scale = weight / (private * self.tokens) as f64;
        Ok(Some(row_distance(x, target, scale as f32)?))
    }

    /// How queries, keys and values of the last layer, whose input is `x`, relate: a mean over the
    /// three, their parts and all rows.
    fn relation_loss(
        &self,
        x: &Tensor,
        layer: usize,
        rows: &Rows,
    ) -> Result<Option<Tensor>, TrainError> {
        let last = layer + 1 == self.decoder.layers.len();
        let Some(Relations { targets, parts }) = self.said.relations.as_ref().filter(|_| last)
        else {
            return Ok(None);
        };
        let ours = self.decoder.attention_inputs(layer, x, rows)?;
        let scale = self.stage.relations / (targets.len() * parts * self.tokens) as f64;
        let mut total = None;
        for (ours, target) in ours.iter().zip(targets) {
            let loss = relation_loss(ours, target, &rows.segments, *parts, scale)?;
            total = sum(total, Some(loss))?;
        }
        Ok(total)
    }

    fn head_loss(&self, x: &Tensor) -> Result<Option<Tensor>, TrainError> {
        let weight = self.stage.head();
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
    use marill_recipe::KeepLogits;

    use super::*;

    #[test]
    fn stages_follow_each_other_by_their_shares() {
        let stage = |share, hidden, logits, labels| Stage {
            share,
            hidden,
            logits,
            labels,
            ..Stage::LABELS
        };
        let mut distill = Distill {
            teacher: "base".into(),
            revision: None,
            temperature: 1.0,
            weight: None,
            fine_tune: None,
            keep_logits: KeepLogits::All,
            kept_tokens: None,
            relation_heads: None,
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
