//! A model and a tokenizer from nothing, for `init = "random"`.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use marill_model::{
    ChatTemplate, Checkpoint, LlamaConfig, MODULES, ModelConfig, TokenIds, Tokenizer, module_path,
};
use marill_recipe::{Prompt, Recipe, Rows};
use tokenizers::{
    AddedToken, Tokenizer as Inner,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use crate::{Rng, TrainError};

/// Ids 0, 1 and 2 of every tokenizer made here.
pub const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The chat template of models made here.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
    + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
    '<|im_start|>assistant\\n' }}{% endif %}";

/// Learns a byte-level BPE: digits one by one, then the GPT-2 pattern.
///
/// # Errors
/// [`TrainError::Tokenizer`].
pub fn train_tokenizer(texts: &[String], vocab_size: usize) -> Result<Tokenizer, TrainError> {
    let fail = |e: tokenizers::Error| TrainError::Tokenizer(e.to_string());
    let mut inner = Inner::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    inner.with_pre_tokenizer(Some(Sequence::new(vec![
        Digits::new(true).into(),
        bytes.into(),
    ])));
    inner.with_decoder(Some(ByteLevel::default()));
    let specials = SPECIAL_TOKENS.map(|t| AddedToken::from(t.to_owned(), true));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    inner
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(fail)?;
    Ok(Tokenizer::new(inner, &[]))
}

/// Every text of the recipe's data sets, prompts and answers.
fn texts(recipe: &Recipe, dir: &Path) -> Result<Vec<String>, TrainError> {
    let mut out = Vec::new();
    for dataset in &recipe.dataset {
        for example in Rows::read(dataset, dir)?.examples {
            match example.prompt {
                Prompt::Plain(text) => out.push(text),
                Prompt::Chat(turns) => out.extend(turns.into_iter().map(|t| t.content)),
            }
            out.push(example.completion);
        }
    }
    Ok(out)
}

/// A randomly initialized model with a tokenizer learned from the recipe's data.
pub(crate) fn checkpoint(recipe: &Recipe, dir: &Path) -> Result<Checkpoint, TrainError> {
    let missing = |key| TrainError::Setting {
        key,
        reason: "is needed by `init = \"random\"`".into(),
    };
    let shape = recipe
        .model
        .architecture
        .as_ref()
        .ok_or_else(|| missing("model.architecture"))?;
    let spec = recipe
        .tokenizer
        .as_ref()
        .ok_or_else(|| missing("tokenizer"))?;
    let tokenizer = train_tokenizer(&texts(recipe, dir)?, spec.vocab_size)?;
    let config = LlamaConfig {
        hidden_size: shape.hidden_size,
        intermediate_size: shape.intermediate_size,
        num_hidden_layers: shape.num_hidden_layers,
        num_attention_heads: shape.num_attention_heads,
        num_key_value_heads: shape.num_key_value_heads,
        head_dim: shape.head_dim,
        vocab_size: tokenizer.vocab_size(),
        rms_norm_eps: 1e-5,
        rope_theta: shape.rope_theta,
        max_position_embeddings: shape.max_position_embeddings,
        tie_word_embeddings: true,
        bos_token_id: Some(1),
        eos_token_id: Some(TokenIds::One(2)),
        pad_token_id: Some(0),
        ..LlamaConfig::default()
    };
    let config = config.normalize().map_err(|reason| TrainError::Setting {
        key: "model.architecture",
        reason,
    })?;
    let tensors = weights(&config, recipe.train.seed)?;
    let chat_template = Some(ChatTemplate::new(CHATML.into(), &tokenizer));
    Ok(Checkpoint {
        config: config.into(),
        tensors,
        tokenizer,
        chat_template,
        files: Vec::new(),
        ignored: Vec::new(),
    })
}

/// Normal weights of deviation `0.55 / sqrt(in)` (0.02 at 768 inputs); what writes to the residual
/// stream is smaller.
fn weights(config: &LlamaConfig, seed: u64) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let normal = |name: &str, shape: &[usize], deviation: f64| -> Result<Tensor, TrainError> {
        let mut rng = Rng::new(seed, name);
        let data: Vec<f32> = (0..shape.iter().product())
            .map(|_| (rng.normal() * deviation) as f32)
            .collect();
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    };
    let ones = || {
        Tensor::from_vec(
            vec![1f32; config.hidden_size],
            config.hidden_size,
            &Device::Cpu,
        )
    };
    let mut tensors = BTreeMap::new();
    let embedding = "model.embed_tokens.weight".to_owned();
    let value = normal(&embedding, &[config.vocab_size, config.hidden_size], 0.05)?;
    tensors.insert(embedding, value);
    tensors.insert("model.norm.weight".to_owned(), ones()?);
    let residual = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
    for layer in 0..config.num_hidden_layers {
        for module in MODULES {
            let shape = config
                .module_shape(module)
                .expect("MODULES are the modules");
            let name = format!("{}.weight", module_path(layer, module));
            let shrink = if matches!(module, "o_proj" | "down_proj") {
                residual
            } else {
                1.0
            };
            let value = normal(&name, &shape, 0.55 / (shape[1] as f64).sqrt() * shrink)?;
            tensors.insert(name, value);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{norm}.weight"), ones()?);
        }
    }
    Ok(tensors)
}
