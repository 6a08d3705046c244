//! Which comparison protocol a network calls for.

use std::time::Duration;

use marill_mpc::{Comparison, ProgramSpec};
use marill_numeric::{NumericSpec, Rounding};
use marill_plan::{Network, estimates};

fn smollm2(layers: usize, rounding: Rounding) -> ProgramSpec {
    ProgramSpec {
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 2,
        num_layers: layers,
        max_positions: 2032,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        attn_scale: vec![0.125; layers],
        head_groups: vec![(0..9).map(|h| vec![h]).collect(); layers],
        head_weights: Vec::new(),
        lora_rank: 8,
        lora_ranks: Vec::new(),
        numeric: NumericSpec::with_rounding(rounding),
        architecture: Default::default(),
        private: Default::default(),
        approx: Default::default(),
        variant: Default::default(),
    }
}

#[test]
fn a_slow_network_calls_for_dcf_and_a_quick_one_for_one_hot() {
    let spec = smollm2(2, Rounding::Exact);
    let choice = |round_trip_ms: f64, mbps: f64| {
        let network = Network {
            one_way_delay: Duration::from_secs_f64(round_trip_ms / 2e3),
            bits_per_second: mbps * 1e6,
        };
        let [best, other] = estimates(&spec, &network, 127, 1).unwrap();
        assert!(best.seconds <= other.seconds && best.comparison != other.comparison);
        best.comparison
    };
    assert_eq!(choice(40.0, 200.0), Comparison::Dcf);
    assert_eq!(choice(0.2, 10_000.0), Comparison::OneHot);
    assert_eq!(choice(40.0, 20.0), Comparison::OneHot, "a thin link");
    assert_eq!(choice(200.0, 100.0), Comparison::Dcf);
}
