//! Every field of a specification has bounds.

use super::*;
use crate::random_model::tiny_spec;

#[test]
fn every_field_has_bounds_and_is_named() {
    tiny_spec().validate().unwrap();
    let set: [(&str, fn(&mut ProgramSpec, usize)); 9] = [
        ("hidden_size", |s, n| s.hidden_size = n),
        ("intermediate_size", |s, n| s.intermediate_size = n),
        ("num_attention_heads", |s, n| s.num_attention_heads = n),
        ("num_key_value_heads", |s, n| s.num_key_value_heads = n),
        ("head_dim", |s, n| s.head_dim = n),
        ("vocab_size", |s, n| s.vocab_size = n),
        ("num_layers", |s, n| s.num_layers = n),
        ("max_positions", |s, n| s.max_positions = n),
        ("lora_rank", |s, n| s.lora_rank = n),
    ];
    for (field, set) in set {
        for value in [1 << 23, 1 << 40, 1 << 62, usize::MAX] {
            let mut spec = tiny_spec();
            set(&mut spec, value);
            let error = spec.validate().expect_err(field).to_string();
            assert!(
                error.contains(&format!("`{field}`")),
                "{field} = {value}: {error}"
            );
        }
    }
    for positions in [0, MAX_POSITIONS + 1, 1 << 40] {
        let spec = ProgramSpec {
            max_positions: positions,
            ..tiny_spec()
        };
        assert!(
            spec.validate()
                .unwrap_err()
                .to_string()
                .contains("`max_positions`")
        );
    }
    let mut spec = tiny_spec();
    spec.head_groups[0].push(Vec::new());
    assert!(
        spec.validate()
            .unwrap_err()
            .to_string()
            .contains("head_groups")
    );
}

#[test]
fn ranks_by_module_have_one_form() {
    let mixed = tiny_spec().with_ranks(vec![4, 0, 4, 1, 6, 6, 6]);
    mixed.validate().unwrap();
    assert_eq!(mixed.lora_rank, 6);
    assert_eq!(tiny_spec().with_ranks(vec![4; 7]), tiny_spec());
    for (ranks, said) in [
        (vec![6; 6], "6 ranks for 7 modules"),
        (vec![6; 7], "must be left out"),
        (vec![5, 4, 4, 4, 4, 4, 4], "as its largest"),
        (vec![1 << 40, 6, 6, 6, 6, 6, 6], "as its largest"),
    ] {
        let spec = ProgramSpec {
            lora_ranks: ranks,
            ..mixed.clone()
        };
        let error = spec.validate().unwrap_err().to_string();
        assert!(
            error.contains("`lora_ranks`") && error.contains(said),
            "{error}"
        );
    }
    // A reader that does not know the key refuses it: the table denies unknown ones.
    let key = "lora_ranks";
    let json = |spec: &ProgramSpec| serde_json::to_string(spec).unwrap();
    assert!(json(&mixed).contains(key) && !json(&tiny_spec()).contains(key));
    assert_eq!(
        serde_json::from_str::<ProgramSpec>(&json(&mixed)).unwrap(),
        mixed
    );
}

#[test]
fn every_number_has_bounds_and_is_named() {
    let floats: [(&str, fn(&mut ProgramSpec, f64)); 3] = [
        ("attn_scale", |s, x| s.attn_scale[0] = x),
        ("rms_norm_eps", |s, x| s.rms_norm_eps = x),
        ("rope_theta", |s, x| s.rope_theta = x),
    ];
    for (field, set) in floats {
        for value in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1.0] {
            let mut spec = tiny_spec();
            set(&mut spec, value);
            assert!(
                spec.validate().unwrap_err().to_string().contains(field),
                "{field} = {value}"
            );
        }
    }
    for scale in [0.0, 1e-300, 1e-7, 1.5] {
        let mut spec = tiny_spec();
        spec.attn_scale[0] = scale;
        assert!(
            spec.validate()
                .unwrap_err()
                .to_string()
                .contains("attn_scale"),
            "{scale}"
        );
    }
    let mut spec = tiny_spec();
    spec.attn_scale.fill(LEAST_SCALE);
    spec.validate().unwrap();
    assert_eq!(spec.score_scale(0), (1.0, 20));
}

#[test]
fn approximations_are_named_and_absent_where_there_are_none() {
    let exact = serde_json::to_value(tiny_spec()).unwrap();
    assert!(exact.get("approx").is_none(), "digests stay what they were");
    for approx in marill_numeric::approx::EACH {
        let spec = ProgramSpec {
            approx,
            ..tiny_spec()
        };
        spec.validate().unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        assert!(!written["approx"].as_object().unwrap().is_empty());
        assert_eq!(
            serde_json::from_value::<ProgramSpec>(written).unwrap(),
            spec
        );
        let gpt2 = ProgramSpec {
            architecture: Architecture::Gpt2,
            ..spec
        };
        let error = gpt2.validate().unwrap_err().to_string();
        assert!(error.contains("`approx."), "{error}");
    }
}

#[test]
fn no_spec_passes_the_domain_of_the_reciprocal() {
    let spec = ProgramSpec {
        max_positions: 4096,
        ..tiny_spec()
    };
    assert!(crate::tally_decode(&spec, MAX_POSITIONS - 1).is_ok());
    for failed in [
        crate::tally_decode(&spec, MAX_POSITIONS),
        crate::tally_prefill(&spec, 2048),
    ] {
        let error = failed.unwrap_err();
        assert!(
            matches!(
                error,
                crate::ProtocolError::TooLong {
                    limit: MAX_POSITIONS
                }
            ),
            "{error}"
        );
    }
    assert!(crate::program::padding::check_remaining_context(&spec, usize::MAX, 1).is_err());
}

#[test]
fn sizes_that_pass_one_by_one_are_refused_together() {
    let spec = ProgramSpec {
        num_attention_heads: 4096,
        head_dim: 8192,
        ..tiny_spec()
    };
    assert!(
        spec.validate()
            .unwrap_err()
            .to_string()
            .contains("head_dim")
    );
    let heads = 4096;
    let positions = MAX_POSITIONS;
    let spec = ProgramSpec {
        num_attention_heads: heads,
        max_positions: positions,
        head_dim: 2,
        ..tiny_spec()
    };
    assert!(spec.validate().unwrap_err().to_string().contains("scores"));
}
