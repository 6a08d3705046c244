//! How large the values on each kind of wire are, on a real checkpoint and real prompts: `cargo run
//! --release -p marill-evals --example ranges -- CHECKPOINT [frozen layers] [tokens] [plot.svg]`.
//!
//! Runs the integer twin, prompt and greedy tokens, and counts every value that the secure program
//! opens under a mask by the power of two below its magnitude. Prints one row a wire; writes an
//! SVG, and the counts as CSV beside it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use marill_model::{Checkpoint, Message, Prefix, Transforms, render_chat};
use marill_mpc::{PrivateWeights, ProgramSpec, Twin};
use marill_partition::ExportOptions;
use marill_report::{LinePlot, Series, Table};

/// Place in the program, what stands there, bits of its wire.
const WIRES: [(&str, &str, u32); 8] = [
    ("attention.hidden", "residual stream before attention", 64),
    ("mlp.hidden", "residual stream before the MLP", 64),
    ("norm.x", "normalized activations", 64),
    ("attention.qkv", "q, k, v", 64),
    ("attention.mixed", "attention output", 56),
    ("mlp.gate_up", "gate and up", 48),
    ("mlp.silu", "SiLU of the gate", 48),
    ("mlp.product", "product of gate and up", 56),
];

const PROMPTS: [&str; 6] = [
    "Classify the news into World, Sports, Business or Technology: The central bank raised its \
     rates again.",
    "Translate from German to English:\nZwei Hunde laufen über die nasse Straße.",
    "Write a Python function that returns the largest of three numbers.",
    "Who was the first person to walk on the moon, and when?",
    "3 14 159 2653 58979 323846 2643383 27950288",
    "!!!! ???? ;;;; \u{1F600}\u{1F600} \u{4F60}\u{597D}",
];

/// What was seen on one wire: values by `floor(log2 |value|)`, zeros apart.
#[derive(Default)]
struct Seen {
    by_magnitude: BTreeMap<i32, u64>,
    zeros: u64,
    largest: f64,
}

impl Seen {
    fn add(&mut self, value: f64) {
        if value == 0.0 {
            self.zeros += 1;
            return;
        }
        *self
            .by_magnitude
            .entry(value.abs().log2().floor() as i32)
            .or_default() += 1;
        self.largest = self.largest.max(value.abs());
    }

    fn count(&self) -> u64 {
        self.zeros + self.by_magnitude.values().sum::<u64>()
    }

