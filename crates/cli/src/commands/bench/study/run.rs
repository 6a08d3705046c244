//! Runs the cells of a plan that were not run yet.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use marill_evals::{Scope, Task};
use marill_recipe::{Recipe, locate};
use marill_training::TrainOptions;
use sha2::{Digest, Sha256};

use super::{
    cell::{Cell, Key, Purpose, Scored, Trained},
    plan::{Arm, Plan, TaskPlan},
};
use crate::{
    args::model_dir::Model,
    commands::{
        eval::{EngineKind, Engines},
        train::train_and_export,
    },
    output::{failure::BadInput, progress::Progress},
};

/// The name under which the base model's cells stand.
pub const BASE: &str = "base";

/// An experiment on this machine: its plan, the cells, and where models lie meanwhile.
pub struct Study {
    pub plan: Plan,
    /// One JSON file a cell.
    pub cells: PathBuf,
    /// Runs, with their models; may be removed at any time.
    pub runs: PathBuf,
    pub cache: Option<PathBuf>,
    pub quiet: bool,
    program_sha256: String,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub run: usize,
    /// Cells that the time was too short for.
    pub left: usize,
}

impl Study {
    /// # Errors
    /// This program's own file cannot be read.
    pub fn new(plan: Plan, cells: PathBuf, runs: PathBuf, quiet: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let program = std::fs::read(program).context("cannot read this program's file")?;
        Ok(Self {
            plan,
            cells,
            runs,
            cache: None,
            quiet,
            program_sha256: marill_numeric::hex(&Sha256::digest(program)),
        })
    }

    /// Runs what is missing, in the plan's order: rates first, the first seed of every task before
    /// the second of any.
    ///
    /// # Errors
    /// [`BadInput`] for recipe, data and model; cells that were run before it stay.
    pub fn run(&self, minutes: Option<u64>) -> anyhow::Result<Done> {
        let until = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let mut done = Done::default();
        for step in self.steps()? {
            if until.is_some_and(|until| Instant::now() >= until) {
                done.left += usize::from(!self.is_done(&step)?);
                continue;
            }
            done.run += usize::from(self.step(&step)?);
        }
        Ok(done)
    }

