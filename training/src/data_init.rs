//! `lora.init = "data"`: each `A` begins with the leading directions of what its map takes.
//!
//! As EVA does (Paischer et al., arXiv 2410.07170, section 3): the top right-singular vectors of a
//! module's inputs on rows of the data, `B` zero, the base weights as they are. Not taken over: its
//! share-out of ranks (`lora.ranks` says them), and its weights of rows, see [`Gram::add`].
//!
//! The model is the base with the run's head groups then, so one pass over some rows gives every
//! layer's inputs. Layer by layer: memory holds the rows' residual stream and one layer's Gram
//! matrices, `2 hidden² + heads² + intermediate²` in f64, however many rows there are.

use std::time::Instant;

use candle_core::{Device, Tensor};
use marill_model::{Adapter, Rows};
use marill_recipe::LoraInit;

use crate::{
    Rng, TrainError,
    directions::{Directions, Gram},
    trainer::Run,
};

/// The modules of a layer by what they take: normalized rows, attended values, normalized rows,
/// the MLP's product.
const TAKE_ALIKE: [&[&str]; 4] = [
    &["q_proj", "k_proj", "v_proj"],
    &["o_proj"],
    &["gate_proj", "up_proj"],
    &["down_proj"],
];

/// Seconds that the beginning of a run took.
#[derive(Default)]
pub(crate) struct InitSeconds {
    /// In proportion to the rows.
    pub reading: f64,
    pub solving: f64,
}

/// `A` of the first `rank` directions, each scaled so that it makes of the inputs' part along it
/// what a random `A` would on average: `learning_rate` and `alpha` then mean what they mean there.
///
/// A random row is uniform in `±1/sqrt(in)`, so it gives a row `x` the variance `|x|² / (3 in)`; a
/// unit direction that holds the share `s` gives `s |x|²`. Directions that hold less than the
/// average, `1/in`, are as long as a random row, `1/sqrt(3)`, and no longer: noise is not blown up.
fn factor(found: &Directions, rank: usize, size: usize) -> Vec<f32> {
    let average = 1.0 / size as f64;
    let rows = found.rows.chunks_exact(size).zip(&found.shares).take(rank);
    rows.flat_map(|(row, share)| {
        let scale = ((average / share).min(1.0) / 3.0).sqrt();
        row.iter().map(move |v| (v * scale) as f32)
    })
    .collect()
}

impl Run<'_> {
    /// Rows whose inputs decide the factors of this run; 0 where nothing asks for it.
    pub(crate) fn init_rows(&self) -> usize {
        let lora = self.recipe.lora.as_ref();
        lora.filter(|lora| lora.init == LoraInit::Data)
            .map_or(0, |lora| lora.init_rows.min(self.samples.train.len()))
    }

    /// Sets every `A` by the first `count` rows that the run will learn from.
    pub(crate) fn init_from_data(&mut self, count: usize) -> Result<InitSeconds, TrainError> {
        let mut seconds = InitSeconds::default();
        let started = Instant::now();
        let frozen = self.transforms.frozen_layers;
        let chosen: Vec<usize> = self.plan.samples_from(0).take(count).collect();
        let samples = &self.samples.train;
        let mut batches = Vec::new();
        for batch in chosen.chunks(self.recipe.train.micro_batch_size) {
            let x = self
                .activations
                .boundary(&self.decoder, frozen, samples, batch)?;
            let lengths: Vec<usize> = batch.iter().map(|&i| samples[i].tokens.len()).collect();
            batches.push((x, Rows::packed(&lengths)));
        }
        seconds.reading += started.elapsed().as_secs_f64();
        for layer in frozen..self.decoder.layers.len() {
            let started = Instant::now();
            let grams = self.grams(layer, &mut batches)?;
            seconds.reading += started.elapsed().as_secs_f64();
            let started = Instant::now();
            for (gram, modules) in grams.iter().zip(TAKE_ALIKE) {
                self.set_factors(gram, layer, modules)?;
            }
            seconds.solving += started.elapsed().as_secs_f64();
        }
        Ok(seconds)
    }

    /// What the maps of a layer take of these rows, which come out behind it.
    fn grams(&self, layer: usize, batches: &mut [(Tensor, Rows)]) -> Result<[Gram; 4], TrainError> {
        let config = &self.decoder.config;
        let heads = config.num_attention_heads * config.head_dim;
        let hidden = config.hidden_size;
        let mut grams = [hidden, heads, hidden, config.intermediate_size].map(Gram::new);
        for (x, rows) in batches {
            let (next, inputs) = self.decoder.run_with_inputs(x.clone(), layer, rows)?;
            for ((gram, modules), input) in grams.iter_mut().zip(TAKE_ALIKE).zip(&inputs) {
                if modules.iter().any(|module| self.targets(module)) {
                    gram.add(&input.detach())?;
                }
            }
            *x = next.detach();
        }
        Ok(grams)
    }

    fn targets(&self, module: &str) -> bool {
        let lora = self.transforms.lora.as_ref();
        lora.is_some_and(|lora| lora.targets(module))
    }

    /// One set of directions for modules that take the same rows, of which each has its first ones.
    fn set_factors(
        &mut self,
        gram: &Gram,
        layer: usize,
        modules: &[&str],
    ) -> Result<(), TrainError> {
        let Some(lora) = &self.transforms.lora else {
            return Ok(());
        };
        let ranks = modules.iter().filter(|module| lora.targets(module));
        let ranks: Vec<(&str, usize)> = ranks.map(|m| (*m, lora.rank_of(m))).collect();
        let Some(most) = ranks.iter().map(|(_, rank)| *rank).max() else {
            return Ok(());
        };
        let mut rng = Rng::new(
            self.recipe.train.seed,
            &format!("data init {layer} {}", modules[0]),
        );
        let found = gram.leading(most, &mut rng);
        for (module, rank) in ranks {
            let size = found.rows.len() / found.shares.len();
            let a = Tensor::from_vec(factor(&found, rank, size), (rank, size), &Device::Cpu)?;
            self.params.set(&Adapter::name(layer, module, 'A'), &a)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of squares of `A x̂` over a part of the inputs, against a random `A`'s.
    #[test]
    fn every_direction_says_as_much_as_a_random_row() {
        let size = 4;
        let mut rows = vec![0.0; size * size];
        (0..size).for_each(|i| rows[i * size + i] = 1.0);
        let found = Directions {
            rows,
            shares: vec![0.7, 0.25, 0.04, 0.01],
        };
        let a = factor(&found, 3, size);
        assert_eq!(a.len(), 3 * size);
        let variance = |nth: usize| f64::from(a[nth * size + nth]).powi(2) * found.shares[nth];
        // 1 / (3 in) of a row of length one.
        assert!((variance(0) - 1.0 / 12.0).abs() < 1e-7);
        assert!((variance(1) - 1.0 / 12.0).abs() < 1e-7);
        // Below the average share it is the length that is a random row's.
        assert!((f64::from(a[2 * size + 2]) - (1f64 / 3.0).sqrt()).abs() < 1e-7);
    }
}
