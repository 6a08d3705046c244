//! A small random model: gradients against finite differences, cache against whole sequences, files
//! back and forth.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor, Var};
use marill_model::{
    Adapter, Checkpoint, FloatModel, HeadMethod, HeadTransform, LayerHeads, Llama, LlamaConfig,
    LoraConfig, MODULES, ModelConfig, ModelError, Prefix, Rows, TensorDtype, Tokenizer, Transforms,
    module_path,
    ops::{
        Dropout, FakeQuant, HeadLoss, Teacher, TeacherLogits, head_loss, rms_norm, row_distance,
    },
    strided_groups,
};
use marill_numeric::{Approximations, NumericSpec, approx};

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

fn loss(decoder: &Llama, teacher: bool) -> Tensor {
    let rows = Rows::packed(&[5, 3]);
    let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
    let x = decoder
        .finish(&decoder.run(x, 0..3, &rows, None).unwrap())
        .unwrap();
    let teacher = teacher.then(|| Teacher {
        logits: TeacherLogits::Whole {
            hidden: tensor(900, &[8, 32], 1.0),
            head: tensor(901, &[30, 32], 1.0),
        },
        temperature: 2.0,
        weight: 0.6,
    });
    let labels = vec![7, 1, 29, 4, 5, 9, 2, 0];
    head_loss(
        &x,
        &decoder.lm_head,
        HeadLoss {
            labels,
            scale: 0.125,
            teacher,
        },
    )
    .unwrap()
}

/// Dropout, and private layers that follow a teacher's.
fn hidden_loss(decoder: &Llama) -> Tensor {
    let dropout = Some(Dropout { rate: 0.25, key: 5 });
    let rows = Rows {
        dropout,
        ..Rows::packed(&[5, 3])
    };
    let mut x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
    let mut total = None;
    for layer in 0..3 {
        x = decoder.run(x, layer..layer + 1, &rows, None).unwrap();
        let part = row_distance(&x, &tensor(910 + layer as u64, &[8, 32], 1.5), 0.05).unwrap();
        total = Some(total.map_or(part.clone(), |sum: Tensor| (sum + part).unwrap()));
    }
    total.unwrap()
}

fn check_gradients(loss: &dyn Fn(&Llama) -> Tensor, unused: &[&str]) {
    check_gradients_of(loss, unused, &transforms(&config()));
}

fn check_gradients_of(loss: &dyn Fn(&Llama) -> Tensor, unused: &[&str], transforms: &Transforms) {
    let base = checkpoint();
    let (decoder, mut vars) = trainable(&base, transforms);
    vars.retain(|name, _| !unused.contains(&name.as_str()));
    let grads = loss(&decoder).backward().unwrap();
    for (nth, (name, var)) in vars.iter().enumerate() {
        let grad = grads
            .get(var.as_tensor())
            .unwrap_or_else(|| panic!("`{name}` has no gradient"));
        let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let start: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let direction = noise(7000 + nth as u64, start.len(), 1.0);
        let at = |step: f32| {
            let moved: Vec<f32> = start
                .iter()
                .zip(&direction)
                .map(|(s, d)| s + step * d)
                .collect();
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
            f64::from(loss(&decoder).to_scalar::<f32>().unwrap())
        };
        let step = 4e-3;
        let numeric = (at(step) - at(-step)) / f64::from(2.0 * step);
        at(0.0);
        let analytic: f64 = grad
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(g * d))
            .sum();
        let size: f64 = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let bound = 0.02 * analytic.abs() + 0.02 * size + 2e-4;
        assert!(
            size > 0.0 && (numeric - analytic).abs() < bound,
            "`{name}`: {numeric} by differences, {analytic}"
        );
    }
}

#[test]
fn parameters_have_the_gradients_of_finite_differences() {
    check_gradients(&|d| loss(d, false), &[]);
}

#[test]
fn approximations_have_the_gradients_of_finite_differences() {
    for approx in approx::EACH {
        let transforms = Transforms {
            approx,
            ..transforms(&config())
        };
        check_gradients_of(&|d| loss(d, false), &[], &transforms);
    }
}

#[test]
fn distillation_gradients_agree_with_finite_differences() {
    check_gradients(&|d| loss(d, true), &[]);
}

#[test]
fn dropout_has_the_gradients_of_finite_differences() {
    check_gradients(&hidden_loss, &["model.norm.weight"]);
}

