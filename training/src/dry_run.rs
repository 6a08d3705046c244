//! Time and memory that a run will take, from a few trial batches: `marill train --dry-run`.

use std::time::Instant;

use marill_model::Transforms;
use marill_recipe::Recipe;
use serde::Serialize;

use crate::{Estimate, HeadError, TrainError, TrainOptions, output::DataNotes, trainer::Run};

/// Tokens of a trial micro-batch.
const TRIAL_TOKENS: usize = 256;
/// The same before a run, which is not tried where it has fewer than so many times as many tokens.
const QUICK_TOKENS: usize = 128;
const SHORT_RUN: usize = 16;
/// A first trial that takes longer is the only one.
const LONG_SECONDS: f64 = 4.0;
/// Rows on which the beginning of a run is tried where it reads data.
const INIT_ROWS: usize = 8;

/// What a run will need and how long it will take on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct DryRun {
    pub estimate: Estimate,
    /// What would become of the architecture.
    #[serde(skip)]
    pub transforms: Transforms,
    /// What was measured of each private layer's heads; empty where nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadError>,
    /// Whether the run would keep one layer's graph at a time.
    pub gradient_checkpointing: bool,
    /// The peak of the training process, without the export behind it.
    pub memory_bytes: usize,
    pub data: DataNotes,
    /// Training alone, from a trial of the real kernels on a few rows.
    pub seconds: f64,
    pub tokens_per_second: f64,
    /// A token whose frozen part is not cached yet, and one whose is.
    pub seconds_a_new_token: f64,
    pub seconds_a_cached_token: f64,
}

/// Loads model and data, tries a few rows, and writes nothing.
///
/// # Errors
/// As [`crate::train`].
pub fn dry_run(recipe: &Recipe, options: &TrainOptions) -> Result<DryRun, TrainError> {
    let started = Instant::now();
    // What is on the disk already would hide the cost of a new row.
    let options = TrainOptions {
        cache_dir: None,
        ..options.clone()
    };
    let mut run = Run::new(recipe, &options)?;
    run.check_measured()?;
    let loading = started.elapsed().as_secs_f64();
    let (fresh, cached) = run.trial(TRIAL_TOKENS, LONG_SECONDS)?;
    let init = run.trial_init()?;
    let estimate = run.estimate.clone();
    let seconds = loading + init + seconds_of(&estimate, fresh, cached);
    Ok(DryRun {
        gradient_checkpointing: run.in_blocks,
        memory_bytes: estimate.memory_bytes(run.in_blocks),
        data: run.samples.notes,
        transforms: run.transforms,
        heads: run.head_errors,
        seconds,
        tokens_per_second: estimate.tokens as f64 / seconds.max(1e-9),
        seconds_a_new_token: fresh,
        seconds_a_cached_token: cached,
        estimate,
    })
}

/// Seconds of all steps, of those of a token that is new to the cache and of one that is not.
fn seconds_of(estimate: &Estimate, fresh: f64, cached: f64) -> f64 {
    let first_pass = estimate.distinct_tokens;
    first_pass as f64 * fresh
        + estimate.tokens.saturating_sub(first_pass) as f64 * cached
        // Forward only is about a third of forward and backward.
        + estimate.validation_tokens as f64 * cached / 3.0
}

impl Run<'_> {
    /// Seconds of the steps that are left behind `done`, from a trial that is short beside them;
    /// none where no trial would be.
    pub(crate) fn seconds_left(&mut self, done: usize) -> Result<Option<f64>, TrainError> {
        let share = 1.0 - done as f64 / self.plan.len().max(1) as f64;
        if self.estimate.tokens as f64 * share < (SHORT_RUN * QUICK_TOKENS) as f64 {
            return Ok(None);
        }
        let (fresh, cached) = self.trial(QUICK_TOKENS, 1.0)?;
        Ok(Some(share * seconds_of(&self.estimate, fresh, cached)))
    }

    /// Seconds of a token that is new to the cache, and of one that is not. Nothing is learned.
    fn trial(&mut self, tokens: usize, long_seconds: f64) -> Result<(f64, f64), TrainError> {
        let mut order = self.plan.samples_from(0).take(self.plan.rows());
        let mut batches = [Vec::new(), Vec::new()];
        for batch in &mut batches {
            let mut count = 0;
            while count < tokens
                && let Some(row) = order.next()
            {
                count += self.samples.train[row].tokens.len();
                batch.push(row);
            }
        }
        drop(order);
        let [first, second] = batches;
        // The first one also pays for memory that the later ones find in place.
        let cold = self.timed(&first)?;
        let second = if cold.0 > long_seconds || second.is_empty() {
            first
        } else {
            second
        };
        let fresh = if cold.0 > long_seconds {
            cold
        } else {
            self.timed(&second)?
        };
        let cached = if cold.0 > long_seconds {
            fresh
        } else {
            self.timed(&second)?
        };
        self.params.clear();
        Ok((fresh.0 / fresh.1 as f64, cached.0 / cached.1 as f64))
    }

    /// Seconds that factors from data will take, if the run has such.
    fn trial_init(&mut self) -> Result<f64, TrainError> {
        let rows = self.init_rows();
        let tried = rows.min(INIT_ROWS);
        if tried == 0 {
            return Ok(0.0);
        }
        let seconds = self.init_from_data(tried)?;
        Ok(seconds.reading * rows as f64 / tried as f64 + seconds.solving)
    }

    fn timed(&mut self, batch: &[usize]) -> Result<(f64, usize), TrainError> {
        let rows = batch.iter().map(|&i| &self.samples.train[i]);
        let (targets, tokens) = rows.fold((0, 0), |(t, n), row| {
            (t + row.targets().count(), n + row.tokens.len())
        });
        let started = Instant::now();
        self.micro_batch(1, 0, batch, (targets, tokens))?;
        Ok((started.elapsed().as_secs_f64(), tokens))
    }
}
