//! Which measurement of the validation loss was the best, and whether it is time to end.

use marill_recipe::Train;

use crate::output::{Best, Progress};

/// Of equal ones the first.
pub(crate) fn best(history: &[Progress]) -> Option<Best> {
    let measured = history.iter().filter_map(|at| {
        Some(Best {
            step: at.step,
            val_loss: at.val_loss?,
        })
    });
    measured.reduce(|best, at| match at.val_loss < best.val_loss {
        true => at,
        false => best,
    })
}

/// Whether so many measurements in a row brought nothing: a function of what was measured alone, so
/// that a run that goes on decides as one that was never stopped.
pub(crate) fn is_over(history: &[Progress], train: &Train) -> bool {
    let Some(patience) = train.early_stopping_patience else {
        return false;
    };
    let threshold = train.early_stopping_threshold.unwrap_or(0.0);
    let mut least = f64::INFINITY;
    let mut waited = 0;
    for loss in history.iter().filter_map(|at| at.val_loss) {
        if loss < least - threshold {
            (least, waited) = (loss, 0);
        } else {
            waited += 1;
        }
        if waited >= patience {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step for each, with or without a measurement.
    fn history(losses: &[Option<f64>]) -> Vec<Progress> {
        let steps = losses.iter().enumerate();
        let steps = steps.map(|(nth, &val_loss)| Progress {
            step: nth + 1,
            steps: losses.len(),
            loss: 1.0,
            val_loss,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens: 1,
            tokens_per_second: 1.0,
            of_teacher: false,
        });
        steps.collect()
    }

    #[test]
    fn the_best_is_the_first_of_the_least() {
        let measured = history(&[Some(3.0), None, Some(1.0), Some(1.0), Some(2.0)]);
        let found = best(&measured).unwrap();
        assert_eq!((found.step, found.val_loss), (3, 1.0));
        assert_eq!(best(&history(&[None])), None);
    }

    #[test]
    fn patience_counts_measurements_without_a_new_least() {
        let train = |patience, threshold| Train {
            early_stopping_patience: patience,
            early_stopping_threshold: threshold,
            ..Train::default()
        };
        let measured = history(&[Some(3.0), None, Some(2.0), Some(2.5), None, Some(1.95)]);
        assert!(!is_over(&measured, &train(None, None)));
        assert!(is_over(&measured, &train(Some(1), None)));
        assert!(!is_over(&measured, &train(Some(2), None)));
        // The last one is not less by a tenth.
        assert!(is_over(&measured, &train(Some(2), Some(0.1))));
        assert!(!is_over(&measured[..4], &train(Some(2), Some(0.1))));
    }
}
