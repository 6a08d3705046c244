//! candle-nn's modules where they give the bits of the formulas, and why some are our own; errors
//! of a [`VarBuilder`].

use std::collections::{BTreeMap, HashMap};

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{Activation, Embedding, Module, VarBuilder, VarMap, ops::softmax};
use marill_model::{
    Architecture, Bert, BertConfig, Gpt2, Gpt2Config, LayerNorm, Linear, Llama, LlamaConfig,
    ModelConfig, ModelError, RmsNorm, Transforms,
    ops::{low_rank, rms_norm},
};

/// A fixed sequence in (-0.5, 0.5), times `scale`.
fn tensor(seed: u64, shape: &[usize], scale: f32) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale
    };
    let values = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn maps_and_embeddings_are_the_formulas_bit_for_bit() {
    let x = tensor(1, &[7, 48], 3.0);
    let w = tensor(2, &[20, 48], 1.0);
    let b = tensor(3, &[20], 1.0);
    let formula = x
        .matmul(&w.t().unwrap())
        .unwrap()
        .broadcast_add(&b)
        .unwrap();
    let module = candle_nn::Linear::new(w.clone(), Some(b));
    assert_eq!(bits(&module.forward(&x).unwrap()), bits(&formula));

    let ids = Tensor::new(&[3u32, 0, 19, 3], &Device::Cpu).unwrap();
    let rows = Embedding::new(w.clone(), 48).forward(&ids).unwrap();
    assert_eq!(bits(&rows), bits(&w.index_select(&ids, 0).unwrap()));
    let ids = Tensor::new(&[4u32, 5, 6], &Device::Cpu).unwrap();
    let rows = Embedding::new(w.clone(), 48).forward(&ids).unwrap();
    assert_eq!(bits(&rows), bits(&w.narrow(0, 4, 3).unwrap()));
}

#[test]
fn softmax_and_gelu_are_the_formulas_bit_for_bit() {
    let x = tensor(4, &[2, 5, 9], 12.0);
    let largest = x.max_keepdim(D::Minus1).unwrap();
    let powers = x.broadcast_sub(&largest).unwrap().exp().unwrap();
    let sums = powers.sum_keepdim(D::Minus1).unwrap();
    let formula = powers.broadcast_div(&sums).unwrap();
    assert_eq!(bits(&softmax(&x, D::Minus1).unwrap()), bits(&formula));

    let exact = Activation::Gelu.forward(&x).unwrap();
    assert_eq!(bits(&exact), bits(&x.gelu_erf().unwrap()));
    let by_tanh = Activation::NewGelu.forward(&x).unwrap();
    assert_eq!(bits(&by_tanh), bits(&x.gelu().unwrap()));
}

#[test]
fn a_projection_as_a_module_adds_its_lora_update() {
    let x = tensor(5, &[6, 16], 2.0);
    let weight = tensor(6, &[10, 16], 1.0);
    let a = tensor(7, &[2, 16], 1.0);
    let b = tensor(8, &[10, 2], 1.0);
    let plain = Linear {
        weight: weight.clone(),
        bias: None,
        lora: None,
    };
    let tuned = Linear {
        weight: weight.clone(),
        bias: None,
        lora: Some((a.clone(), b.clone(), 0.5)),
    };
    let expected = low_rank(&x, Some(&weight), (&a, &b), 0.5, None).unwrap();
    assert_eq!(bits(&tuned.forward(&x).unwrap()), bits(&expected));
    assert_ne!(bits(&plain.forward(&x).unwrap()), bits(&expected));
}

/// When this fails, candle-nn's own can be used.
#[test]
fn candle_nns_rms_norm_has_no_gradient_and_ours_has() {
    let weight = (tensor(9, &[32], 0.5) + 1.0).unwrap();
    let x = Var::from_tensor(&tensor(10, &[3, 32], 2.0)).unwrap();
    let theirs = candle_nn::RmsNorm::new(weight.clone(), 1e-5);
    let ours = RmsNorm {
        weight: weight.clone(),
        eps: 1e-5,
    };
    let y = ours.forward(x.as_tensor()).unwrap();
    assert_eq!(bits(&y), bits(&rms_norm(&x, &weight, 1e-5, None).unwrap()));
    assert!(y.sum_all().unwrap().backward().unwrap().get(&x).is_some());
    let y = theirs.forward(x.as_tensor()).unwrap();
    let reached = y.sum_all().unwrap().backward();
    assert!(reached.is_err() || reached.unwrap().get(&x).is_none());
}

/// A row far from zero: its variance is the difference of two large numbers in candle-nn's.
#[test]
fn candle_nns_layer_norm_loses_bits_that_ours_keeps() {
    let x = (tensor(11, &[4, 64], 1.0) + 100.0).unwrap();
    let ones = Tensor::ones(64, DType::F32, &Device::Cpu).unwrap();
    let zeros = ones.zeros_like().unwrap();
    let theirs = candle_nn::LayerNorm::new(ones.clone(), zeros.clone(), 1e-5);
    let ours = LayerNorm {
        weight: ones,
        bias: zeros,
        eps: 1e-5,
    };
    // Of a normalized row the mean square is one, but for `eps` and the rounding of 32-bit floats.
    let miss = |norm: &dyn Module| {
        let mean = norm.forward(&x).unwrap().sqr().unwrap().mean_all().unwrap();
        (mean.to_scalar::<f32>().unwrap() - 1.0).abs()
    };
    assert!(miss(&ours) < 1e-3, "{}", miss(&ours));
    assert!(miss(&theirs) > 1e-3, "{}", miss(&theirs));
}

fn gpt2_config() -> Gpt2Config {
    let json = r#"{"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}"#;
    serde_json::from_str(json).unwrap()
}

