//! Times prefill and decode of SmolLM2-shaped private layers with all three parties in this process:
//! `cargo run --release -p marill-mpc --example block -- [layers] [vocab] [prompt] [tokens]`.

use std::time::Instant;

use marill_mpc::testing::{gaussian, random_weights, run_world};
use marill_mpc::{DecoderSpec, Twin, tally_decode, tally_prefill};
use marill_numeric::NumericSpec;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |i: usize, default: usize| std::env::args().nth(i).map_or(Ok(default), |a| a.parse());
    let (layers, vocab, prompt, tokens) = (argument(1, 15)?, argument(2, 49_152)?, argument(3, 64)?, argument(4, 4)?);
    let spec = DecoderSpec {
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: vocab,
        num_layers: layers,
        max_positions: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        head_groups: vec![vec![vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]]; layers],
        attn_scale: vec![1.0 / (192f64).sqrt(); layers],
        lora_rank: 8,
        numeric: NumericSpec::default(),
        architecture: Default::default(),
    };
    let start = Instant::now();
    let (public, private) = random_weights(&spec, 1);
    eprintln!("weights in {:.1?}", start.elapsed());
    for (name, cost) in [("prefill", tally_prefill(&spec, prompt)?), ("decode", tally_decode(&spec, prompt)?)] {
        println!("{name}: {cost:?}");
    }
    println!("decode at 128 keys: {:?}", tally_decode(&spec, 127)?);
    let boundary = |seed, n: usize| spec.encode(&gaussian(seed, "boundary", n * spec.hidden_size, 1.5));
    let prompt = boundary(1, prompt)?;
    let rows = (0..tokens).map(|k| boundary(k as u64 + 2, 1)).collect::<Result<Vec<_>, _>>()?;

    let mut twin = Twin::new(public.clone(), private.clone());
    let start = Instant::now();
    let mut expected = vec![twin.prefill(&prompt)?];
    println!("twin prefill {:.3?}", start.elapsed());
    let start = Instant::now();
    for row in &rows {
        expected.push(twin.decode(row)?);
    }
    println!("twin decode {:.3?} a token", start.elapsed() / tokens.max(1) as u32);

    let start = Instant::now();
    let first = run_world(&public, &private, &prompt, &[])?;
    let prefill = start.elapsed();
    println!("secure prefill {prefill:.3?}, {:?}", first.client);
    let start = Instant::now();
    let run = run_world(&public, &private, &prompt, &rows)?;
    let decode = (start.elapsed().saturating_sub(prefill)) / tokens.max(1) as u32;
    println!("secure decode {decode:.3?} a token, equal to the twin: {}", run.tokens == expected);
    Ok(())
}
