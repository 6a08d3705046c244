//! Predictions against runs that the calibration has not seen: more layers, another model, other
//! networks.

use std::{path::Path, process::ExitCode};

use marill_plan::{Network, Side, Work};
use marill_report::Table;
use serde::Serialize;
use serde_json::json;

use super::{
    open,
    timed::{self, Shape, time},
};
use crate::output::failure::INPUT_FAILED;

/// What a prediction may be off by.
const TOLERANCE: f64 = 0.15;

/// How often a pair is measured over a network that takes little time; the least counts.
const REPEATS: usize = 3;

/// What is measured: the shipped form of SmolLM2-135M with its public layers, and layers of a model
/// with another norm, other sizes and another activation.
const SHAPES: [Shape; 2] = [
    Shape {
        frozen: 15,
        ..Shape::small(15, true, 3)
    },
    Shape {
        arch: "gpt2",
        ..Shape::small(3, false, 1)
    },
];

/// What is measured of two parties.
const ALONE: [Shape; 2] = [
    Shape::small(3, true, 3),
    Shape {
        arch: "gpt2",
        ..Shape::small(2, false, 1)
    },
];

/// A calibration is made over `none` alone.
const NETWORKS: [&str; 4] = ["none", "lan", "10/500", "wan"];

/// One prediction and its run.
#[derive(Serialize)]
struct Checked {
    shape: String,
    setting: &'static str,
    comparison: Option<String>,
    network: &'static str,
    predicted_seconds: f64,
    measured_seconds: f64,
}

impl Checked {
    fn ratio(&self) -> f64 {
        self.predicted_seconds / self.measured_seconds
    }

    fn is_close(&self) -> bool {
        (self.ratio() - 1.0).abs() <= TOLERANCE
    }
}

/// Measures every shape over every network, in every setting that has times of its own.
///
/// # Errors
/// No calibration, and what a party reports.
pub fn run(file: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let calibration = open(file)?;
    let mut found = Vec::new();
    for network in NETWORKS {
        let link = Network::named(network)?;
        let repeats = if network == "wan" { 1 } else { REPEATS };
        for (shape, side) in pairs(network) {
            let cached = timed::keys(side) - 1;
            let amounts = Work::of(&shape.spec(side, network)?, side, cached, 1)?;
            let public = shape.public_weights();
            let predicted = calibration.time(side, link.as_ref(), &amounts, public)?;
            eprintln!("{shape}, {side}, {network}");
            let mut measured = f64::INFINITY;
            for _ in 0..repeats {
                measured = measured.min(time(&shape, side, network)?.2);
            }
            let checked = Checked {
                shape: shape.to_string(),
                setting: side.setting.name(),
                comparison: side
                    .dealt_comparison()
                    .map(|comparison| comparison.to_string()),
                network,
                predicted_seconds: predicted.total(),
                measured_seconds: measured,
            };
            eprintln!("  predicted / measured {:.2}", checked.ratio());
            found.push(checked);
        }
    }
    let close = found.iter().filter(|pair| pair.is_close()).count();
    if json {
        let json = json!({ "tolerance": TOLERANCE, "close": close, "checked": found });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        println!("{}", table(&found).markdown());
        println!("\n{close} of {} within {TOLERANCE}", found.len());
    }
    Ok(if close == found.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// What is measured over a network. Two parties take seconds per token and hundreds of rounds per
/// layer: few layers, on quick links.
fn pairs(network: &str) -> Vec<(Shape, Side)> {
    let sides: Vec<Side> = Side::timed().filter(|side| *side != Side::ALONE).collect();
    let dealt = |shape: &Shape| -> Vec<(Shape, Side)> {
        sides.iter().map(|side| (*shape, *side)).collect()
    };
    let mut all: Vec<(Shape, Side)> = SHAPES.iter().flat_map(dealt).collect();
    if ["none", "lan"].contains(&network) {
        all.extend(ALONE.map(|shape| (shape, Side::ALONE)));
    }
    all
}

fn table(found: &[Checked]) -> Table {
    let mut table = Table::new([
        "shape",
        "setting",
        "comparisons",
        "network",
        "predicted, s",
        "measured, s",
        "predicted / measured",
    ])
    .right(&[4, 5, 6]);
    for pair in found {
        table.row([
            pair.shape.clone(),
            pair.setting.into(),
            pair.comparison.clone().unwrap_or_else(|| "-".into()),
            pair.network.into(),
            format!("{:.3}", pair.predicted_seconds),
            format!("{:.3}", pair.measured_seconds),
            format!("{:.2}", pair.ratio()),
        ]);
    }
    table
}
