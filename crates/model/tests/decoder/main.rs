//! A small random model: its gradients, cache against whole sequences, files back and forth.

mod gradients;

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor, Var};
use marill_model::{
    Adapter, Checkpoint, FloatModel, HeadMethod, HeadTransform, LayerHeads, Llama, LlamaConfig,
    LoraConfig, MODULES, ModelConfig, ModelError, Prefix, Rows, TensorDtype, Tokenizer, Transforms,
    module_path,
    ops::{FakeQuant, rms_norm},
    strided_groups,
};
use marill_numeric::{Approximations, NumericSpec};

/// A fixed sequence in (-0.5, 0.5), the same on every machine.
fn noise(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() * scale).collect()
}

fn config() -> LlamaConfig {
    let json = r#"{"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 30, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    serde_json::from_str::<LlamaConfig>(json)
        .unwrap()
        .normalize()
        .unwrap()
}

fn tensor(seed: u64, shape: &[usize], scale: f32) -> Tensor {
    Tensor::from_vec(
        noise(seed, shape.iter().product(), scale),
        shape,
        &Device::Cpu,
    )
    .unwrap()
}

fn checkpoint() -> Checkpoint {
    let config = config();
    let mut tensors = BTreeMap::new();
    tensors.insert(
        "model.embed_tokens.weight".to_owned(),
        tensor(1, &[30, 32], 2.0),
    );
    tensors.insert(
        "model.norm.weight".to_owned(),
        (tensor(2, &[32], 0.5) + 1.0).unwrap(),
    );
    for layer in 0..3u64 {
        for (nth, module) in MODULES.iter().enumerate() {
            let name = format!("{}.weight", module_path(layer as usize, module));
            tensors.insert(
                name,
                tensor(
                    100 * layer + nth as u64 + 3,
                    &config.module_shape(module).unwrap(),
                    0.7,
                ),
            );
        }
        for (nth, norm) in ["input_layernorm", "post_attention_layernorm"]
            .iter()
            .enumerate()
        {
            let weight = (tensor(100 * layer + nth as u64 + 50, &[32], 0.5) + 1.0).unwrap();
            tensors.insert(format!("model.layers.{layer}.{norm}.weight"), weight);
        }
    }
    let tokenizer = tokenizers::Tokenizer::new(tokenizers::models::bpe::BPE::default());
    Checkpoint {
        config: config.into(),
        tensors,
        tokenizer: Tokenizer::new(tokenizer, &[0]),
        chat_template: None,
        files: vec![],
        ignored: vec![],
    }
}

fn transforms(config: &dyn ModelConfig) -> Transforms {
    let groups = vec![strided_groups(config, 2).unwrap(); 2];
    Transforms {
        frozen_layers: 1,
        lora: Some(LoraConfig {
            rank: 2,
            alpha: 4.0,
            rslora: false,
            ranks: Default::default(),
            target_modules: MODULES.map(String::from).to_vec(),
        }),
        heads: Some(HeadTransform {
            method: HeadMethod::Merge,
            merge: 2,
            grouping: "strided".into(),
            groups,
            scale: Some(0.2),
            scales: Vec::new(),
            measured: false,
        }),
        approx: Default::default(),
    }
}

/// Every tensor a variable, LoRA factors too.
fn trainable(base: &Checkpoint, transforms: &Transforms) -> (Llama, BTreeMap<String, Var>) {
    let mut vars: BTreeMap<String, Var> = base
        .tensors
        .iter()
        .map(|(name, t)| (name.clone(), Var::from_tensor(t).unwrap()))
        .collect();
    for layer in 1..3 {
        for (nth, module) in MODULES.iter().enumerate() {
            let [out, inner] = base.config.module_shape(module).unwrap();
            let seed = (500 + 10 * layer + nth) as u64;
            for (factor, seed, shape) in [('A', seed, [2, inner]), ('B', seed + 7, [out, 2])] {
                let var = Var::from_tensor(&tensor(seed, &shape, 0.5)).unwrap();
                vars.insert(Adapter::name(layer, module, factor), var);
            }
        }
    }
    let vb = base.var_builder_with(tensors(&vars));
    (
        Llama::new(base.config.llama().unwrap(), transforms, vb).unwrap(),
        vars,
    )
}

