//! Which rows each step trains on, as a function of seed and step, so that a resumed run goes on
//! with the same ones.

use std::{cell::RefCell, rc::Rc};

use marill_recipe::Train;

use crate::{Rng, Sample, TrainError};

/// Most rows of one step.
const STEP_ROWS: usize = 1 << 24;

/// One optimizer step: micro-batches of sample numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub micro_batches: Vec<Vec<usize>>,
    /// Tokens in all rows, and tokens that are learned.
    pub tokens: usize,
    pub targets: usize,
}

/// The whole run: a resumed one finds the same steps. A step is laid out when it is asked for, so
/// that neither a million epochs nor a billion steps take any memory.
pub(crate) struct Plan {
    seed: u64,
    /// Rows of an epoch, of the whole run, of a step, and of a micro-batch.
    samples: usize,
    rows: usize,
    per_step: usize,
    micro_batch_size: usize,
    steps: usize,
    /// The order of the epoch that was asked for last.
    order: RefCell<(usize, Rc<Vec<usize>>)>,
}

impl Plan {
    /// # Errors
    /// [`TrainError::Setting`] for a step of more rows than memory holds.
    pub fn new(samples: &[Sample], train: &Train) -> Result<Self, TrainError> {
        let per_step = train
            .micro_batch_size
            .saturating_mul(train.gradient_accumulation_steps);
        let rows = ((samples.len() as f64 * train.epochs).round() as usize).max(1);
        if per_step.min(rows) > STEP_ROWS {
            let reason = format!(
                "with `train.micro_batch_size` = {} a step has {} rows; at most {STEP_ROWS} are \
                 offered",
                train.micro_batch_size,
                per_step.min(rows)
            );
            return Err(TrainError::Setting {
                key: "train.gradient_accumulation_steps",
                reason,
            });
        }
        let micro_batch_size = train.micro_batch_size;
        let order = RefCell::new((usize::MAX, Rc::new(Vec::new())));
        let mut plan = Self {
            seed: train.seed,
            samples: samples.len(),
            rows,
            per_step,
            micro_batch_size,
            steps: 0,
            order,
        };
        plan.steps = rows
            .div_ceil(per_step)
            .min(train.max_steps.unwrap_or(usize::MAX));
        if let Some(limit) = train.max_tokens {
            plan.steps = plan.steps.min(plan.steps_within(samples, limit)).max(1);
        }
        Ok(plan)
    }

    pub fn len(&self) -> usize {
        self.steps
    }

    /// Rows of all steps.
    pub fn rows(&self) -> usize {
        self.rows.min(self.steps.saturating_mul(self.per_step))
    }

    /// A step, from 1.
    pub fn step(&self, samples: &[Sample], step: usize) -> Step {
        let first = (step - 1).saturating_mul(self.per_step).min(self.rows);
        let batch: Vec<usize> = self
            .samples_from(first)
            .take(self.per_step.min(self.rows - first))
            .collect();
        Step {
            micro_batches: batch
                .chunks(self.micro_batch_size)
                .map(<[usize]>::to_vec)
                .collect(),
            tokens: batch.iter().map(|&i| samples[i].tokens.len()).sum(),
            targets: batch.iter().map(|&i| samples[i].targets().count()).sum(),
        }
    }

    /// Sample numbers from a row of the run on, without end.
    pub fn samples_from(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let mut at = first;
        let mut current = self.epoch(first / self.samples);
        std::iter::repeat_with(move || {
            let epoch = at / self.samples;
            let nth = at % self.samples;
            if nth == 0 {
                current = self.epoch(epoch);
            }
            at += 1;
            current[nth]
        })
    }

    /// The order of an epoch, from 0: a function of the seed alone.
    fn epoch(&self, epoch: usize) -> Rc<Vec<usize>> {
        let mut known = self.order.borrow_mut();
        if known.0 != epoch {
            let mut pass: Vec<usize> = (0..self.samples).collect();
            Rng::new(self.seed, &format!("epoch {epoch}")).shuffle(&mut pass);
            *known = (epoch, Rc::new(pass));
        }
        Rc::clone(&known.1)
    }

    /// Tokens of the first rows of the run.
    pub fn tokens(&self, samples: &[Sample], rows: usize) -> usize {
        let epoch: usize = samples.iter().map(|s| s.tokens.len()).sum();
        let whole = rows / self.samples;
        let rest = rows % self.samples;
        let begun: usize = self
            .samples_from(whole.saturating_mul(self.samples))
            .take(rest)
            .map(|i| samples[i].tokens.len())
            .sum();
        whole.saturating_mul(epoch).saturating_add(begun)
    }

