//! Writes a partition from what a training run left, or from a checkpoint and its base.

use std::path::Path;

use marill_model::{Adapter, Checkpoint, ModelConfig, Transforms};
use marill_numeric::{NumericSpec, Rounding};
use marill_partition::{
    ExportOptions, ExportReport, Measured, Partition, export, export_full, measure_range,
    shared_layers,
};
use marill_recipe::Recipe;
use marill_training::some_rows;

use crate::{
    args::base_model::hub_name,
    output::{exporting::Exporting, failure::BadInput},
};

/// What a new partition is told besides the model.
#[derive(Default)]
pub struct ExportAs<'a> {
    /// A name for people.
    pub name: &'a str,
    pub peft_lossy: bool,
    /// In place of the recipe's; `exact` where neither says.
    pub rounding: Option<Rounding>,
    /// Keys, tensors and tokens of the checkpoints that may be left out, besides the recipe's.
    pub ignore: &'a [String],
    /// Where the recipe's data sets are looked for first; the run's own folder where nothing is
    /// said.
    pub data_dir: Option<&'a Path>,
    /// Show no progress.
    pub quiet: bool,
}

/// Exports a training run into `out`: its low-rank factors, or the private layers of a full
/// fine-tune.
///
/// # Errors
/// [`BadInput`] when the run is incomplete or the export refuses it.
pub fn export_run(
    run_dir: &Path,
    recipe: &Recipe,
    base: &Path,
    out: &Path,
    told: &ExportAs<'_>,
) -> anyhow::Result<ExportReport> {
    let work = || -> anyhow::Result<ExportReport> {
        let asked = numbers_of(recipe)?;
        let numeric = told.rounding.map_or(asked, NumericSpec::with_rounding);
        let transforms = Transforms::load(&run_dir.join("transforms.json"))?;
        let adapter_path = run_dir.join("adapter.safetensors");
        let model_path = run_dir.join("model");
        let ignore = [recipe.model.ignore.as_slice(), told.ignore].concat();
        let base = Checkpoint::open_ignoring(base, &ignore)?;
        let name = told.name.into();
        let base_name = hub_name(recipe);
        let peft_lossy = told.peft_lossy;
        let shown = Exporting::new(told.quiet);
        let progress = |stage| shown.show(stage);
        let opts = ExportOptions {
            name,
            base_name,
            peft_lossy,
            numeric,
            model: None,
            progress: Some(&progress),
        };
        let mut report = if adapter_path.is_file() {
            export(
                &base,
                &transforms,
                &Adapter::load(&adapter_path)?,
                out,
                &opts,
            )?
        } else if model_path.join("config.json").is_file() {
            export_full(
                &base,
                &transforms,
                &Checkpoint::open_ignoring_any(&model_path, &ignore)?.0,
                out,
                &opts,
            )?
        } else {
            let run = run_dir.display();
            anyhow::bail!(
                "`{run}` has neither `adapter.safetensors` nor `model/`\n\
                 hint: let `marill train` finish it"
            );
        };
        if report.range.is_err() {
            shown.wait("measuring values of the run's own rows");
            match measure(recipe, told.data_dir.unwrap_or(run_dir), &base, &report.dir) {
                Ok(measured) => report.measured = Some(measured),
                Err(error) => {
                    shown.hide();
                    eprintln!("note: range: no row of the run could be measured: {error:#}")
                }
            }
        }
        shown.hide();
        say_range(&report);
        Ok(report)
    };
    work().map_err(|error| BadInput(error).into())
}

/// A run's own checkpoint cannot say what the run changed besides weights, and would be exported as
/// if that were nothing.
fn refuse_changed_architecture(model: &Path) -> anyhow::Result<()> {
    let Some(run) = model.parent() else {
        return Ok(());
    };
    let path = run.join("transforms.json");
    if !path.is_file() {
        return Ok(());
    }
    let transforms = Transforms::load(&path)?;
    anyhow::ensure!(
        transforms.heads.is_none() && transforms.approx.is_none(),
        "`{}` says that this model has other heads or functions than a checkpoint can say\n\
         hint: marill export {}",
        path.display(),
        run.display()
    );
    Ok(())
}

