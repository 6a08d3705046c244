//! `marill bench --calibrate`: what this machine takes for the local part of a step, for
//! `marill plan`; and `--check-calibration`, which measures what it was not made from.

mod check;
mod timed;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use marill_plan::{
    Calibration, Side,
    calibration::{CalibrationError, Point},
};
use marill_report::Table;

use self::timed::{Shape, time};
use super::{headline, machine};
use crate::{args::folders::default_cache, output::failure::BadInput};

/// What is timed: few layers and many, with and without the output head, heads merged and not,
/// public weights and private ones.
const SHAPES: [Shape; 5] = [
    Shape::small(1, false, 1),
    Shape::small(2, true, 3),
    Shape::small(4, false, 1),
    Shape::small(8, true, 3),
    Shape {
        full: true,
        rank: 0,
        ..Shape::small(3, false, 1)
    },
];

/// What is timed of two parties, which take some hundred times as long.
const ALONE: [Shape; 4] = [
    Shape::small(1, false, 1),
    Shape::small(2, true, 3),
    Shape::small(4, false, 3),
    Shape {
        full: true,
        rank: 0,
        ..Shape::small(1, false, 1)
    },
];

/// How often everything is timed; the least counts, since what else runs only adds.
const REPEATS: usize = 3;

#[derive(clap::Args)]
#[group(id = "calibration")]
pub struct Args {
    /// Time a few shapes on this machine for `marill plan`, and keep the times in FILE [default:
    /// ~/.cache/marill/calibration.json]
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["dir", "arch", "check_calibration"],
    )]
    calibrate: Option<Option<PathBuf>>,
    /// Measure shapes and networks that the calibration in FILE was not made from, and fail where
    /// one is more than 15% off
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["dir", "arch"],
    )]
    check_calibration: Option<Option<PathBuf>>,
}

/// The calibration in a file, or at the usual place.
///
/// # Errors
/// [`BadInput`] where there is none, with how to make one.
pub fn open(file: Option<&Path>) -> anyhow::Result<Calibration> {
    let path = place(file)?;
    let read = || -> anyhow::Result<Calibration> {
        let text = std::fs::read_to_string(&path)?;
        Ok(Calibration::parse(&text)?)
    };
    read()
        .with_context(|| {
            format!(
                "cannot use the calibration `{}`\n\
                 hint: `marill bench --calibrate` makes one in a few minutes",
                path.display()
            )
        })
        .map_err(|error| BadInput(error).into())
}

/// Where a calibration lies.
fn place(file: Option<&Path>) -> anyhow::Result<PathBuf> {
    match file {
        Some(file) => Ok(file.to_path_buf()),
        None => Ok(default_cache()
            .context("there is no home folder\nhint: name the calibration's file")?
            .join("calibration.json")),
    }
}

impl Args {
    /// Calibrates or checks; `None` where neither is asked for.
    ///
    /// # Errors
    /// What a party reports; a file that cannot be written.
    pub fn run(&self, json: bool) -> Option<anyhow::Result<ExitCode>> {
        if let Some(file) = &self.calibrate {
            return Some(calibrate(file.as_deref(), json));
        }
        let file = self.check_calibration.as_ref()?;
        Some(check::run(file.as_deref(), json))
    }
}

fn calibrate(file: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let path = place(file)?;
    let load_before = machine::load();
    let mut points: Vec<Point> = Vec::new();
    for repeat in 1..=REPEATS {
        for side in Side::timed() {
            let shapes: &[Shape] = match side {
                Side::ALONE => &ALONE,
                _ => &SHAPES,
            };
            for shape in shapes {
                eprintln!("{repeat} of {REPEATS}: {shape}, {side}");
                let (work, _, seconds) = time(shape, side, "none")?;
                keep_least(
                    &mut points,
                    Point {
                        shape: shape.to_string(),
                        setting: side.setting,
                        comparison: side.comparison,
                        work,
                        seconds,
                    },
                );
            }
        }
    }
    let found = Calibration::new(
        machine::name(),
        machine::PROFILE.into(),
        [load_before, machine::load()],
        headline::prefix::seconds_per_weight(REPEATS)?,
        points,
    );
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    std::fs::write(&path, found.to_json())
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    if json {
        print!("{}", found.to_json());
    } else {
        println!("{}", table(&found)?.markdown());
    }
    eprintln!("written to `{}`", path.display());
    Ok(ExitCode::SUCCESS)
}

fn keep_least(points: &mut Vec<Point>, point: Point) {
    let same = |p: &&mut Point| {
        (&p.shape, p.setting, p.comparison) == (&point.shape, point.setting, point.comparison)
    };
    match points.iter_mut().find(same) {
        Some(kept) if kept.seconds <= point.seconds => {}
        Some(kept) => *kept = point,
        None => points.push(point),
    }
}

/// Measured times beside what their prices give.
fn table(of: &Calibration) -> Result<Table, CalibrationError> {
    let header = ["setting", "shape", "measured, ms", "by its prices"];
    let mut table = Table::new(header).right(&[2, 3]);
    for point in &of.points {
        let side = Side {
            setting: point.setting,
            comparison: point.comparison,
        };
        let ratio = of.prices(side)?.seconds(&point.work) / point.seconds;
        table.row([
            side.to_string(),
            point.shape.clone(),
            format!("{:.2}", point.seconds * 1e3),
            format!("{ratio:.2}"),
        ]);
    }
    Ok(table)
}