/// Heads on their way to their group, whose scores have factors of their own.
#[test]
fn heads_on_their_way_have_the_gradients_of_differences() {
    let mut transforms = transforms(&config());
    let heads = transforms.heads.as_mut().unwrap();
    heads.scale = None;
    heads.scales = vec![vec![0.3, 0.15, -0.1, 0.2], vec![0.1, 0.4, 0.25, 0.2]];
    for own_share in [1.0, 0.35, 0.0] {
        let moving = |decoder: &Llama| {
            let rows = Rows {
                own_share,
                ..Rows::packed(&[5, 3])
            };
            let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
            let x = decoder.run(x, 0..3, &rows, None).unwrap();
            row_distance(&x, &tensor(910, &[8, 32], 1.5), 0.05).unwrap()
        };
        check_gradients_of(&moving, &["model.norm.weight"], &transforms);
    }
}

#[test]
fn pruned_heads_have_the_gradients_of_differences() {
    let mut transforms = transforms(&config());
    let heads = transforms.heads.as_mut().unwrap();
    heads.method = HeadMethod::Prune;
    heads.groups = vec![vec![vec![1], vec![2]], vec![vec![0], vec![3]]];
    check_gradients_of(&|d| loss(d, false), &[], &transforms);
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
fn a_frozen_weight_under_lora_changes_no_gradient() {
    let base = checkpoint();
    let transforms = transforms(&base.config);
    let (whole, vars) = trainable(&base, &transforms);
    let mut factors = tensors(&vars);
    factors.retain(|name, _| name.contains("lora_"));
    let vb = base.var_builder_with(factors);
    let decoder = Llama::new(base.config.llama().unwrap(), &transforms, vb).unwrap();
    let all = hidden_loss(&whole).backward().unwrap();
    let few = hidden_loss(&decoder).backward().unwrap();
    for (name, var) in vars.iter().filter(|(name, _)| name.contains("lora_")) {
        let values = |grads: &candle_core::backprop::GradStore| -> Vec<f32> {
            grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("`{name}`"))
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let all = values(&all);
        let few = values(&few);
        let largest = all.iter().fold(0f32, |m, v| m.max(v.abs()));
        // Sums in another order differ in the last bits of a 24-bit mantissa, over many terms.
        assert!(
            largest > 0.0
                && all
                    .iter()
                    .zip(&few)
                    .all(|(a, f)| (a - f).abs() <= 1e-4 * largest),
            "{name}"
        );
    }
}

#[test]
fn fake_quantized_gradients_are_nearly_those_of_the_floats() {
    let base = checkpoint();
    let (decoder, vars) = trainable(&base, &transforms(&base.config));
    let format = FakeQuant::from(&NumericSpec::default());
    let run = |fake_quant: Option<FakeQuant>| {
        let rows = Rows {
            fake_quant,
            ..Rows::packed(&[5, 3])
        };
        let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
        let x = decoder
            .finish(&decoder.run(x, 0..3, &rows, None).unwrap())
            .unwrap();
        let labels = vec![7, 1, 29, 4, 5, 9, 2, 0];
        head_loss(
            &x,
            &decoder.lm_head,
            HeadLoss {
                labels,
                scale: 0.125,
                teacher: None,
            },
        )
        .unwrap()
    };
    let plain = run(None);
    let rounded = run(Some(format));
    let a = plain.to_scalar::<f32>().unwrap();
    let b = rounded.to_scalar::<f32>().unwrap();
    // Rounding to the format moves a loss by far less than a percent, and must move it.
    assert!(
        a != b && (a - b).abs() < 1e-2 * a,
        "{a} in floats, {b} fake-quantized"
    );
    let plain = plain.backward().unwrap();
    let rounded = rounded.backward().unwrap();
    for (name, var) in &vars {
        let values = |grads: &candle_core::backprop::GradStore| -> Vec<f32> {
            grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("`{name}`"))
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let a = values(&plain);
        let b = values(&rounded);
        let dot =
            |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        // Gradients pass straight through the rounding; only the point they are taken at differs.
        assert!(cosine > 0.999, "`{name}`: {cosine}");
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
fn frozen_weights_get_no_gradient() {
    let base = checkpoint();
    let a = Var::from_tensor(&tensor(1, &[2, 32], 0.5)).unwrap();
    let b = Var::from_tensor(&tensor(2, &[32, 2], 0.5)).unwrap();
    let factors = [('A', &a), ('B', &b)].map(|(factor, var)| {
        let name = Adapter::name(2, "q_proj", factor);
        (name, var.as_tensor().clone())
    });
    let vb = base.var_builder_with(factors);
    let decoder = Llama::new(base.config.llama().unwrap(), &transforms(&base.config), vb).unwrap();
    let grads = loss(&decoder, false).backward().unwrap();
    assert!(grads.get(a.as_tensor()).is_some() && grads.get(b.as_tensor()).is_some());
    for (name, tensor) in &base.tensors {
        assert!(grads.get(tensor).is_none(), "`{name}` is frozen");
    }
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