/// Exports a full fine-tune made elsewhere: a checkpoint that differs from `base` in its last
/// layers only.
///
/// # Errors
/// [`BadInput`] when nothing or too much differs, or the export refuses it.
pub fn export_checkpoint(
    model: &Path,
    base: &Path,
    out: &Path,
    told: &ExportAs<'_>,
) -> anyhow::Result<ExportReport> {
    let work = || -> anyhow::Result<ExportReport> {
        refuse_changed_architecture(model)?;
        let open = |path: &Path| Checkpoint::open_ignoring_any(path, told.ignore);
        let (model, unmet) = open(model)?;
        let (base, unmet_in_base) = open(base)?;
        if let Some(entry) = unmet.iter().find(|entry| unmet_in_base.contains(entry)) {
            anyhow::bail!("`--ignore {entry}` is no key, tensor or token of either checkpoint");
        }
        let frozen_layers = shared_layers(&base, &model)?;
        anyhow::ensure!(
            frozen_layers < base.config.num_hidden_layers(),
            "no layer differs from the base: there is nothing to keep private"
        );
        let transforms = Transforms {
            frozen_layers,
            ..Default::default()
        };
        let numeric = NumericSpec::with_rounding(told.rounding.unwrap_or(Rounding::Exact));
        let shown = Exporting::new(told.quiet);
        let progress = |stage| shown.show(stage);
        let opts = ExportOptions {
            name: told.name.into(),
            numeric,
            progress: Some(&progress),
            ..Default::default()
        };
        let report = export_full(&base, &transforms, &model, out, &opts)?;
        shown.hide();
        say_range(&report);
        Ok(report)
    };
    work().map_err(|error| BadInput(error).into())
}

/// How near values come to the edges of their wires on some rows of a run: enough to notice a model
/// that is too large for them, few enough to take seconds.
fn measure(
    recipe: &Recipe,
    data_dir: &Path,
    base: &Checkpoint,
    partition: &Path,
) -> anyhow::Result<Measured> {
    const ROWS: usize = 8;
    const TOKENS: usize = 128;
    let mut rows = some_rows(recipe, data_dir, base, ROWS)?;
    rows.iter_mut().for_each(|row| row.truncate(TOKENS));
    Ok(measure_range(&Partition::open(partition)?, &rows)?)
}

/// One line where no value is proved to fit: a warning, unless the run's own rows leave headroom.
pub fn say_range(report: &ExportReport) {
    if report.range.is_ok() {
        return;
    }
    let finding = marill_partition::describe_range(&report.range);
    let own = format!(
        "`marill eval {} --engine twin` checks every value on data of your own",
        report.dir.display()
    );
    match &report.measured {
        Some(measured) if measured.is_easy() => eprintln!("range: {measured}; {finding}; {own}"),
        Some(measured) => eprintln!("warning: range: {measured}; {finding}\n\nhint: {own}"),
        None => eprintln!("warning: range: {finding}\n\nhint: bounds are worst cases; {own}"),
    }
}

/// The numeric format that a recipe asks for: its rounding is its own, the rest is what the secure
/// program has.
///
/// # Errors
/// What the recipe asks for and this version has not.
pub fn numbers_of(recipe: &Recipe) -> anyhow::Result<NumericSpec> {
    let numeric = ExportOptions::default().numeric;
    let export = &recipe.export;
    let refuse = |key: &str, wanted: String, has: String| {
        anyhow::bail!("`export.{key}` = {wanted} is not offered\nhint: this version has {has}")
    };
    let wanted = export.rounding.as_deref().unwrap_or("exact");
    match (
        export.frac_bits,
        export.wire_bits,
        Rounding::parse(wanted),
        export.reveal.as_deref(),
    ) {
        (Some(bits), ..) if bits != numeric.frac_bits => {
            refuse("frac_bits", bits.to_string(), numeric.frac_bits.to_string())
        }
        (_, Some(bits), ..) => refuse(
            "wire_bits",
            bits.to_string(),
            "a width for each wire, fixed by its numeric format".into(),
        ),
        (_, _, None, _) => refuse("rounding", wanted.into(), "`exact` and `stochastic`".into()),
        (_, _, _, Some(reveal)) if reveal != "token" => {
            refuse("reveal", reveal.into(), "`token`".into())
        }
        (_, _, Some(rounding), _) => Ok(NumericSpec::with_rounding(rounding)),
    }
}
