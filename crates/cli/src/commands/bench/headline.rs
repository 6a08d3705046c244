//! `marill bench headline`: an ordinary full fine-tune of SmolLM2-135M's shape against Marill's
//! form, at equal numeric specification, on Marill's engine and on a baseline that opens masked
//! weights in every call.

mod cells;
mod counts;
pub mod forms;
mod measure;
pub mod prefix;
mod quality;
mod report;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;

use self::{
    cells::{Cell, Key},
    forms::FORMS,
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    quality: quality::Quality,
    /// Where cells of cost are kept: what is there is not measured again
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "quality",
        default_value = "docs/reports/headline/cost-cells"
    )]
    cost_cells: PathBuf,
    /// Write the page of costs here in place of standard output
    #[arg(long, value_name = "FILE", conflicts_with = "quality")]
    report: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long, conflicts_with = "quality")]
    json: bool,
}

/// Measures the cells that are missing, then writes the page of all that are there.
///
/// # Errors
/// What a cell reports; cells that were done before it are kept.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.quality.is_asked() {
        return quality::run(&args.quality);
    }
    let keys = cells::all()?;
    measure_missing(args, &keys)?;
    let counts = counts::counts()?;
    let cells = read(args, &keys)?;
    if args.json {
        let json = json!({ "counts": counts, "cells": cells, "of": keys.len() });
        println!("{}", serde_json::to_string_pretty(&json)?);
    }
    let page = report::page(&counts, &cells)?;
    match &args.report {
        Some(file) => std::fs::write(file, page)
            .with_context(|| format!("cannot write `{}`", file.display()))?,
        None if args.json => {}
        None => print!("{page}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures what is missing until the time is over.
fn measure_missing(args: &Args, keys: &[Key]) -> anyhow::Result<()> {
    let start = Instant::now();
    let limit = args.quality.minutes().map(|n| Duration::from_secs(60 * n));
    for (number, key) in keys.iter().enumerate() {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        if key.read(&args.cost_cells)?.is_some() {
            continue;
        }
        let form = FORMS.iter().find(|form| form.name == key.form);
        let form = form.context("every key is of a form")?;
        let name = format!("{} of {}: {}", number + 1, keys.len(), key.title());
        eprintln!("{name}");
        let cell = measure::measure(key, form).context(name)?;
        eprintln!("  {:.3} s", cell.measured.seconds(key.setting));
        cell.write(&args.cost_cells)?;
    }
    Ok(())
}

fn read(args: &Args, keys: &[Key]) -> anyhow::Result<Vec<Cell>> {
    let cells = keys.iter().map(|key| key.read(&args.cost_cells));
    let cells = cells.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(cells.into_iter().flatten().collect())
}
