//! How much of a full fine-tune's gain over the base model another fine-tune keeps, over tasks,
//! with its interval.
//!
//! Recovery is `(m - base) / (full - base)`; a score that is the better the lower it is gives the
//! same fraction, since both differences turn their sign. The interval is a paired bootstrap: a
//! resample draws examples, the same ones for every model of a task, and seeds. Source: Koehn,
//! "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004; Efron and
//! Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).

use crate::{measure::Measure, metrics::split_mix};

const RESAMPLES: usize = 4_000;

/// What one model scored: the figures of each example (see [`Measure`]), in the task's order.
pub type Figures = Vec<Vec<f64>>;

/// One task's models. All have the same examples in the same order.
pub struct TaskRuns {
    pub task: String,
    pub measure: Measure,
    pub base: Figures,
    pub seeds: Vec<SeedRuns>,
}

/// The runs of one seed.
pub struct SeedRuns {
    pub full: Figures,
    /// The other models in an order that every task and seed keeps; `None` where one was not run.
    pub models: Vec<Option<Figures>>,
}

/// A value and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Interval {
    fn of(value: f64, mut drawn: Vec<f64>) -> Self {
        drawn.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| drawn[((drawn.len() - 1) as f64 * share).round() as usize];
        Self {
            value,
            low: at(0.025),
            high: at(0.975),
        }
    }

    /// Whether 0 lies outside of it.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// One task's resamples.
struct Drawn {
    gain: Interval,
    /// Base, full fine-tune.
    ends: [f64; 2],
    models: Vec<Option<Recovered>>,
}

/// One model's: its score, and its recovery on all examples and in every resample.
struct Recovered {
    /// The seeds that have it.
    seeds: Vec<usize>,
    score: f64,
    recovery: f64,
    resamples: Vec<f64>,
}

/// Recoveries of every model on every task, from one set of resamples, so that differences between
/// models are paired too.
pub struct Recoveries {
    tasks: Vec<Drawn>,
}

impl Recoveries {
    /// Resamples every task. Every task has a seed, and all of its models the same
    /// examples.
    ///
    /// # Panics
    /// Where a task has no seed, or its models have other numbers of examples.
    pub fn new(tasks: &[TaskRuns]) -> Self {
        Self {
            tasks: tasks.iter().map(Drawn::of).collect(),
        }
    }

    /// Full fine-tune minus base on a task, positive where the full one is better.
    pub fn gain(&self, task: usize) -> Interval {
        self.tasks[task].gain
    }

    /// Scores of the base model and the full fine-tune, over seeds.
    pub fn ends(&self, task: usize) -> [f64; 2] {
        self.tasks[task].ends
    }

    /// Score of a model over its seeds; `None` where it was not run.
    pub fn score(&self, task: usize, model: usize) -> Option<f64> {
        Some(self.tasks[task].models[model].as_ref()?.score)
    }

    pub fn recovery(&self, task: usize, model: usize) -> Option<Interval> {
        self.mean(&[task], |drawn| drawn.recovery(model))
    }

    /// How much more `model` recovers than `other`, on one task; `None` where they were run with
    /// other seeds, too.
    pub fn ahead(&self, task: usize, model: usize, other: usize) -> Option<Interval> {
        self.mean(&[task], |drawn| drawn.ahead(model, other))
    }

    /// The tasks that a pooled figure is over: the full fine-tune is better than the base beyond
    /// doubt, and each of `models` was run.
    pub fn pooled_over(&self, models: &[usize]) -> Vec<usize> {
        let counts = |drawn: &Drawn| {
            drawn.gain.low > 0.0 && models.iter().all(|&model| drawn.models[model].is_some())
        };
        (0..self.tasks.len())
            .filter(|&nth| counts(&self.tasks[nth]))
            .collect()
    }

    /// Mean recovery of a model over [`Recoveries::pooled_over`]; `None` over no task.
    pub fn pooled(&self, model: usize) -> Option<Interval> {
        self.mean(&self.pooled_over(&[model]), |drawn| drawn.recovery(model))
    }

