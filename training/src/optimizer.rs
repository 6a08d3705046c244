//! AdamW as one fused loop over each parameter, and the learning rate's schedule.

use marill_recipe::{Optimizer, Schedule};
use rayon::prelude::*;

/// Elements that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// AdamW's moments of one parameter, f32.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl Moments {
    pub fn zeros(count: usize) -> Self {
        Self {
            first: vec![0.0; count],
            second: vec![0.0; count],
        }
    }
}

/// One fused AdamW update of `values` for step `step` (from 1). Source: Loshchilov, Hutter,
/// "Decoupled Weight Decay Regularization", ICLR 2019.
pub(crate) fn adamw(
    values: &mut [f32],
    grad: &[f32],
    moments: &mut Moments,
    knobs: &Optimizer,
    learning_rate: f64,
    decay: bool,
    grad_scale: f32,
    step: usize,
) {
    const EPS: f32 = 1e-8;
    let beta1 = knobs.beta1 as f32;
    let beta2 = knobs.beta2 as f32;
    let correction1 = 1.0 - knobs.beta1.powi(step as i32);
    let correction2 = (1.0 - knobs.beta2.powi(step as i32)) as f32;
    let rate = (learning_rate / correction1) as f32;
    let keep = if decay {
        (1.0 - learning_rate * knobs.weight_decay) as f32
    } else {
        1.0
    };
    values
        .par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(
            moments
                .first
                .par_chunks_mut(CHUNK)
                .zip(moments.second.par_chunks_mut(CHUNK)),
        )
        .for_each(|((values, grad), (first, second))| {
            for i in 0..values.len() {
                let g = grad[i] * grad_scale;
                first[i] = beta1 * first[i] + (1.0 - beta1) * g;
                second[i] = beta2 * second[i] + (1.0 - beta2) * g * g;
                values[i] =
                    values[i] * keep - rate * first[i] / ((second[i] / correction2).sqrt() + EPS);
            }
        });
}

/// Over how many steps of a run the learning rate rises.
pub(crate) fn warmup_steps(knobs: &Optimizer, steps: usize) -> usize {
    match knobs.warmup_steps {
        Some(warmup) => warmup.min(steps),
        None => (steps as f64 * knobs.warmup_ratio).ceil() as usize,
    }
}

/// The learning rate of a step (from 1): linear warm-up, then the schedule, which would come to its
/// least, by default nothing, in the step behind the last one. No step of a run has a rate of 0.
pub(crate) fn learning_rate(knobs: &Optimizer, step: usize, steps: usize) -> f64 {
    let warmup = warmup_steps(knobs, steps) as f64;
    let at = step as f64;
    if at <= warmup {
        return knobs.learning_rate * at / warmup;
    }
    let progress = (at - 1.0 - warmup) / (steps as f64 - warmup).max(1.0);
    let share = match knobs.lr_scheduler {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    match knobs.min_lr_ratio {
        // The bits of a rate that has no least.
        0.0 => knobs.learning_rate * share,
        least => knobs.learning_rate * (least + (1.0 - least) * share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let knobs = Optimizer {
            weight_decay: 0.1,
            ..Optimizer::default()
        };
        let mut values = vec![1.0, -1.0, 2.0];
        let mut moments = Moments::zeros(3);
        adamw(
            &mut values,
            &[0.5, -3.0, 0.0],
            &mut moments,
            &knobs,
            0.01,
            false,
            1.0,
            1,
        );
        let expected = [0.99, -0.99, 2.0];
        // 32-bit floats near one.
        values
            .iter()
            .zip(expected)
            .for_each(|(v, e)| assert!((v - e).abs() < 1e-6, "{v} {e}"));
        adamw(
            &mut values,
            &[0.0; 3],
            &mut Moments::zeros(3),
            &knobs,
            0.01,
            true,
            1.0,
            1,
        );
        // As above.
        assert!((values[2] - 2.0 * 0.999).abs() < 1e-6);
    }

    #[test]
    fn the_schedule_warms_up_and_comes_down() {
        let knobs = Optimizer {
            learning_rate: 1.0,
            warmup_ratio: 0.1,
            ..Optimizer::default()
        };
        let rates: Vec<f64> = (1..=100).map(|s| learning_rate(&knobs, s, 100)).collect();
        // Exact but for the last bits of 64-bit floats.
        assert!(
            (rates[4] - 0.5).abs() < 1e-9
                && (rates[9] - 1.0).abs() < 1e-9
                && (rates[10] - 1.0).abs() < 1e-9
        );
        // The last step of a cosine over 90 steps is 3e-4 of the largest.
        assert!(rates[10..].windows(2).all(|w| w[1] < w[0]) && rates[99] < 1e-3);
    }

    #[test]
    fn the_rate_comes_down_to_its_least() {
        for lr_scheduler in [Schedule::Linear, Schedule::Cosine] {
            let knobs = Optimizer {
                learning_rate: 2.0,
                warmup_ratio: 0.0,
                min_lr_ratio: 0.1,
                lr_scheduler,
                ..Optimizer::default()
            };
            let rates: Vec<f64> = (1..=1001).map(|s| learning_rate(&knobs, s, 1000)).collect();
            // Exact but for the last bits of 64-bit floats.
            assert!((rates[0] - 2.0).abs() < 1e-9 && (rates[1000] - 0.2).abs() < 1e-9);
            assert!(rates.windows(2).all(|w| w[1] < w[0]));
        }
    }

    #[test]
    fn warm_up_takes_so_many_steps_however_long_the_run() {
        let knobs = Optimizer {
            learning_rate: 1.0,
            warmup_steps: Some(4),
            ..Optimizer::default()
        };
        for steps in [5, 100, 1000] {
            let rates = [1, 2, 3, 4].map(|step| learning_rate(&knobs, step, steps));
            assert_eq!(rates, [0.25, 0.5, 0.75, 1.0]);
            assert!(learning_rate(&knobs, 5, steps) <= 1.0);
        }
        // A shorter run ends within it, at the whole rate.
        assert_eq!(learning_rate(&knobs, 2, 2), 1.0);
        let none = Optimizer {
            warmup_steps: Some(0),
            ..knobs
        };
        assert_eq!(learning_rate(&none, 1, 10), 1.0);
    }

    #[test]
    fn no_step_has_a_rate_of_nothing() {
        for lr_scheduler in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for warmup_ratio in [0.0, 0.03, 0.5, 0.999, 1.0] {
                for steps in [1, 2, 3, 7, 100, 10_000] {
                    let knobs = Optimizer {
                        learning_rate: 1.0,
                        warmup_ratio,
                        lr_scheduler,
                        ..Optimizer::default()
                    };
                    let rates = (1..=steps).map(|step| learning_rate(&knobs, step, steps));
                    let least = rates.fold(f64::INFINITY, f64::min);
                    // The last step of a cosine over 10,000 is 2e-8 of the largest.
                    assert!(
                        least > 1e-9 && least <= 1.0,
                        "{lr_scheduler:?} {warmup_ratio} {steps}: {least}"
                    );
                }
            }
        }
        // The only step is a whole one.
        let knobs = Optimizer {
            learning_rate: 1.0,
            warmup_ratio: 0.0,
            ..Optimizer::default()
        };
        assert_eq!(learning_rate(&knobs, 1, 1), 1.0);
        let linear = Optimizer {
            lr_scheduler: Schedule::Linear,
            ..knobs
        };
        assert_eq!(
            [1, 2, 3, 4].map(|step| learning_rate(&linear, step, 4)),
            [1.0, 0.75, 0.5, 0.25]
        );
    }
}
