//! The training loop: a recipe becomes a run, its steps, checkpoints and output folder.

mod checkpoints;

use std::{path::PathBuf, sync::atomic::Ordering, time::Instant};

use candle_core::Tensor;
use marill_model::{
    Adapter, Checkpoint, Llama, ModelConfig, TensorDtype, Transforms,
    ops::{Dropout, FakeQuant},
};
use marill_numeric::NumericSpec;
use marill_recipe::{Checkpointing, Init, Recipe, RecipeError, locate};

use self::checkpoints::not_written;
use crate::{
    Rng, TrainError,
    activations::Activations,
    batches::{Plan, Step},
    best::{best, is_over},
    distill::{Distillation, Said},
    estimate::{Estimate, peak_memory_bytes},
    heads,
    init_from::InitFrom,
    objective::{Pass, stage_of},
    optimizer::{learning_rate, warmup_steps},
    options::TrainOptions,
    output::{self, HeadError, Progress, Summary, Told, TrainReport},
    params::Params,
    record::Record,
    samples::{self, Samples},
    scratch, state,
    transforms::transforms_with,
};

/// A run whose teacher, if it has one, is there.
///
/// # Errors
/// As [`crate::train`].
pub(crate) fn train_alone(
    recipe: &Recipe,
    options: &TrainOptions,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<TrainReport, TrainError> {
    let started = Instant::now();
    let mut run = Run::new(recipe, options)?;
    run.estimate.fits(run.in_blocks)?;
    run.check_measured()?;
    std::fs::create_dir_all(&run.dir).map_err(TrainError::io(&run.dir))?;
    // Held until the run ends, however it ends.
    let _alone = state::lock(&run.dir)?;
    run.find_checkpoint()?;
    tell(Told::Begin(&run.summary()?));
    // A checkpoint has its factors.
    let init_rows = run.init_rows();
    if run.history.is_empty() && init_rows > 0 {
        run.init_from_data(init_rows)?;
    }
    if run.history.is_empty()
        && let Some(other) = &run.init_from
    {
        other.put_into(&mut run.params)?;
    }
    let resolved = run.dir.join("recipe.toml");
    let text = output::resolved(recipe, &options.recipe_dir).to_toml();
    std::fs::write(&resolved, text).map_err(TrainError::io(&resolved))?;
    run.steps(tell, started)?;
    run.finish(started)
}

/// The checkpoint that a recipe starts from.
pub(crate) fn base_model(
    recipe: &Recipe,
    options: &TrainOptions,
) -> Result<Checkpoint, TrainError> {
    let dir = &options.recipe_dir;
    if recipe.model.init == Init::Random {
        return scratch::checkpoint(recipe, dir);
    }
    if let Some(path) = &options.base {
        return Ok(Checkpoint::open_ignoring(path, &recipe.model.ignore)?);
    }
    let name = recipe.model.base_model.as_deref().unwrap_or_default();
    let path = locate(name, dir).map_err(|e| match e {
        RecipeError::NotFound { path, looked_in } => TrainError::NoModel {
            name: path,
            looked_in,
        },
        other => other.into(),
    })?;
    Ok(Checkpoint::open_ignoring(&path, &recipe.model.ignore)?)
}

/// The secure program's scales, those of every export.
fn fake_quant() -> FakeQuant {
    FakeQuant::from(&NumericSpec::default())
}

pub(crate) struct Run<'a> {
    pub(crate) recipe: &'a Recipe,
    options: &'a TrainOptions,
    base: Checkpoint,
    pub(crate) transforms: Transforms,
    /// What was measured of the heads.
    pub(crate) head_errors: Vec<HeadError>,
    pub(crate) samples: Samples,
    pub(crate) params: Params,
    pub(crate) decoder: Llama,
    /// The same with frozen weights on the secure program's grid, from the first quantized step on.
    quantized: Option<Llama>,
    pub(crate) plan: Plan,
    pub(crate) activations: Activations,
    validation: Activations,
    distillation: Option<Distillation>,
    /// The adapter that the factors begin with, where the recipe names one.
    init_from: Option<InitFrom>,
    history: Vec<Progress>,
    /// Steps that the resumed run was planned for, where it is another number now, and those that
    /// it had done.
    replanned: Option<[usize; 2]>,
    earlier_seconds: f64,
    dir: PathBuf,
    /// Of the base model, where it was needed.
    base_sha256: Option<String>,
    /// What decides the run; known once it is to be run.
    digest: String,
    /// One layer's graph at a time.
    pub(crate) in_blocks: bool,
    pub(crate) estimate: Estimate,
}

