//! Parts of a task's rows, run apart and put together.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use marill_evals::merge;

use super::{as_json, bad, print_tables, verdict};
use crate::{args::model_dir::Model, output::failure::BadInput};

/// `A..B`: rows A up to but not including B.
///
/// # Errors
/// A sentence for what is no such interval, or holds no row.
pub fn parse_rows(text: &str) -> Result<[usize; 2], String> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let ends = text.split_once("..");
    let rows = ends.and_then(|(first, end)| Some([number(first)?, number(end)?]));
    match rows {
        None => Err("rows are given as A..B, from A up to but not including B".into()),
        Some([first, end]) if first >= end => Err(format!(
            "there is no row from {first} up to but not including {end}"
        )),
        Some(rows) => Ok(rows),
    }
}

/// Refuses a `--seed` beside `--merge`. That of the environment is meant for other runs too and
/// stays without effect, which is why `clap` cannot refuse it.
///
/// # Errors
/// [`BadInput`] naming the flag.
pub fn check_seed(seed: u64) -> anyhow::Result<()> {
    let usual = std::env::var("MARILL_SEED").ok();
    let usual = usual.and_then(|text| text.parse().ok()).unwrap_or(0);
    if seed != usual {
        let error = anyhow::anyhow!(
            "`--seed` cannot be used with `--merge`\n\
             hint: parts keep the few-shot examples that they were run with"
        );
        return Err(BadInput(error).into());
    }
    Ok(())
}

/// What tells whether parts are of one model: the digest of a checkpoint's tensors, or of a
/// partition's manifest, which has the digests of all its files.
pub fn digest(model: &Model) -> String {
    match model {
        Model::Checkpoint(checkpoint) => checkpoint.digest(),
        Model::Partition(partition) => partition.manifest.compute_id(),
    }
}

/// Prints what the parts say together, as the whole run would.
///
/// # Errors
/// [`BadInput`] for parts that do not belong together.
pub fn merge(files: &[PathBuf], min: Option<f64>, json: bool) -> anyhow::Result<ExitCode> {
    let merge::Merged {
        model,
        model_sha256,
        reports,
    } = merge::reports(files).map_err(bad)?;
    if json {
        let mut json = as_json(Path::new(&model), &reports)?;
        if reports.iter().any(|report| report.part.is_some()) {
            json["model_sha256"] = model_sha256.into();
        }
        println!("{json:#}");
    } else {
        print_tables(&reports);
    }
    // Each part's run said whether its secure answers are the twin's.
    Ok(verdict(&reports, true, min.map(|min| (min, "--min"))))
}