fn tensors(vars: &BTreeMap<String, Var>) -> BTreeMap<String, Tensor> {
    let tensor = |(name, var): (&String, &Var)| (name.clone(), var.as_tensor().clone());
    vars.iter().map(tensor).collect()
}

#[test]
fn a_head_by_itself_is_merged_in_the_end_and_not_before() {
    let config = config();
    let q = tensor(1, &[5, 32], 2.0);
    let k = tensor(2, &[5, 16], 2.0);
    let v = tensor(3, &[5, 16], 2.0);
    let segments = Rows::packed(&[5]).segments;
    let run = |heads: LayerHeads, own_share: f32| {
        let heads = Arc::new(heads);
        let out = marill_model::ops::attention(
            &q,
            &k,
            &v,
            &segments,
            &heads,
            8,
            own_share,
            &Approximations::default(),
            None,
        );
        out.unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let merged = LayerHeads {
        groups: strided_groups(&config, 2).unwrap(),
        scales: vec![0.3; 4],
        ..LayerHeads::plain(&config)
    };
    let plain = run(LayerHeads::plain(&config), 0.0);
    let whole = run(merged.clone(), 0.0);
    let apart = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    // 32-bit floats near one; 1e-4 of the way changes about as much.
    assert!(apart(&run(merged.clone(), 1.0), &plain) < 1e-5);
    assert!(apart(&run(merged.clone(), 1e-4), &whole) < 1e-3);
    let half = run(merged, 0.5);
    assert!(apart(&half, &plain) > 0.01 && apart(&half, &whole) > 0.01);
    let left = run(
        LayerHeads {
            groups: vec![vec![1], vec![2]],
            ..LayerHeads::plain(&config)
        },
        0.0,
    );
    for (row, (left, plain)) in left.chunks(32).zip(plain.chunks(32)).enumerate() {
        assert!(
            left[..8].iter().chain(&left[24..]).all(|v| *v == 0.0),
            "row {row}"
        );
        assert_eq!(left[8..24], plain[8..24], "row {row}");
    }
}

#[test]
fn a_row_outside_the_formats_range_is_refused() {
    let format = FakeQuant::from(&NumericSpec::default());
    let x = tensor(1, &[2, 32], 1e6);
    let gain = tensor(2, &[32], 1.0);
    assert!(rms_norm(&x, &gain, 1e-5, None).is_ok());
    let error = rms_norm(&x, &gain, 1e-5, Some(format))
        .unwrap_err()
        .to_string();
    assert!(error.contains("not below 65536"), "{error}");
}

#[test]
fn merged_attention_is_the_formula() {
    let config = config();
    let n = 5;
    let d = 8;
    let q = tensor(1, &[n, 32], 2.0);
    let k = tensor(2, &[n, 16], 2.0);
    let v = tensor(3, &[n, 16], 2.0);
    let groups = strided_groups(&config, 2).unwrap();
    let segments = Rows::packed(&[n]).segments;
    let heads = LayerHeads {
        groups: groups.clone(),
        scales: vec![0.3; 4],
        ..LayerHeads::plain(&config)
    };
    let got = marill_model::ops::attention(
        &q,
        &k,
        &v,
        &segments,
        &heads.into(),
        d,
        0.0,
        &Approximations::default(),
        None,
    );
    let got = got.unwrap();
    let got = got.to_vec2::<f32>().unwrap();
    let q = q.to_vec2::<f32>().unwrap();
    let k = k.to_vec2::<f32>().unwrap();
    let v = v.to_vec2::<f32>().unwrap();
    for group in &groups {
        for row in 0..n {
            let score = |j: usize| -> f64 {
                let pairs = group
                    .iter()
                    .flat_map(|&h| (0..d).map(move |i| (h * d + i, config_kv(h) * d + i)));
                pairs
                    .map(|(a, b)| f64::from(q[row][a]) * f64::from(k[j][b]))
                    .sum::<f64>()
                    * 0.3
            };
            let weights: Vec<f64> = (0..=row).map(|j| score(j).exp()).collect();
            let total: f64 = weights.iter().sum();
            for &head in group {
                for i in 0..d {
                    let value = |j: usize| f64::from(v[j][config_kv(head) * d + i]);
                    let expected: f64 = (0..=row).map(|j| weights[j] / total * value(j)).sum();
                    // 32-bit floats near one, some ten terms.
                    assert!((expected - f64::from(got[row][head * d + i])).abs() < 1e-5);
                }
            }
        }
    }
}

fn config_kv(head: usize) -> usize {
    config().kv_head(head)
}

#[test]
fn the_cache_and_packing_change_nothing() {
    let base = checkpoint();
    let transforms = transforms(&base.config);
    let tokens = [3u32, 7, 1, 29, 4];
    let mut model = FloatModel::new(&base, &transforms, None).unwrap();
    let whole = model.all_logits(&tokens).unwrap().to_vec2::<f32>().unwrap();
    model.reset();
    for (nth, token) in tokens.iter().enumerate() {
        let step = model.logits(&[*token]).unwrap();
        // 32-bit floats near one in sums of another order.
        step.iter()
            .zip(&whole[nth])
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    }
    model.truncate(2).unwrap();
    assert_eq!(model.len(), 2);
    let again = model.logits(&tokens[2..]).unwrap();
    // As above: sums in another order.
    again
        .iter()
        .zip(&whole[4])
        .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "after truncation: {a} {b}"));
    let decoder = model.decoder();
    let x = decoder.embed(&[9, 9, 3, 7, 1, 29, 4]).unwrap();
    let x = decoder.run(x, 0..3, &Rows::packed(&[2, 5]), None).unwrap();
    let packed = decoder
        .logits(&decoder.finish(&x).unwrap())
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    for row in 0..5 {
        // 32-bit floats near one in sums of another order.
        packed[row + 2]
            .iter()
            .zip(&whole[row])
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    }
    assert!(matches!(
        model.logits(&[30]),
        Err(ModelError::TokenOutOfRange { .. })
    ));
    assert!(matches!(
        model.logits(&[1; 60]),
        Err(ModelError::ContextFull { .. })
    ));
}

