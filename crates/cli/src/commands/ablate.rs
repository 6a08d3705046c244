//! `marill ablate`: each technique of a recipe alone and together, and more or fewer frozen layers:
//! what it keeps of a full fine-tune's gain against what it costs under MPC.

mod arms;
mod costs;
mod report;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use marill_model::{Architecture, ModelConfig};
use marill_plan::Calibration;
use marill_recipe::Recipe;

use self::report::Ablation;
use super::{
    bench::{
        calibrate,
        study::{
            plan::{self, Plan, TaskPlan},
            report::{expectations, scores_of},
            run::Study,
        },
    },
    plan::base_of,
    train::program::shape_of_recipe,
};
use crate::{
    args::{base_model::Search, folders::default_cache},
    output::failure::BadInput,
};

#[derive(clap::Args)]
pub struct Args {
    /// A recipe inside the program (`marill recipes ls`), or a TOML file
    recipe: String,
    /// Rows, tokens, rates and seeds: a plan with a task of this recipe [default: the headline's]
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Seeds of the plan that are run, from the first on
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..),
    )]
    seeds: usize,
    /// Begin no cell after this many minutes; 0 runs none and reports
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Where cells are kept, one JSON file each; those of `bench headline --quality` count
    #[arg(
        long,
        value_name = "DIR",
        default_value = "docs/reports/headline/cells"
    )]
    cells: PathBuf,
    /// Where runs lie with their models meanwhile
    #[arg(long, value_name = "DIR", default_value = "runs/ablate")]
    runs: PathBuf,
    /// Add what this machine computes to the seconds: times made by `marill bench --calibrate`
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Write the quality curve that `marill plan` reads here
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
    /// Write the plot here, as SVG with its figures as CSV beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS", value_parser = clap::builder::FalseyValueParser::new())]
    no_progress: bool,
    #[command(flatten)]
    search: Search,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Runs what is missing and says what is there.
///
/// # Errors
/// [`BadInput`] for recipe, plan, data and model; cells that are done stay.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let given = plan::open(args.plan.as_deref())?;
    let task = task(&given, args)?;
    let calibration = match &args.calibration {
        Some(file) => Some(calibrate::open(Some(file))?),
        None => None,
    };
    let config = config(&given, &task, args.search)?;
    let arms = arms::of(&given, &task, config.num_hidden_layers()).map_err(BadInput)?;
    let arms = possible(arms, &given, &task, &config)?;
    let ours = plan_of(&given, task, arms).map_err(BadInput)?;
    let mut study = Study::new(
        ours,
        args.cells.clone(),
        args.runs.clone(),
        args.no_progress,
    )?;
    study.cache = default_cache().map(|dir| dir.join("activations"));
    add_what_was_run(&mut study, &given)?;
    eprint!("{}", expectations(&study.plan));
    let done = study.run(args.minutes)?;
    eprintln!("{} cells run, {} left", done.run, done.left);
    say(args, &study, &config, calibration.as_ref())
}