impl<'a> Run<'a> {
    pub(crate) fn new(recipe: &'a Recipe, options: &'a TrainOptions) -> Result<Self, TrainError> {
        let base = base_model(recipe, options)?;
        let samples = samples::load(recipe, &options.recipe_dir, &base)?;
        let known = options.resume.then(|| {
            let checkpoints = PathBuf::from(&recipe.output.dir).join("checkpoints");
            state::measured_heads(&checkpoints)
        });
        let (heads, head_errors) = match known.flatten() {
            Some(known) => (Some(known.transform), known.errors),
            None => heads::choose(recipe, &base, &samples.train)?,
        };
        let transforms = transforms_with(recipe, &base.config, heads)?;
        let params = if transforms.lora.is_some() {
            Params::lora(&base, &transforms, recipe.train.seed)?
        } else {
            Params::full(&base, &transforms, &recipe.freeze)?
        };
        let init_from = InitFrom::read(recipe, &options.recipe_dir, &base, &transforms)?;
        let decoder = params.decoder(&base, &transforms)?;
        let plan = Plan::new(&samples.train, &recipe.train)?;
        heads::check_progress(recipe, plan.len())?;
        let count = samples.train.len();
        let revisits = plan.rows() > count;
        let distillation =
            Distillation::open(recipe, options, &base, &transforms, count, revisits)?;
        let estimate = Estimate::new(&base, &transforms, recipe, &samples, &plan);
        let in_blocks = match recipe.train.gradient_checkpointing {
            Checkpointing::Always => true,
            Checkpointing::Never => false,
            Checkpointing::Auto => estimate.needs_blocks(),
        };
        let mut base_sha256 = None;
        let activations = match &options.cache_dir {
            Some(dir) if transforms.frozen_layers > 0 => {
                let frozen = transforms.frozen_layers;
                let hidden = base.config.hidden_size();
                let digest = base_sha256.insert(base.digest());
                Activations::on_disk(&samples.train, dir, digest, frozen, hidden)
            }
            _ => Activations::new(samples.train.len()),
        };
        let validation = Activations::new(samples.validation.len());
        Ok(Self {
            recipe,
            options,
            base,
            transforms,
            head_errors,
            samples,
            params,
            decoder,
            quantized: None,
            plan,
            activations,
            validation,
            distillation,
            init_from,
            history: Vec::new(),
            replanned: None,
            earlier_seconds: 0.0,
            dir: PathBuf::from(&recipe.output.dir),
            base_sha256,
            digest: String::new(),
            in_blocks,
            estimate,
        })
    }

    /// What is about to be done.
    fn summary(&mut self) -> Result<Summary, TrainError> {
        let steps = self.plan.len();
        let done = self.history.len();
        let seconds = match self.options.estimate_time {
            true => self.seconds_left(done)?,
            false => None,
        };
        Ok(Summary {
            rows: self.samples.train.len(),
            held_out: self.samples.validation.len(),
            layers: self.base.config.num_hidden_layers(),
            frozen_layers: self.transforms.frozen_layers,
            low_rank: self.transforms.lora.is_some(),
            trained_parameters: self.estimate.trained_parameters,
            steps,
            done,
            tokens: self.estimate.tokens,
            warmup_steps: warmup_steps(&self.recipe.optimizer, steps),
            memory_bytes: self.estimate.memory_bytes(self.in_blocks),
            seconds,
            data: self.samples.notes,
            heads: self.head_errors.clone(),
            replanned: self.replanned,
            of_teacher: false,
        })
    }