/// What a model makes in a [`VarMap`] is what it can be built from again.
#[test]
fn a_model_can_be_initialized_and_built_from_a_var_map() {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let model = Gpt2::new(gpt2_config(), vb.clone()).unwrap();
    let again = Gpt2::new(gpt2_config(), vb).unwrap();
    assert!(model.wte.embeddings().is_variable());
    let weight = |model: &Gpt2| bits(model.blocks[1].down.weight());
    assert_eq!(weight(&model), weight(&again));
    assert_ne!(weight(&model)[0], 0);
    // Two embeddings, the last norm, and two norms and four maps a layer with weight and bias.
    assert_eq!(vars.all_vars().len(), 2 + 2 + 2 * 12);
}

#[test]
fn missing_and_misshapen_tensors_keep_their_full_names() {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    Gpt2::new(gpt2_config(), vb.pp("transformer")).unwrap();
    let whole = vars.data().lock().unwrap().clone().into_iter();
    let whole: HashMap<String, Tensor> = whole
        .map(|(name, var)| (name, var.as_tensor().clone()))
        .collect();
    let open = |tensors| {
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Gpt2::new(gpt2_config(), vb).map(|_| ())
    };
    open(whole.clone()).unwrap();
    let place = "transformer.h.1.mlp.c_fc.bias";
    let mut tensors = whole.clone();
    tensors.remove(place);
    match open(tensors) {
        Err(ModelError::MissingTensor { name }) => assert_eq!(name, place),
        other => panic!("{other:?}"),
    }
    let mut tensors = whole;
    tensors.insert(place.into(), tensor(1, &[3, 4], 1.0));
    let error = open(tensors).unwrap_err();
    let expected = format!("tensor `{place}` has shape [3, 4], expected [32]");
    assert_eq!(error.to_string(), expected);
}

fn bert_config() -> BertConfig {
    let json = r#"{"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 9,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#;
    serde_json::from_str(json).unwrap()
}

fn llama_config(tied: bool) -> LlamaConfig {
    let json = serde_json::json!({
        "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 9, "tie_word_embeddings": tied
    });
    serde_json::from_value::<LlamaConfig>(json)
        .unwrap()
        .normalize()
        .unwrap()
}

/// A model asks a [`VarMap`] for all of its tensors; the list must be these and no others.
#[test]
fn an_architecture_names_the_tensors_that_its_model_takes() {
    let named = |config: &dyn ModelConfig| -> BTreeMap<String, Vec<usize>> {
        let all = config.tensors();
        let count = all.len();
        let named: BTreeMap<_, _> = all.into_iter().collect();
        assert_eq!(named.len(), count, "a name stands twice");
        named
    };
    let taken = |build: &dyn Fn(VarBuilder<'_>)| -> BTreeMap<String, Vec<usize>> {
        let vars = VarMap::new();
        build(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu));
        let vars = vars.data().lock().unwrap();
        vars.iter()
            .map(|(name, var)| (name.clone(), var.dims().to_vec()))
            .collect()
    };
    for tied in [true, false] {
        let config = llama_config(tied);
        let model = |vb: VarBuilder<'_>| {
            let plain = Transforms::default();
            Llama::new(&config, &plain, vb).unwrap();
        };
        assert_eq!(named(&config), taken(&model));
    }
    let model = |vb: VarBuilder<'_>| drop(Gpt2::new(gpt2_config(), vb).unwrap());
    assert_eq!(named(&gpt2_config()), taken(&model));
    let model = |vb: VarBuilder<'_>| drop(Bert::new(bert_config(), vb).unwrap());
    assert_eq!(named(&bert_config()), taken(&model));
}

#[test]
fn every_map_has_a_shape_and_every_layer_its_tensors() {
    for config in [
        Architecture::from(llama_config(false)),
        gpt2_config().into(),
        bert_config().into(),
    ] {
        let layers: Vec<Option<usize>> = config
            .tensors()
            .iter()
            .map(|(name, _)| config.layer_of(name))
            .collect();
        let count = |layer| layers.iter().filter(|found| **found == layer).count();
        assert!(count(Some(0)) > config.modules().len() && count(None) >= 2);
        assert_eq!((count(Some(0)), count(Some(2))), (count(Some(1)), 0));
        for module in config.modules() {
            let [out, inner] = config.module_shape(module).unwrap();
            let end = format!(".{module}.weight");
            let held = config
                .tensors()
                .into_iter()
                .filter(|(name, _)| config.layer_of(name) == Some(1) && name.ends_with(&end));
            // BERT's `output.dense` ends another name too, which is longer.
            let held = held.min_by_key(|(name, _)| name.len());
            // GPT-2 holds the transpose.
            let mut shape = held.unwrap().1;
            if config.model_type() == "gpt2" {
                shape.reverse();
            }
            assert_eq!(shape, [out, inner], "{module}");
        }
        assert_eq!(config.module_shape("lm_head"), None);
    }
}

#[test]
fn an_architecture_is_read_back_as_it_was_written() {
    for config in [
        Architecture::from(llama_config(true)),
        gpt2_config().into(),
        bert_config().into(),
    ] {
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(&format!(r#""model_type":"{}""#, config.model_type())));
        let again: Architecture = serde_json::from_str(&text).unwrap();
        assert_eq!(again, config);
    }
    // As it was when a configuration was LLaMA's and nothing else.
    let config = llama_config(true);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(
        text,
        serde_json::to_string(&Architecture::from(config)).unwrap()
    );
    let error = Architecture::from(gpt2_config()).llama().unwrap_err();
    assert!(error.to_string().contains("model_type = gpt2"), "{error}");
}