fn say(
    args: &Args,
    study: &Study,
    config: &Architecture,
    calibration: Option<&Calibration>,
) -> anyhow::Result<ExitCode> {
    let ablation = Ablation {
        study,
        scores: scores_of(study, &study.plan.tasks[0])?,
        costs: costs::all(&study.plan, config, calibration)?,
        layers: config.num_hidden_layers(),
        has_compute: calibration.is_some(),
    };
    if args.json {
        println!("{:#}", ablation.json()?);
    } else {
        print!("{}", ablation.markdown()?);
    }
    if let Some(file) = &args.curve {
        let curve = ablation.curve()?;
        std::fs::write(file, curve.to_json())
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        eprintln!(
            "{} points written to `{}`",
            curve.points.len(),
            file.display()
        );
    }
    if let Some(file) = &args.plot {
        ablation.plot()?.write(file)?;
        eprintln!("written to `{}`", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan's task of the recipe, with as many seeds as are asked for.
fn task(given: &Plan, args: &Args) -> anyhow::Result<TaskPlan> {
    let stem = Path::new(&args.recipe).file_stem();
    let stem = stem.and_then(|stem| stem.to_str()).unwrap_or(&args.recipe);
    let found = given.tasks.iter().find(|task| task.recipe == stem);
    let mut task = found.cloned().ok_or_else(|| {
        let known: Vec<&str> = given.tasks.iter().map(|t| t.recipe.as_str()).collect();
        BadInput(anyhow!(
            "the plan has no task of the recipe `{stem}`\n\
             hint: it has {}; `--plan FILE` takes another plan",
            known.join(", ")
        ))
    })?;
    if args.seeds > task.seeds.len() {
        let problem = anyhow!(
            "`--seeds {}` is more than the {} of task `{}` in the plan\n\
             hint: `--plan FILE` takes another plan",
            args.seeds,
            task.seeds.len(),
            task.name
        );
        return Err(BadInput(problem).into());
    }
    task.recipe.clone_from(&args.recipe);
    task.seeds.truncate(args.seeds);
    // Its rates are chosen by runs of its own where the other task is not in this plan.
    task.rates_of = None;
    Ok(task)
}

/// The base model's sizes.
fn config(given: &Plan, task: &TaskPlan, search: Search) -> anyhow::Result<Architecture> {
    let first = &given.arms[0];
    let recipe = given.recipe(task, first, given.tokens, None, task.seeds[0]);
    let mut recipe: Recipe = recipe.map_err(BadInput)?;
    Ok(base_of(&mut recipe, search, Path::new("."))?.config)
}

/// The arms that this model can have; the others are named. Full fine-tune and recipe must be
/// possible.
fn possible(
    arms: Vec<plan::Arm>,
    given: &Plan,
    task: &TaskPlan,
    config: &Architecture,
) -> anyhow::Result<Vec<plan::Arm>> {
    let mut kept = Vec::new();
    let mut recipes: Vec<Recipe> = Vec::new();
    for (nth, arm) in arms.into_iter().enumerate() {
        let recipe = given.recipe(task, &arm, given.tokens, None, task.seeds[0]);
        let shaped = recipe.and_then(|recipe| {
            shape_of_recipe(&recipe, config)?;
            Ok(recipe)
        });
        match shaped {
            // A recipe without merged heads is itself the one that takes them away.
            Ok(recipe) if recipes.contains(&recipe) => {}
            Ok(recipe) => {
                recipes.push(recipe);
                kept.push(arm);
            }
            Err(error) if nth < 2 => return Err(BadInput(error).into()),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().next().unwrap_or_default();
                eprintln!("note: `{}` is left out: {reason}", arm.name);
            }
        }
    }
    Ok(kept)
}

/// The plan's task with the arms of an ablation.
fn plan_of(given: &Plan, task: TaskPlan, arms: Vec<plan::Arm>) -> anyhow::Result<Plan> {
    let mut rates = given.rates.clone();
    rates.retain(|rates| arms.iter().any(|arm| arm.rates == rates.name));
    for rates in &mut rates {
        let first = arms.iter().find(|arm| arm.rates == rates.name);
        rates.arm = first.context("kept for an arm")?.name.clone();
    }
    let plan = Plan {
        tasks: vec![task],
        rates,
        arms,
        ..given.clone()
    };
    plan.check()?;
    Ok(plan)
}

/// Adds the arms of the given plan whose cells are there: they are points too.
fn add_what_was_run(study: &mut Study, given: &Plan) -> anyhow::Result<()> {
    let task = study.plan.tasks[0].clone();
    let seed = task.seeds[0];
    let recipe_of = |plan: &Plan, arm: &plan::Arm| plan.recipe(&task, arm, plan.tokens, None, seed);
    for arm in given.arms.iter().filter(|arm| arm.teacher.is_none()) {
        if !arm.is_on(&task) {
            continue;
        }
        let theirs = recipe_of(&study.plan, arm)?;
        let mut ours = study.plan.arms.iter();
        if ours.any(|own| recipe_of(&study.plan, own).is_ok_and(|own| own == theirs)) {
            continue;
        }
        let mut added = arm.clone();
        if study.plan.arms.iter().any(|own| own.name == added.name) {
            added.name += " (plan)";
        }
        study.plan.arms.push(added);
        if !study.has_all_seeds(study.plan.arms.len() - 1)? {
            study.plan.arms.pop();
        }
    }
    Ok(())
}