    /// The magnitude that all but one value in `one_in` stay below, as a power of two.
    fn quantile(&self, one_in: u64) -> i32 {
        let mut above = 0;
        for (&magnitude, count) in self.by_magnitude.iter().rev() {
            above += count;
            if above * one_in > self.count() {
                return magnitude + 1;
            }
        }
        0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments
        .first()
        .ok_or("usage: ranges CHECKPOINT [frozen layers] [tokens] [plot.svg]")?;
    let frozen_layers = arguments.get(1).map_or(Ok(15), |a| a.parse())?;
    let tokens: usize = arguments.get(2).map_or(Ok(16), |a| a.parse())?;
    let base = Checkpoint::open(Path::new(path))?;
    let transforms = Transforms {
        frozen_layers,
        lora: None,
        heads: None,
        approx: Default::default(),
    };
    let spec = marill_partition::program_spec(
        &base.config,
        &transforms,
        ExportOptions::default().numeric,
    )?;
    let public = Arc::new(marill_partition::public_weights(&spec, &base, &transforms)?);
    let private = Arc::new(PrivateWeights::from_floats(&public, Vec::new())?);
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    let mut asked = 0;
    for question in PROMPTS {
        let text = match &base.chat_template {
            Some(template) => render_chat(
                template,
                &[Message {
                    role: "user".into(),
                    content: question.into(),
                }],
                true,
            )?,
            None => question.to_owned(),
        };
        let prompt = base.tokenizer.encode(&text)?;
        asked += prompt.len();
        let mut prefix = Prefix::new(&base, frozen_layers)?;
        let mut twin = Twin::new(Arc::clone(&public), Arc::clone(&private));
        twin.start_trace();
        let mut token = twin.prefill(&spec.encode(&prefix.forward(&prompt)?)?)?;
        for _ in 0..tokens {
            token = twin.decode(&spec.encode(&prefix.forward(&[token])?)?)?;
        }
        for (label, values) in twin.take_trace() {
            let Some((name, ..)) = WIRES.iter().find(|(name, ..)| *name == label) else {
                continue;
            };
            let scale = f64::from(frac_bits(&spec, label)).exp2();
            let wire = seen.entry(name).or_default();
            values
                .iter()
                .for_each(|&value| wire.add(value as i64 as f64 / scale));
        }
    }
    report(&seen, &spec, asked, tokens);
    if let Some(plot) = arguments.get(3) {
        plot_of(&seen, &arguments).write(Path::new(plot))?;
    }
    Ok(())
}

fn frac_bits(spec: &ProgramSpec, label: &str) -> u32 {
    if label.ends_with(".hidden") {
        spec.numeric.residual_frac_bits
    } else {
        spec.numeric.frac_bits
    }
}

fn report(seen: &BTreeMap<&str, Seen>, spec: &ProgramSpec, asked: usize, tokens: usize) {
    println!(
        "{} prompts, {asked} prompt tokens, {tokens} greedy tokens each\n",
        PROMPTS.len()
    );
    let columns = [
        "wire",
        "values",
        "zero",
        "1 of 1,000 above",
        "largest",
        "bits used",
        "wire bits",
        "room",
    ];
    let mut table = Table::new(columns).right(&[1, 2, 3, 4, 5, 6, 7]);
    for (label, about, wire_bits) in WIRES {
        let Some(wire) = seen.get(label) else {
            continue;
        };
        // Sign and magnitude.
        let used = frac_bits(spec, label) as i32 + wire.largest.log2().floor() as i32 + 2;
        table.row([
            about.to_string(),
            wire.count().to_string(),
            format!("{:.4}", wire.zeros as f64 / wire.count() as f64),
            format!("2^{}", wire.quantile(1000)),
            format!("{:.1}", wire.largest),
            used.to_string(),
            wire_bits.to_string(),
            (wire_bits as i32 - used).to_string(),
        ]);
    }
    println!("{}", table.markdown());
}

fn plot_of(seen: &BTreeMap<&str, Seen>, arguments: &[String]) -> LinePlot {
    // As many lines as can be told apart; the two left out lie on their neighbors.
    let sampled = WIRES
        .iter()
        .filter(|(label, ..)| !["mlp.hidden", "mlp.silu"].contains(label));
    let series = sampled.filter_map(|(label, about, _)| {
        let wire = seen.get(label)?;
        let share = |count: &u64| (*count as f64 / wire.count() as f64).log10();
        let points = wire
            .by_magnitude
            .iter()
            .map(|(&magnitude, count)| (f64::from(magnitude), share(count)));
        Some(Series {
            name: (*about).into(),
            points: points.collect(),
            ..Series::default()
        })
    });
    let largest = |ending: &str| {
        seen.iter()
            .filter(|(label, _)| label.ends_with(ending))
            .map(|(_, wire)| wire.largest)
            .fold(0.0, f64::max)
    };
    let file = Path::new(&arguments[0])
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    LinePlot {
        title: format!(
            "The residual stream reaches {:.0}, gate and up {:.0}",
            largest("hidden"),
            largest("gate_up")
        ),
        caption: format!("cargo run --release -p marill-evals --example ranges -- {file}"),
        x_label: "log2 of the magnitude".into(),
        y_label: "log10 of the share of values".into(),
        series: series.collect(),
        ..LinePlot::default()
    }
}