    /// How much more `model` recovers than `other`, over the tasks that both count on.
    pub fn pooled_ahead(&self, model: usize, other: usize) -> Option<Interval> {
        self.mean(&self.pooled_over(&[model, other]), |drawn| {
            drawn.ahead(model, other)
        })
    }

    fn mean(
        &self,
        tasks: &[usize],
        of: impl Fn(&Drawn) -> Option<(f64, Vec<f64>)>,
    ) -> Option<Interval> {
        let parts = tasks.iter().map(|&nth| of(&self.tasks[nth]));
        let parts: Vec<(f64, Vec<f64>)> = parts.collect::<Option<_>>()?;
        if parts.is_empty() {
            return None;
        }
        let count = parts.len() as f64;
        let value = parts.iter().map(|(value, _)| value).sum::<f64>() / count;
        let resample = |nth| parts.iter().map(|(_, drawn)| drawn[nth]).sum::<f64>() / count;
        Some(Interval::of(value, (0..RESAMPLES).map(resample).collect()))
    }
}

impl Drawn {
    fn recovery(&self, model: usize) -> Option<(f64, Vec<f64>)> {
        let model = self.models[model].as_ref()?;
        Some((model.recovery, model.resamples.clone()))
    }

    fn ahead(&self, model: usize, other: usize) -> Option<(f64, Vec<f64>)> {
        let (ours, drawn) = self.recovery(model)?;
        let theirs = self.models[other].as_ref()?;
        if self.models[model].as_ref()?.seeds != theirs.seeds {
            return None;
        }
        let drawn = drawn.iter().zip(&theirs.resamples);
        let drawn = drawn.map(|(ours, theirs)| ours - theirs).collect();
        Some((ours - theirs.recovery, drawn))
    }

    fn of(runs: &TaskRuns) -> Self {
        let rows = runs.base.len();
        let whole: Vec<usize> = (0..rows).collect();
        let seeds: Vec<usize> = (0..runs.seeds.len()).collect();
        assert!(rows > 0 && !seeds.is_empty(), "a task without runs");
        let picked = resamples(rows, seeds.len());
        let up = if runs.measure.higher_is_better() {
            1.0
        } else {
            -1.0
        };
        let base = score(runs.measure, &runs.base, &whole);
        let bases: Vec<f64> = picked
            .iter()
            .map(|(rows, _)| score(runs.measure, &runs.base, rows))
            .collect();
        let fulls = |rows: &[usize], seeds: &[usize]| {
            mean_of(seeds, |seed| {
                Some(score(runs.measure, &runs.seeds[seed].full, rows))
            })
        };
        let gained = picked.iter().zip(&bases);
        let gained = gained.map(|((rows, draws), base)| {
            up * (fulls(rows, &of_draws(draws, &seeds)).unwrap_or(f64::NAN) - base)
        });
        let full = fulls(&whole, &seeds).unwrap_or(f64::NAN);
        let models = runs.seeds.first().map_or(0, |seed| seed.models.len());
        Self {
            gain: Interval::of(up * (full - base), gained.collect()),
            ends: [base, full],
            models: (0..models)
                .map(|model| Recovered::of(runs, model, &picked, &bases))
                .collect(),
        }
    }
}