    fn steps(
        &mut self,
        tell: &mut dyn FnMut(Told<'_>),
        started: Instant,
    ) -> Result<(), TrainError> {
        let total = self.plan.len();
        let tensorboard = self.recipe.output.tensorboard;
        let record = Record::begin(&self.dir, &self.history, tensorboard);
        let mut record = record.map_err(|error| self.not_written(error))?;
        for step in self.history.len() + 1..=total {
            if is_over(&self.history, &self.recipe.train) {
                break;
            }
            let (loss, tokens) = self.step(step)?;
            let norm = self.params.grad_norm();
            if !loss.is_finite() || !norm.is_finite() {
                return Err(self.not_finite(
                    if loss.is_finite() { "gradient" } else { "loss" },
                    step,
                    step - 1,
                ));
            }
            let rate = learning_rate(&self.recipe.optimizer, step, total);
            let clip = (self.recipe.train.max_grad_norm / norm.max(1e-12)).min(1.0);
            self.params
                .update(&self.recipe.optimizer, rate, clip as f32, step)?;

            let val_loss = self.measured(step)?;
            let tokens = self.history.last().map_or(0, |p| p.tokens) + tokens;
            let seconds = self.earlier_seconds + started.elapsed().as_secs_f64();
            let tokens_per_second = tokens as f64 / seconds.max(1e-9);
            self.history.push(Progress {
                step,
                steps: total,
                loss,
                val_loss,
                learning_rate: rate,
                grad_norm: norm,
                tokens,
                tokens_per_second,
                of_teacher: false,
            });
            let at = &self.history[step - 1];
            record.add(at).map_err(|error| self.not_written(error))?;
            tell(Told::Step(at));
            self.keep_best(step)?;
            let is_last = step == total || is_over(&self.history, &self.recipe.train);
            let stop = self
                .options
                .stop
                .as_ref()
                .is_some_and(|s| s.load(Ordering::Relaxed));
            if stop || step % self.recipe.train.checkpoint_steps == 0 || is_last {
                let path = self.save_checkpoint(seconds)?;
                if stop && !is_last {
                    return Err(TrainError::Interrupted {
                        step,
                        checkpoint: path,
                    });
                }
            }
        }
        Ok(())
    }

    /// The validation loss behind a step, where it is due.
    fn measured(&mut self, step: usize) -> Result<Option<f64>, TrainError> {
        let total = self.plan.len();
        let eval = self.recipe.eval.as_ref();
        let due = eval.and_then(|e| e.every_steps).unwrap_or(total);
        if !step.is_multiple_of(due) && step != total {
            return Ok(None);
        }
        let loss = self.validation_loss()?;
        if loss.is_some_and(|loss| !loss.is_finite()) {
            return Err(self.not_finite("validation loss", step, step));
        }
        Ok(loss)
    }

    /// Sums the gradients of a step's micro-batches and returns the mean loss, and the number of
    /// tokens.
    fn step(&mut self, step: usize) -> Result<(f64, usize), TrainError> {
        let Step {
            micro_batches,
            targets,
            tokens,
        } = self.plan.step(&self.samples.train, step);
        let mut loss = 0.0;
        for (nth, batch) in micro_batches.iter().enumerate() {
            loss += self.micro_batch(step, nth, batch, (targets, tokens))?;
        }
        Ok((loss, tokens))
    }

    /// Adds one micro-batch's gradients; `targets` and `tokens` are the whole step's.
    pub(crate) fn micro_batch(
        &mut self,
        step: usize,
        nth: usize,
        batch: &[usize],
        (targets, tokens): (usize, usize),
    ) -> Result<f64, TrainError> {
        let frozen = self.transforms.frozen_layers;
        let samples = &self.samples.train;
        let stage = stage_of(self.recipe.distill.as_ref(), step, self.plan.len());
        let x = self
            .activations
            .boundary(&self.decoder, frozen, samples, batch)?;
        let said = match &mut self.distillation {
            Some(teacher) => teacher.answer(&x, samples, batch, &stage)?,
            None => Said::default(),
        };
        let dropout = self.dropout(step, nth);
        let own_share = self.own_share(step);
        let fake_quant = (step.saturating_add(self.recipe.train.quantize_last_steps)
            > self.plan.len())
        .then(fake_quant);
        let decoder = match (&mut self.quantized, fake_quant) {
            (_, None) => &self.decoder,
            (Some(rounded), Some(_)) => rounded,
            (empty, Some(format)) => empty.insert(self.decoder.quantized(frozen, format)?),
        };
        let pass = Pass {
            decoder,
            frozen,
            samples,
            batch,
            dropout,
            fake_quant,
            own_share,
            stage,
            said,
            targets,
            tokens,
        };
        let loss = pass.backward(x, self.in_blocks, &mut self.params)?;
        self.params.all_reached()?;
        Ok(f64::from(loss))
    }

    /// How much of its own scores a merged head still has in a step (from 1): from all of them down
    /// to none.
    fn own_share(&self, step: usize) -> f32 {
        let share = self.recipe.heads.as_ref().map_or(0.0, |h| h.progressive);
        // A resumed run may have more steps, and has merged its heads by then all the same.
        let planned = self.history.first().map_or(self.plan.len(), |p| p.steps);
        let over = share * planned as f64;
        let gone = (step - 1) as f64;
        if gone >= over {
            0.0
        } else {
            (1.0 - gone / over) as f32
        }
    }

    fn dropout(&self, step: usize, micro_batch: usize) -> Option<Dropout> {
        let rate = self.recipe.lora.as_ref().map_or(0.0, |lora| lora.dropout) as f32;
        let key = || {
            Rng::new(
                self.recipe.train.seed,
                &format!("dropout {step} {micro_batch}"),
            )
            .bits()
        };
        (rate > 0.0).then(|| Dropout { rate, key: key() })
    }

    fn validation_loss(&mut self) -> Result<Option<f64>, TrainError> {
        let samples = &self.samples.validation;
        let count: usize = samples.iter().map(|s| s.targets().count()).sum();
        if count == 0 {
            return Ok(None);
        }
        let order: Vec<usize> = (0..samples.len()).collect();
        let mut loss = 0.0;
        for batch in order.chunks(self.recipe.train.micro_batch_size) {
            let frozen = self.transforms.frozen_layers;
            let x = self
                .validation
                .boundary(&self.decoder, frozen, samples, batch)?;
            let decoder = &self.decoder;
            let stage = stage_of(None, 1, 1);
            let said = Said::default();
            let dropout = None;
            let fake_quant = None;
            let targets = count;
            let tokens = 1;
            let pass = Pass {
                decoder,
                frozen,
                samples,
                batch,
                dropout,
                own_share: 0.0,
                fake_quant,
                stage,
                said,
                targets,
                tokens,
            };
            loss += f64::from(pass.loss(x)?.to_scalar::<f32>()?);
        }
        Ok(Some(loss))
    }

    fn finish(mut self, started: Instant) -> Result<TrainReport, TrainError> {
        let checkpoints = self.checkpoints();
        let kept = best(&self.history).filter(|_| self.recipe.train.keep_best);
        if let Some(best) = kept.filter(|best| best.step < self.history.len()) {
            state::best::load(&checkpoints, &mut self.params, best.step)?;
        }
        self.write_results(started)
            .map_err(|error| not_written(&checkpoints, error))
    }

    fn write_results(self, started: Instant) -> Result<TrainReport, TrainError> {
        let seconds = self.earlier_seconds + started.elapsed().as_secs_f64();
        self.transforms.save(&self.dir.join("transforms.json"))?;
        let tensors = self.params.tensors()?;
        let trained_parameters = tensors.values().map(Tensor::elem_count).sum();
        let mut adapter = None;
        let mut model = None;
        if self.transforms.lora.is_some() {
            let path = self.dir.join("adapter.safetensors");
            Adapter { tensors }.save(&path)?;
            adapter = Some(path);
        } else {
            let path = self.dir.join("model");
            let mut trained = self.base;
            trained.tensors.extend(tensors);
            // Half the size; the base model of later runs is what is written here, not what was in
            // memory.
            let dtype = if self.recipe.model.init == Init::Random {
                TensorDtype::F16
            } else {
                TensorDtype::F32
            };
            trained.save(&path, dtype)?;
            // What an earlier run into this folder left would pass for a part of this one.
            let stale = self.dir.join("adapter.safetensors");
            if stale.exists() {
                std::fs::remove_file(&stale).map_err(TrainError::io(&stale))?;
            }
            model = Some(path);
        }
        output::plot(&self.dir, &self.history)?;
        let tokens = self.history.last().map_or(0, |p| p.tokens);
        let best = best(&self.history);
        let keeps_best = self.recipe.train.keep_best;
        let last = self.history.iter().rev().find_map(|p| p.val_loss);
        let steps = self.history.len();
        Ok(TrainReport {
            output_dir: self.dir,
            adapter,
            model,
            steps,
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            first_loss: self.history.first().map_or(f64::NAN, |p| p.loss),
            final_loss: output::final_loss(&self.history),
            val_loss: match best {
                Some(best) if keeps_best => Some(best.val_loss),
                _ => last,
            },
            trained_parameters,
            data: self.samples.notes,
            heads: self.head_errors,
            replanned: self.replanned,
            best,
            keeps_best,
            ended_early_of: (steps < self.plan.len()).then_some(self.plan.len()),
            cached_rows: self.activations.found,
            cache_note: self.activations.note,
            taught: None,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }
}
