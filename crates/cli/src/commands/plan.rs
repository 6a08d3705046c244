//! `marill plan`: how many layers to freeze, which heads to merge and which setting to serve in, so
//! that a token keeps within a budget.

pub mod candidates;
mod report;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use marill_model::Checkpoint;
use marill_plan::{
    Calibration, Network, Side,
    choice::{Budget, Outcome, Pick, choose},
    curve::Curve,
};
use marill_recipe::Recipe;

use self::candidates::Candidates;
use crate::{
    args::base_model::Search,
    commands::{bench::calibrate, recipes},
    output::failure::{BadInput, INPUT_FAILED},
};

#[derive(clap::Args)]
pub struct Args {
    /// A recipe inside the program (`marill recipes ls`), or a TOML file
    recipe: PathBuf,
    /// What a token may cost: seconds that the client waits (0.5s/token), or what it sends and
    /// receives (4MiB/token)
    #[arg(long, value_name = "AMOUNT")]
    budget: Budget,
    /// The link between all parties: none, lan (0.2 ms, 10 Gbps), wan (40 ms, 200 Mbps) or
    /// RTTms/Mbps such as 10/500
    #[arg(long, value_name = "LINK", default_value = "lan")]
    network: String,
    /// Least recovery: the share of a full fine-tune's gain that is kept. Needs a curve
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    quality: Option<f64>,
    /// The quality curve, made by `marill ablate --curve` [default: the one that comes with this
    /// version for the recipe's task and base model; without one the cost alone decides]
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
    /// Times of this machine, made by `marill bench --calibrate` [default:
    /// ~/.cache/marill/calibration.json]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Plan for one setting alone; 2pc is served, but not priced yet
    #[arg(long, value_parser = ["dealer", "3pc", "2pc"])]
    setting: Option<String>,
    /// Keys that the token attends to, itself included
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    keys: u32,
    /// Write the recipe with what was chosen here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Override a key of the recipe (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    search: Search,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What a plan is made from, beside recipe and model.
pub(crate) struct Ground {
    pub budget: Budget,
    pub network_name: String,
    pub network: Option<Network>,
    pub quality: Option<f64>,
    pub curve: Option<Curve>,
    /// None where only bytes are asked for and nothing was calibrated.
    pub calibration: Option<Calibration>,
    pub sides: Vec<Side>,
    /// Keys before the token.
    pub cached: usize,
    /// What a reader must know of the curve.
    pub notes: Vec<String>,
}

/// Plans.
///
/// # Errors
/// [`BadInput`] for recipe, model, curve and calibration. A budget that nothing keeps is no error
/// but an exit code of 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut recipe = recipes::read(&args.recipe, &args.set)?;
    let dir = args.recipe.parent().unwrap_or(Path::new(""));
    let base = base_of(&mut recipe, args.search, dir)?;
    let layers = marill_model::ModelConfig::num_hidden_layers(&base.config);
    let ground = ground(args, &recipe, layers)?;
    let candidates = Candidates::new(&recipe, &base.config, &ground);
    let forms = match &ground.curve {
        Some(curve) => candidates.on_curve(curve),
        None => candidates.by_cost(),
    };
    // Forms come from recipe, curve and `--keys` alone.
    let forms = forms.map_err(BadInput)?;
    let outcome = choose(&forms, ground.budget, ground.quality);
    let outcome = outcome.ok_or_else(|| {
        let of = if ground.curve.is_some() {
            "the curve has no point"
        } else {
            "the recipe has no form to choose"
        };
        BadInput(anyhow!(of))
    })?;
    if args.json {
        println!("{:#}", report::json(&outcome, &ground));
    } else {
        print!("{}", report::text(&outcome, &ground));
    }
    match outcome {
        Outcome::Fits { choice, .. } => {
            if let Some(file) = &args.out {
                write(file, &recipe, &choice, &ground)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::TooDear(_) | Outcome::TooPoor(_) => {
            eprint!("{}", report::refusal(&outcome, &ground));
            Ok(ExitCode::from(INPUT_FAILED))
        }
    }
}

/// The base model that a recipe names.
///
/// # Errors
/// [`BadInput`] where it is not there, or there is none to make private.
pub fn base_of(recipe: &mut Recipe, search: Search, dir: &Path) -> anyhow::Result<Checkpoint> {
    let (found, _) = search.pin(recipe, dir, true)?;
    let path = match found {
        Some(path) => path,
        None => search.base(recipe, dir)?,
    };
    let open = Checkpoint::open_ignoring(&path, &recipe.model.ignore);
    Ok(open.map_err(|error| BadInput(error.into()))?)
}

/// A recovery that is asked for; it may be above 1.
fn parse_share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share: &f64| share.is_finite() && *share >= 0.0)
        .ok_or_else(|| "a share is a finite number from 0 up, such as 0.9".into())
}

