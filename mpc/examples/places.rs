//! Rounds and bytes by place: `cargo run -p marill-mpc --example places -- [heads] [rank] [keys]`.

use marill_mpc::{DecoderSpec, tally_by_place};
use marill_numeric::NumericSpec;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |i: usize, default: usize| std::env::args().nth(i).map_or(Ok(default), |a| a.parse());
    let (groups, rank, keys) = (argument(1, 9)?, argument(2, 8)?, argument(3, 128)?);
    let all = |layers: usize| DecoderSpec {
        architecture: Default::default(),
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 2,
        num_layers: layers,
        max_positions: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        head_groups: vec![(0..groups).map(|g| (g..9).step_by(groups).collect()).collect(); layers],
        attn_scale: vec![1.0 / (64f64 * 9.0 / groups as f64).sqrt(); layers],
        lora_rank: rank,
        numeric: NumericSpec::default(),
    };
    for (name, cached, rows) in [("decode", keys - 1, 1), ("prefill", 0, keys)] {
        println!("{name:30} {:>6} {:>12} {:>12} {:>12}", "rounds", "E0 sends", "E1 sends", "source");
        let (two, one) = (tally_by_place(&all(3), cached, rows)?, tally_by_place(&all(2), cached, rows)?);
        let mut sum = marill_mpc::masked::Cost::default();
        for (place, cost) in two {
            let before = one.iter().find(|(p, _)| *p == place).map_or(Default::default(), |(_, c)| *c);
            let cost = cost - before;
            sum = sum + cost;
            if cost != Default::default() {
                println!(
                    "{place:30} {:>6} {:>12} {:>12} {:>12}",
                    cost.rounds, cost.e0_to_e1_bytes, cost.e1_to_e0_bytes, cost.source_to_e1_bytes
                );
            }
        }
        println!(
            "{:30} {:>6} {:>12} {:>12} {:>12}",
            "all", sum.rounds, sum.e0_to_e1_bytes, sum.e1_to_e0_bytes, sum.source_to_e1_bytes
        );
    }
    Ok(())
}