    /// Everything that the plan asks for, in order.
    pub fn steps(&self) -> anyhow::Result<Vec<Step<'_>>> {
        let mut steps = Vec::new();
        let plan = &self.plan;
        for task in plan.tasks.iter().filter(|task| task.rates_of.is_none()) {
            for rates in &plan.rates {
                let arm = plan.arm(task, &rates.arm)?;
                let of = |&rate: &f64| Step::Rate { task, arm, rate };
                steps.extend(rates.values.iter().map(of));
            }
        }
        let most = plan.tasks.iter().map(|task| task.seeds.len()).max();
        for nth in 0..most.unwrap_or(0) {
            for task in &plan.tasks {
                let Some(&seed) = task.seeds.get(nth) else {
                    continue;
                };
                if nth == 0 {
                    steps.extend(task.shots.iter().map(|&shots| Step::Base { task, shots }));
                }
                let of = |arm| Step::Score { task, arm, seed };
                steps.extend(plan.arms_of(task).map(of));
            }
        }
        Ok(steps)
    }

    fn is_done(&self, step: &Step<'_>) -> anyhow::Result<bool> {
        // Without its rates a cell has no name yet, and was not run.
        Ok(match self.key(step)? {
            Some((key, _)) => Cell::read(&self.cells, &key)?.is_some(),
            None => false,
        })
    }

    /// Whether an arm was run with every seed of the first task.
    ///
    /// # Errors
    /// A damaged cell; data that are not there.
    pub fn has_all_seeds(&self, arm: usize) -> anyhow::Result<bool> {
        let task = &self.plan.tasks[0];
        let arm = &self.plan.arms[arm];
        for &seed in &task.seeds {
            if !self.is_done(&Step::Score { task, arm, seed })? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The cell of a step, where it was run.
    ///
    /// # Errors
    /// A damaged cell; data that are not there.
    pub fn cell(&self, step: &Step<'_>) -> anyhow::Result<Option<Cell>> {
        match self.key(step)? {
            Some((key, _)) => Cell::read(&self.cells, &key),
            None => Ok(None),
        }
    }

    /// What decides a step, and its recipe; `None` while the rate is not chosen.
    fn key(&self, step: &Step<'_>) -> anyhow::Result<Option<(Key, Recipe)>> {
        let plan = &self.plan;
        let task = step.task();
        let first = &plan.arms[0];
        let named = |recipe: &Recipe, purpose| Key::new(&task.name, recipe, purpose);
        Ok(Some(match *step {
            Step::Rate { arm, rate, .. } => {
                let seed = task.seeds[0];
                let recipe = plan.recipe(task, arm, plan.rate_tokens, Some(rate), seed)?;
                let key = Key {
                    seed: Some(seed),
                    rate: Some(rate),
                    ..named(&recipe, Purpose::Rate)?
                };
                (key, recipe)
            }
            Step::Base { shots, .. } => {
                let recipe = plan.recipe(task, first, plan.tokens, None, 0)?;
                let key = Key {
                    tokens: None,
                    rows: task.rows,
                    max_new_tokens: task.max_new_tokens,
                    shots,
                    ..named(&recipe, Purpose::Base)?
                };
                (key, recipe)
            }
            Step::Score { arm, seed, .. } => {
                let Some(rate) = self.rate(task, arm)? else {
                    return Ok(None);
                };
                let recipe = plan.recipe(task, arm, plan.tokens, Some(rate), seed)?;
                let teacher = match &arm.teacher {
                    None => None,
                    Some(name) => {
                        let arm = plan.arm(task, name)?;
                        let Some((key, _)) = self.key(&Step::Score { task, arm, seed })? else {
                            return Ok(None);
                        };
                        Some(key.name())
                    }
                };
                let key = Key {
                    seed: Some(seed),
                    rate: Some(rate),
                    rows: task.rows,
                    max_new_tokens: task.max_new_tokens,
                    teacher,
                    ..named(&recipe, Purpose::Score)?
                };
                (key, recipe)
            }
        }))
    }

    /// The rate of an arm on a task: of the lowest loss in the short runs. `None` while one of
    /// those is missing.
    ///
    /// # Errors
    /// A damaged cell, or one without a loss.
    pub fn rate(&self, task: &TaskPlan, arm: &Arm) -> anyhow::Result<Option<f64>> {
        let task = self.plan.rate_task(task);
        let rates = self.plan.rates_named(&arm.rates)?;
        let arm = self.plan.arm(task, &rates.arm)?;
        let mut best: Option<(f64, f64)> = None;
        for &rate in &rates.values {
            let Some(cell) = self.cell(&Step::Rate { task, arm, rate })? else {
                return Ok(None);
            };
            let loss = cell.train.and_then(|trained| trained.val_loss);
            let loss = loss.with_context(|| format!("cell `{}` has no loss", cell.key.name()))?;
            if best.is_none_or(|(least, _)| loss < least) {
                best = Some((loss, rate));
            }
        }
        Ok(best.map(|(_, rate)| rate))
    }

    /// Runs a step that was not run yet; whether it was.
    fn step(&self, step: &Step<'_>) -> anyhow::Result<bool> {
        let found = self.key(step)?;
        let (key, recipe) = found.context("a rate was to be chosen and no short run is there")?;
        if Cell::read(&self.cells, &key)?.is_some() {
            return Ok(false);
        }
        let started = Instant::now();
        eprintln!("{step} ({})", key.name());
        let (train, score) = match step {
            Step::Rate { .. } => {
                let trained = self.train(&key, &recipe, None)?;
                self.forget(&key)?;
                (Some(trained), None)
            }
            Step::Base { task, shots } => {
                let name = recipe.model.base_model.clone().unwrap_or_default();
                let path = locate(&name, Path::new(".")).map_err(|e| BadInput(e.into()))?;
                (None, Some(self.score(task, &recipe, &path, *shots)?))
            }
            Step::Score { task, arm, seed } => {
                let teacher = self.teacher(task, arm, *seed)?;
                let trained = self.train(&key, &recipe, teacher)?;
                let score = self.score(task, &recipe, &self.runs.join(key.name()), 0)?;
                (Some(trained), Some(score))
            }
        };
        let cell = Cell {
            key,
            train,
            score,
            seconds: started.elapsed().as_secs_f64(),
            program_sha256: self.program_sha256.clone(),
        };
        cell.write(&self.cells)?;
        Ok(true)
    }

    /// Removes a run that nobody asks for again.
    fn forget(&self, key: &Key) -> anyhow::Result<()> {
        let dir = self.runs.join(key.name());
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove `{}`", dir.display()))
    }

    /// The model of the run that teaches an arm, trained again where it was removed.
    fn teacher(&self, task: &TaskPlan, arm: &Arm, seed: u64) -> anyhow::Result<Option<PathBuf>> {
        let Some(name) = &arm.teacher else {
            return Ok(None);
        };
        let arm = self.plan.arm(task, name)?;
        let found = self.key(&Step::Score { task, arm, seed })?;
        let (key, recipe) = found.context("the teacher's rate is not chosen")?;
        let model = self.runs.join(key.name()).join("model");
        if !model.join("config.json").is_file() {
            eprintln!("the teacher {} is trained again", key.name());
            self.train(&key, &recipe, None)?;
        }
        Ok(Some(model))
    }

    fn train(
        &self,
        key: &Key,
        recipe: &Recipe,
        teacher: Option<PathBuf>,
    ) -> anyhow::Result<Trained> {
        let mut recipe = recipe.clone();
        let dir = self.runs.join(key.name());
        recipe.output.dir = dir.display().to_string();
        let options = TrainOptions {
            teacher,
            cache_dir: self.cache.clone(),
            resume: dir.join("checkpoints").is_dir(),
            ..TrainOptions::default()
        };
        let (report, _) = train_and_export(&recipe, &options, self.quiet)?;
        // Four times the size of the model, and of no use once the run is done.
        let checkpoints = dir.join("checkpoints");
        std::fs::remove_dir_all(&checkpoints)
            .with_context(|| format!("cannot remove `{}`", checkpoints.display()))?;
        Ok(Trained {
            tokens: report.tokens,
            steps: report.steps,
            final_loss: report.final_loss,
            val_loss: report.val_loss,
            trained_parameters: report.trained_parameters,
            seconds: report.seconds,
        })
    }

    fn score(
        &self,
        plan: &TaskPlan,
        recipe: &Recipe,
        path: &Path,
        shots: usize,
    ) -> anyhow::Result<Scored> {
        let mut task = Task::find(&plan.name).map_err(|e| BadInput(e.into()))?;
        task.format_as(&recipe.dataset);
        task.max_new_tokens = plan.max_new_tokens.unwrap_or(task.max_new_tokens);
        let model = Model::open(path)?;
        let examples = task.examples(None, None).map_err(|e| BadInput(e.into()))?;
        let checks = task.checks(None).map_err(|e| BadInput(e.into()))?;
        let scope = Scope {
            limit: Some(plan.rows),
            few_shot: shots,
            checks: &checks,
            ..Scope::default()
        };
        let mut progress = Progress::new(&task.name, self.quiet);
        let mut engines =
            Engines::new(&model, EngineKind::Float).map_err(|e| BadInput(e.into()))?;
        let report = engines.run(&model, &task, &examples, scope, &mut |done, all| {
            progress.set(done, all, "")
        });
        progress.finish();
        Scored::of(&report.map_err(|e| BadInput(e.into()))?)
    }
}

/// One cell of a plan.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    /// A short run for its loss.
    Rate {
        task: &'a TaskPlan,
        arm: &'a Arm,
        rate: f64,
    },
    /// The base model as it is.
    Base { task: &'a TaskPlan, shots: usize },
    /// A run that is scored.
    Score {
        task: &'a TaskPlan,
        arm: &'a Arm,
        seed: u64,
    },
}

impl<'a> Step<'a> {
    fn task(&self) -> &'a TaskPlan {
        match self {
            Self::Rate { task, .. } | Self::Base { task, .. } | Self::Score { task, .. } => task,
        }
    }
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate { task, arm, rate } => {
                write!(f, "{} {} at rate {rate:e}", task.name, arm.name)
            }
            Self::Base { task, shots } => {
                write!(f, "{} {BASE} with {shots} examples", task.name)
            }
            Self::Score { task, arm, seed } => {
                write!(f, "{} {} of seed {seed}", task.name, arm.name)
            }
        }
    }
}