fn ground(args: &Args, recipe: &Recipe, layers: usize) -> anyhow::Result<Ground> {
    let network = Network::named(&args.network).map_err(|error| BadInput(error.into()))?;
    let mut notes = Vec::new();
    let curve = curve(args, recipe, layers, &mut notes)?;
    if curve.is_some() && recipe.distill.is_some() {
        notes.push(
            "curves are measured without distillation, so the planned recipe has no `[distill]`"
                .into(),
        );
    }
    if args.quality.is_some() && curve.is_none() {
        let problem = anyhow!(
            "`--quality` needs a curve, and none is known of {}\n\
             hint: `marill ablate --curve FILE` measures one",
            task_of(recipe)
        );
        return Err(BadInput(problem).into());
    }
    let found = calibrate::open(args.calibration.as_deref());
    let calibration = match (found, args.budget) {
        (Ok(found), _) => Some(found),
        // A file that was named must be one; without a name bytes need none.
        (Err(_), Budget::MebiBytes(_)) if args.calibration.is_none() => None,
        (Err(error), _) => return Err(error),
    };
    let asked = |side: &Side| {
        let setting = side.setting.name();
        args.setting.as_ref().is_none_or(|asked| asked == setting)
    };
    Ok(Ground {
        budget: args.budget,
        network_name: args.network.clone(),
        network,
        quality: args.quality,
        curve,
        calibration,
        sides: Side::ALL.into_iter().filter(asked).collect(),
        cached: args.keys as usize - 1,
        notes,
    })
}

/// The curve that is named, or the one of the recipe's task.
fn curve(
    args: &Args,
    recipe: &Recipe,
    layers: usize,
    notes: &mut Vec<String>,
) -> anyhow::Result<Option<Curve>> {
    let base = recipe.model.base_model.as_deref().unwrap_or_default();
    let task = first_task(recipe);
    let Some(file) = &args.curve else {
        let found = task.and_then(|task| Curve::shipped(task, base, layers));
        if found.is_none() {
            let of = task_of(recipe);
            notes.push(format!(
                "no quality curve is known of {of} on this base model, so the cost alone decides"
            ));
        }
        return Ok(found);
    };
    let read = || -> anyhow::Result<Curve> { Ok(Curve::parse(&std::fs::read_to_string(file)?)?) };
    let found = read()
        .with_context(|| format!("cannot use the curve `{}`", file.display()))
        .map_err(BadInput)?;
    if found.layers != layers {
        let problem = anyhow!(
            "the curve `{}` is of a model of {} layers, and this base model has {layers}",
            file.display(),
            found.layers
        );
        return Err(BadInput(problem).into());
    }
    if task != Some(&found.task) {
        notes.push(format!(
            "the curve is of `{}`, not of {}: what it says of quality was not measured here",
            found.task,
            task_of(recipe)
        ));
    }
    if !found.is_of(base) {
        notes.push(format!(
            "the curve was measured on `{}`, another base model",
            found.base_model
        ));
    }
    Ok(Some(found))
}

fn first_task(recipe: &Recipe) -> Option<&str> {
    let tasks = recipe.eval.iter().flat_map(|eval| &eval.tasks);
    tasks.map(String::as_str).next()
}

fn task_of(recipe: &Recipe) -> String {
    match first_task(recipe) {
        Some(task) => format!("the task `{task}`"),
        None => "a recipe without `eval.tasks`".into(),
    }
}

/// Writes the recipe of a choice.
fn write(file: &Path, recipe: &Recipe, choice: &Pick<'_>, ground: &Ground) -> anyhow::Result<()> {
    let planned = candidates::planned(recipe, choice.form)?;
    let text = format!("{}{}", report::comment(choice, ground), planned.to_toml());
    std::fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    eprintln!("written to `{}`", file.display());
    Ok(())
}
