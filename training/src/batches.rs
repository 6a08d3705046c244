use crate::{Rng, Sample};
use marill_recipe::Train;

/// One optimiser step: micro-batches of sample numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub micro_batches: Vec<Vec<usize>>,
    /// Tokens in all rows, and tokens that are learnt.
    pub tokens: usize,
    pub targets: usize,
}

/// The whole run, laid out before it begins: a resumed run finds the same steps.
pub(crate) fn plan(samples: &[Sample], train: &Train) -> Vec<Step> {
    let per_step = train.micro_batch_size * train.gradient_accumulation_steps;
    let rows = ((samples.len() as f64 * train.epochs).round() as usize).max(1);
    let mut order = Vec::with_capacity(rows);
    let mut epoch = 0;
    while order.len() < rows {
        let mut pass: Vec<usize> = (0..samples.len()).collect();
        Rng::new(train.seed, &format!("epoch {epoch}")).shuffle(&mut pass);
        order.extend(pass.into_iter().take(rows - order.len()));
        epoch += 1;
    }
    // Rows are laid one after another without padding, so batches of mixed lengths cost nothing and mix the data.
    let mut steps: Vec<Step> =
        order.chunks(per_step).map(|batch| step(samples, batch, train.micro_batch_size)).collect();
    steps.truncate(train.max_steps.unwrap_or(usize::MAX));
    if let Some(limit) = train.max_tokens {
        let mut tokens = 0;
        let fits = steps.iter().take_while(|s| {
            tokens += s.tokens;
            tokens <= limit
        });
        let count = fits.count().max(1);
        steps.truncate(count);
    }
    steps
}

fn step(samples: &[Sample], batch: &[usize], micro_batch_size: usize) -> Step {
    Step {
        micro_batches: batch.chunks(micro_batch_size).map(<[usize]>::to_vec).collect(),
        tokens: batch.iter().map(|&i| samples[i].tokens.len()).sum(),
        targets: batch.iter().map(|&i| samples[i].targets().count()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        (0..100).map(|i| Sample { tokens: vec![1; 5 + i * 13 % 40], loss_from: 3 }).collect()
    }

    #[test]
    fn an_epoch_takes_every_row_once_in_an_order_that_only_the_seed_decides() {
        let train = Train { micro_batch_size: 4, gradient_accumulation_steps: 2, ..Train::default() };
        let steps = plan(&samples(), &train);
        assert_eq!(steps, plan(&samples(), &train));
        assert_ne!(steps, plan(&samples(), &Train { seed: 1, ..train }));
        let mut seen: Vec<usize> = steps.iter().flat_map(|s| s.micro_batches.concat()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn steps_and_tokens_can_be_limited() {
        let train = Train { micro_batch_size: 4, max_steps: Some(3), epochs: 2.0, ..Train::default() };
        assert_eq!(plan(&samples(), &train).len(), 3);
        let train = Train { micro_batch_size: 4, max_tokens: Some(500), ..Train::default() };
        let tokens: usize = plan(&samples(), &train).iter().map(|s| s.tokens).sum();
        assert!((300..=500).contains(&tokens), "{tokens}");
    }
}
