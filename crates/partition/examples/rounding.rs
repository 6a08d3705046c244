//! What stochastic rounding does to the logits of a real checkpoint: `cargo run --release -p
//! marill-partition --example rounding -- CHECKPOINT [frozen layers] [tokens]`.
//!
//! The exact twin answers a few questions greedily; the twin that rounds stochastically on its own,
//! and the float model, see the same tokens. Prints how often their best token is the exact twin's,
//! how far their logits are from its logits, and how far below its best one it finds the tokens
//! that differ.

use std::{path::Path, sync::Arc};

use marill_model::{Checkpoint, FloatModel, Message, Prefix, Transforms, render_chat};
use marill_mpc::{PrivateWeights, Twin};
use marill_numeric::{NumericSpec, Rounding};

const QUESTIONS: [&str; 6] = [
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Explain why the sky is blue to a child of eight years.",
    "What is the topic of this news article: World, Sports, Business or Technology? Oil prices \
     fell on Monday.",
    "Write a Python function that returns the sum of the squares of a list of numbers.",
    "Translate into English: Ein Hund rennt am Strand und zwei Kinder spielen mit einem Ball.",
    "Give me a plan for a week of simple dinners for two people, with a list of what to buy.",
];

/// Of one model beside the exact twin.
#[derive(Default)]
struct Nearness {
    tokens: usize,
    equal: usize,
    differences: Vec<f32>,
    largest_shortfall: f32,
}

impl Nearness {
    fn add(&mut self, exact: &[f32], other: &[f32]) {
        let best = largest(exact);
        let own = largest(other);
        self.tokens += 1;
        self.equal += usize::from(best == own);
        self.largest_shortfall = self.largest_shortfall.max(exact[best] - exact[own]);
        self.differences
            .extend(exact.iter().zip(other).map(|(a, b)| (a - b).abs()));
    }

    fn print(&mut self, name: &str) {
        self.differences.sort_unstable_by(f32::total_cmp);
        let count = self.differences.len();
        let rms = (self
            .differences
            .iter()
            .map(|d| f64::from(*d).powi(2))
            .sum::<f64>()
            / count as f64)
            .sqrt();
        println!(
            "{name}: {} of {} tokens are the exact twin's; logits differ by {rms:.4} (root mean \
             square), {:.4} (99.9%), {:.4} (largest); a token that differs is at most {:.4} logits \
             below the best",
            self.equal,
            self.tokens,
            self.differences[count - 1 - count / 1000],
            self.differences[count - 1],
            self.largest_shortfall
        );
    }
}

fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments
        .first()
        .ok_or("usage: rounding CHECKPOINT [frozen layers] [tokens]")?;
    let frozen_layers = arguments.get(1).map_or(Ok(15), |a| a.parse())?;
    let tokens: usize = arguments.get(2).map_or(Ok(64), |a| a.parse())?;
    let base = Checkpoint::open(Path::new(path))?;
    let transforms = Transforms {
        frozen_layers,
        lora: None,
        heads: None,
        approx: Default::default(),
    };
    let numeric = NumericSpec::with_rounding(Rounding::Stochastic);
    let spec = marill_partition::program_spec(&base.config, &transforms, numeric)?;
    let public = Arc::new(marill_partition::public_weights(&spec, &base, &transforms)?);
    let private = Arc::new(PrivateWeights::from_floats(&public, Vec::new())?);
    let mut prefix = Prefix::new(&base, frozen_layers)?;
    let mut float = FloatModel::new(&base, &transforms, None)?;
    let mut exact = Twin::exact(public.clone(), private.clone());
    let mut randomness = Twin::new(public, private);
    let mut stochastic = Nearness::default();
    let mut in_floats = Nearness::default();
    for question in QUESTIONS {
        let message = Message {
            role: "user".into(),
            content: question.into(),
        };
        let text = match &base.chat_template {
            Some(template) => render_chat(template, &[message], true)?,
            None => question.to_owned(),
        };
        let mut input = base.tokenizer.encode(&text)?;
        prefix.truncate(0);
        float.reset();
        let mut answer = Vec::new();
        for step in 0..tokens {
            let boundary = spec.encode(&prefix.forward(&input)?)?;
            let token = if step == 0 {
                exact.prefill(&boundary)?
            } else {
                exact.decode(&boundary)?
            };
            if step == 0 {
                randomness.prefill(&boundary)?
            } else {
                randomness.decode(&boundary)?
            };
            let logits = exact.last_logits();
            stochastic.add(&logits, &randomness.last_logits());
            in_floats.add(&logits, &float.logits(&input)?);
            answer.push(token);
            if base.tokenizer.is_eos(token) {
                break;
            }
            input = vec![token];
        }
        eprintln!("{:?}", base.tokenizer.decode(&answer)?);
    }
    stochastic.print("stochastic");
    in_floats.print("in floats");
    Ok(())
}