#[test]
fn the_prefix_gives_the_same_bits_in_steps_and_threads() {
    let base = checkpoint();
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 30).collect();
    let whole = Prefix::new(&base, 2).unwrap().forward(&tokens).unwrap();
    let float = FloatModel::new(&base, &Transforms::default(), None).unwrap();
    let expected = &float.layer_outputs(&tokens).unwrap()[2];
    // Other kernels, so sums in another order, of 32-bit floats near one.
    whole
        .iter()
        .zip(expected)
        .for_each(|(a, b)| assert!((a - b).abs() < 1e-4));
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let steps = pool.install(|| {
            let mut prefix = Prefix::new(&base, 2).unwrap();
            let mut rows = prefix.forward(&[5, 5, 5]).unwrap();
            prefix.truncate(0);
            rows.clear();
            tokens
                .iter()
                .for_each(|&t| rows.extend(prefix.forward(&[t]).unwrap()));
            rows
        });
        assert_eq!(bits(&steps), bits(&whole), "{threads} threads");
    }
}

#[test]
fn a_saved_folder_keeps_its_digest_unless_damaged() {
    let base = checkpoint();
    let dir = tempfile::tempdir().unwrap();
    base.save(dir.path(), TensorDtype::F32).unwrap();
    let again = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        (again.digest(), &again.config),
        (base.digest(), &base.config)
    );
    assert_eq!(base.digest().len(), 64);

    let mut other = base.clone();
    other
        .tensors
        .insert("model.norm.weight".into(), tensor(77, &[32], 1.0));
    assert_ne!(other.digest(), base.digest());

    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = Checkpoint::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
}

/// What this version does not know would be another model if it were passed over.
#[test]
fn unknown_keys_of_transforms_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("transforms.json");
    let known = transforms(&config());
    known.save(&path).unwrap();
    assert_eq!(Transforms::load(&path).unwrap(), known);
    let text = std::fs::read_to_string(&path).unwrap();
    for table in ["", "lora", "heads"] {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let place = match table {
            "" => &mut value,
            table => &mut value[table],
        };
        place["unheard_of"] = true.into();
        std::fs::write(&path, value.to_string()).unwrap();
        let error = Transforms::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("`unheard_of`") && error.contains("transforms.json"),
            "{error}"
        );
    }
}