impl Recovered {
    /// `None` where no seed has the model. Full fine-tunes of seeds without it are left out, so
    /// that both sides of the fraction are of the same seeds.
    fn of(runs: &TaskRuns, model: usize, picked: &[Picked], bases: &[f64]) -> Option<Self> {
        let has = |seed: usize| runs.seeds[seed].models[model].is_some();
        let scores = |rows: &[usize], seeds: &[usize]| {
            let some = |seed: usize| runs.seeds[seed].models[model].as_ref();
            let with = |seed: &usize| some(*seed).is_some();
            let seeds: Vec<usize> = seeds.iter().copied().filter(with).collect();
            let ours = mean_of(&seeds, |seed| Some(score(runs.measure, some(seed)?, rows)));
            let full = mean_of(&seeds, |seed| {
                Some(score(runs.measure, &runs.seeds[seed].full, rows))
            });
            ours.zip(full)
        };
        let rows: Vec<usize> = (0..runs.base.len()).collect();
        let seeds: Vec<usize> = (0..runs.seeds.len()).collect();
        let (ours, full) = scores(&rows, &seeds)?;
        let base = score(runs.measure, &runs.base, &rows);
        let recovery = (ours - base) / (full - base);
        // Drawn among the seeds that have the model, as many as there are.
        let some: Vec<usize> = seeds.iter().copied().filter(|&seed| has(seed)).collect();
        let resamples = picked.iter().zip(bases).map(|((rows, draws), base)| {
            let drawn = of_draws(&draws[..some.len()], &some);
            let (ours, full) = scores(rows, &drawn).unwrap_or((f64::NAN, f64::NAN));
            (ours - base) / (full - base)
        });
        Some(Self {
            resamples: resamples.collect(),
            seeds: some,
            score: ours,
            recovery,
        })
    }
}

/// The examples of a resample, and a number for each seed to draw.
type Picked = (Vec<usize>, Vec<u64>);

/// Every resample, with repetition; the same ones for equal counts.
fn resamples(rows: usize, seeds: usize) -> Vec<Picked> {
    let mut state = 0x7265_636F_7665_7279u64;
    let mut resample = || {
        let mut draws =
            |count: usize| -> Vec<u64> { (0..count).map(|_| split_mix(&mut state)).collect() };
        let picked = draws(rows)
            .into_iter()
            .map(|draw| (draw % rows as u64) as usize);
        (picked.collect(), draws(seeds))
    };
    (0..RESAMPLES).map(|_| resample()).collect()
}

/// What draws take of some seeds.
fn of_draws(draws: &[u64], seeds: &[usize]) -> Vec<usize> {
    let count = seeds.len() as u64;
    draws
        .iter()
        .map(|draw| seeds[(draw % count) as usize])
        .collect()
}

fn score(measure: Measure, figures: &Figures, rows: &[usize]) -> f64 {
    let figures: Vec<&[f64]> = figures.iter().map(Vec::as_slice).collect();
    measure.score_of(&figures, rows.iter().copied())
}

