//! How close the integer program is to the float model on a real checkpoint, and how much headroom
//! its wires have: `cargo run --release -p marill-partition --example fidelity -- CHECKPOINT
//! [frozen layers] [tokens]`.
//!
//! Prints, for one prompt, whether the greedy tokens agree, the largest logit difference, and the
//! largest magnitude seen at each label of the secure program (as an integer and in bits).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use marill_model::{Checkpoint, FloatModel, Message, Prefix, Transforms, render_chat};
use marill_mpc::{PrivateWeights, Twin};
use marill_numeric::NumericSpec;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments
        .first()
        .ok_or("usage: fidelity CHECKPOINT [frozen layers] [tokens]")?;
    let frozen_layers = arguments.get(1).map_or(Ok(15), |a| a.parse())?;
    let tokens: usize = arguments.get(2).map_or(Ok(32), |a| a.parse())?;
    let base = Checkpoint::open(Path::new(path))?;
    let transforms = Transforms {
        frozen_layers,
        lora: None,
        heads: None,
        approx: Default::default(),
    };
    let spec = marill_partition::program_spec(&base.config, &transforms, NumericSpec::default())?;
    let public = Arc::new(marill_partition::public_weights(&spec, &base, &transforms)?);
    let private = Arc::new(PrivateWeights::from_floats(&public, Vec::new())?);

    let question = "Classify the news into World, Sports, Business or Sci/Tech: The central bank \
        raised its rates again.";
    let message = Message {
        role: "user".into(),
        content: question.into(),
    };
    let text = match &base.chat_template {
        Some(template) => render_chat(template, &[message], true)?,
        None => question.to_owned(),
    };
    let prompt = base.tokenizer.encode(&text)?;
    let mut prefix = Prefix::new(&base, frozen_layers)?;
    let mut float = FloatModel::new(&base, &transforms, None)?;
    let mut twin = Twin::new(public.clone(), private);
    twin.start_trace();
    let mut logits = float.logits(&prompt)?;
    let mut token = twin.prefill(&spec.encode(&prefix.forward(&prompt)?)?)?;
    let mut agreed = 0;
    let mut worst = 0f32;
    let mut answer = Vec::new();
    for _ in 0..tokens {
        let best = (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap_or(0) as u32;
        agreed += usize::from(best == token);
        let difference = logits
            .iter()
            .zip(twin.last_logits())
            .map(|(a, b)| (a - b).abs());
        worst = difference.fold(worst, f32::max);
        answer.push(token);
        logits = float.logits(&[token])?;
        token = twin.decode(&spec.encode(&prefix.forward(&[token])?)?)?;
    }
    println!(
        "{} prompt tokens; {agreed} of {tokens} greedy tokens agree; largest logit difference \
         {worst:.4}",
        prompt.len()
    );
    println!("answer: {:?}", base.tokenizer.decode(&answer)?);
    print_largest(twin.take_trace());
    Ok(())
}

/// The largest magnitude at each label of the program.
fn print_largest(trace: Vec<(&'static str, Vec<u64>)>) {
    let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
    for (place, values) in trace {
        let seen = values
            .iter()
            .map(|&v| (v as i64).unsigned_abs())
            .max()
            .unwrap_or(0);
        let entry = largest.entry(place).or_default();
        *entry = (*entry).max(seen);
    }
    for (place, value) in largest {
        println!(
            "{place:<22} {value:>20} {:>3} bits",
            64 - value.leading_zeros()
        );
    }
}