    /// Whole steps of no more than so many tokens.
    fn steps_within(&self, samples: &[Sample], limit: usize) -> usize {
        let epoch: usize = samples.iter().map(|s| s.tokens.len()).sum();
        let whole = limit / epoch.max(1);
        let mut rows = whole.saturating_mul(self.samples);
        if rows < self.rows {
            let mut tokens = whole.saturating_mul(epoch);
            for sample in self.samples_from(rows).take(self.samples) {
                tokens = tokens.saturating_add(samples[sample].tokens.len());
                if tokens > limit {
                    break;
                }
                rows += 1;
            }
        }
        if rows >= self.rows {
            self.steps
        } else {
            rows / self.per_step
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        (0..100)
            .map(|i| Sample::learnt_from(vec![1; 5 + i * 13 % 40], 3))
            .collect()
    }

    fn plan(train: &Train) -> Vec<Step> {
        let (samples, plan) = (samples(), Plan::new(&samples(), train).unwrap());
        (1..=plan.len())
            .map(|step| plan.step(&samples, step))
            .collect()
    }

    #[test]
    fn an_epoch_takes_every_row_once_in_the_seeds_order() {
        let train = Train {
            micro_batch_size: 4,
            gradient_accumulation_steps: 2,
            ..Train::default()
        };
        let steps = plan(&train);
        assert_eq!(steps, plan(&train));
        assert_ne!(steps, plan(&Train { seed: 1, ..train }));
        let mut seen: Vec<usize> = steps
            .iter()
            .flat_map(|s| s.micro_batches.concat())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn steps_and_tokens_can_be_limited() {
        let train = Train {
            micro_batch_size: 4,
            max_steps: Some(3),
            epochs: 2.0,
            ..Train::default()
        };
        assert_eq!(plan(&train).len(), 3);
        for limit in [1, 300, 500, 2500, 2600, 1_000_000] {
            let whole = plan(&Train {
                micro_batch_size: 4,
                epochs: 2.0,
                ..Train::default()
            });
            let steps = plan(&Train {
                micro_batch_size: 4,
                epochs: 2.0,
                max_tokens: Some(limit),
                ..Train::default()
            });
            let mut tokens = 0;
            let fit = whole.iter().take_while(|step| {
                tokens += step.tokens;
                tokens <= limit
            });
            assert_eq!(steps, whole[..fit.count().max(1)], "{limit}");
        }
    }

    #[test]
    fn steps_cross_epochs_and_tokens_are_counted_alone() {
        let train = Train {
            micro_batch_size: 7,
            gradient_accumulation_steps: 3,
            epochs: 2.5,
            ..Train::default()
        };
        let steps = plan(&train);
        let sizes: Vec<usize> = steps
            .iter()
            .map(|s| s.micro_batches.iter().map(Vec::len).sum())
            .collect();
        assert_eq!(
            (sizes.len(), sizes.iter().sum::<usize>(), sizes[11]),
            (12, 250, 250 - 11 * 21)
        );
        let whole = Plan::new(&samples(), &train).unwrap();
        assert_eq!(
            whole.tokens(&samples(), whole.rows()),
            steps.iter().map(|s| s.tokens).sum::<usize>()
        );
        // A row of each epoch, in another order each time.
        let rows: Vec<usize> = steps
            .iter()
            .flat_map(|s| s.micro_batches.concat())
            .collect();
        assert_ne!(rows[..100], rows[100..200]);
        let mut second = rows[100..200].to_vec();
        second.sort_unstable();
        assert_eq!(second, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_no_memory_holds_is_neither_laid_out_nor_wrapped() {
        let train = Train {
            epochs: 1e6,
            max_steps: Some(40),
            ..Train::default()
        };
        assert_eq!(plan(&train).len(), 40);
        let long = Plan::new(
            &samples(),
            &Train {
                epochs: 1e6,
                ..Train::default()
            },
        )
        .unwrap();
        assert_eq!(long.len(), 12_500_000);
        assert_eq!(long.step(&samples(), 12_500_000).micro_batches.len(), 1);
        assert_eq!(
            long.tokens(&samples(), long.rows()),
            1_000_000 * long.tokens(&samples(), 100)
        );
        let wide = Train {
            micro_batch_size: 4,
            gradient_accumulation_steps: usize::MAX,
            epochs: 1.0,
            ..Train::default()
        };
        assert_eq!(plan(&wide).len(), 1, "one step of all rows");
        let error = Plan::new(
            &samples(),
            &Train {
                epochs: 1e6,
                ..wide
            },
        )
        .err()
        .unwrap()
        .to_string();
        assert!(
            error.contains("`train.gradient_accumulation_steps`"),
            "{error}"
        );
    }
}