fn mean_of(seeds: &[usize], of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    let some: Vec<f64> = seeds.iter().filter_map(|&seed| of(seed)).collect();
    (!some.is_empty()).then(|| some.iter().sum::<f64>() / some.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that is right on the first `right` of 400 examples.
    fn right(right: usize) -> Figures {
        (0..400)
            .map(|nth| vec![f64::from(u8::from(nth < right)), 1.0])
            .collect()
    }

    fn runs(measure: Measure, base: Figures, seeds: Vec<SeedRuns>) -> TaskRuns {
        TaskRuns {
            task: "task".into(),
            measure,
            base,
            seeds,
        }
    }

    fn seed(full: usize, models: &[Option<usize>]) -> SeedRuns {
        SeedRuns {
            full: right(full),
            models: models.iter().map(|model| model.map(right)).collect(),
        }
    }

    #[test]
    fn recovery_is_the_share_of_the_gain() {
        let task = runs(
            Measure::Acc,
            right(200),
            vec![seed(300, &[Some(290), Some(250), None])],
        );
        let recoveries = Recoveries::new(&[task]);
        let of = |model| recoveries.recovery(0, model);
        assert!((of(0).unwrap().value - 0.9).abs() < 1e-9);
        assert!((of(1).unwrap().value - 0.5).abs() < 1e-9);
        assert_eq!(of(2), None);
        assert!((recoveries.gain(0).value - 0.25).abs() < 1e-9);
        assert_eq!(recoveries.ends(0), [0.5, 0.75]);
        assert_eq!(recoveries.score(0, 0), Some(0.725));
        // Of the 100 examples that the full one gains, the second model has 50: a binomial share,
        // whose standard error is 0.05, within the resamples' own noise.
        let interval = of(1).unwrap();
        assert!((0.38..0.43).contains(&interval.low), "{interval:?}");
        assert!((0.57..0.62).contains(&interval.high), "{interval:?}");
    }

    #[test]
    fn losses_recover_with_their_sign_turned() {
        let nats = |nats: f64| vec![vec![nats, 1.0]; 50];
        let task = runs(
            Measure::NatsPerToken,
            nats(3.0),
            vec![SeedRuns {
                full: nats(2.0),
                models: vec![Some(nats(2.25))],
            }],
        );
        let recoveries = Recoveries::new(&[task]);
        assert_eq!(recoveries.gain(0).value, 1.0);
        let recovery = recoveries.recovery(0, 0).unwrap();
        assert_eq!(
            (recovery.value, recovery.low, recovery.high),
            (0.75, 0.75, 0.75)
        );
    }

    #[test]
    fn pairing_makes_a_difference_of_models_narrower_than_each() {
        let task = runs(
            Measure::Acc,
            right(200),
            vec![seed(300, &[Some(260), Some(250)])],
        );
        let recoveries = Recoveries::new(&[task]);
        let width = |interval: Interval| interval.high - interval.low;
        let ahead = recoveries.ahead(0, 0, 1).unwrap();
        assert!((ahead.value - 0.1).abs() < 1e-9 && ahead.excludes_zero());
        assert!(width(ahead) < width(recoveries.recovery(0, 0).unwrap()) * 0.8);
    }

    #[test]
    fn a_pool_holds_tasks_of_a_sure_gain_that_were_run() {
        let sure = || {
            runs(
                Measure::Acc,
                right(200),
                vec![seed(300, &[Some(280), Some(270)])],
            )
        };
        let unsure = runs(
            Measure::Acc,
            right(200),
            vec![seed(201, &[Some(400), None])],
        );
        let lacking = runs(
            Measure::Acc,
            right(100),
            vec![seed(300, &[Some(200), None])],
        );
        let recoveries = Recoveries::new(&[sure(), unsure, lacking]);
        assert_eq!(recoveries.pooled_over(&[0]), [0, 2]);
        assert_eq!(recoveries.pooled_over(&[0, 1]), [0]);
        assert!((recoveries.pooled(0).unwrap().value - 0.65).abs() < 1e-9);
        let ahead = recoveries.pooled_ahead(0, 1).unwrap();
        assert!((ahead.value - 0.1).abs() < 1e-9);
        assert_eq!(Recoveries::new(&[]).pooled(0), None);
    }

    #[test]
    fn seeds_are_averaged_and_widen_the_interval() {
        let two = |other| vec![seed(300, &[Some(280)]), seed(300, &[Some(other)])];
        let alike = Recoveries::new(&[runs(Measure::Acc, right(200), two(280))]);
        let apart = Recoveries::new(&[runs(Measure::Acc, right(200), two(220))]);
        let width = |of: &Recoveries| {
            let recovery = of.recovery(0, 0).unwrap();
            recovery.high - recovery.low
        };
        assert!((apart.recovery(0, 0).unwrap().value - 0.5).abs() < 1e-9);
        assert!(width(&apart) > 2.0 * width(&alike));
        // A seed without the model takes no part in its fraction.
        let half = vec![seed(300, &[Some(280)]), seed(400, &[None])];
        let half = Recoveries::new(&[runs(Measure::Acc, right(200), half)]);
        assert!((half.recovery(0, 0).unwrap().value - 0.8).abs() < 1e-9);
        // Its interval is that of the one seed alone.
        let alone = vec![seed(300, &[Some(280)])];
        let alone = Recoveries::new(&[runs(Measure::Acc, right(200), alone)]);
        assert!(
            width(&half) > 0.9 * width(&alone),
            "{} {}",
            width(&half),
            width(&alone)
        );
        let other = vec![
            seed(300, &[Some(280), None]),
            seed(300, &[Some(270), Some(270)]),
        ];
        let other = Recoveries::new(&[runs(Measure::Acc, right(200), other)]);
        assert_eq!(other.ahead(0, 0, 1), None);
    }
}
