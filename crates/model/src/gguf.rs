use crate::{Checkpoint, Config, ModelError, TokenIds, Tokenizer};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence};

/// Opens a GGUF file of the `llama` architecture with a GPT-2 style tokenizer; every tensor is dequantised to f32.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let file_bytes = file.metadata().map_err(ModelError::io(path))?.len();
    let mut reader = BufReader::new(file);
    let content = Content::read(&mut reader).map_err(|e| ModelError::corrupt(path, reason(&e)))?;
    let metadata = Metadata { path, content: &content };
    let config = metadata.config()?;
    let tokenizer = metadata.tokenizer(&config)?;
    let chat_template = metadata.text("tokenizer.chat_template").ok().map(str::to_owned);

    let mut names: Vec<(&String, u64)> = content.tensor_infos.iter().map(|(n, t)| (n, t.offset)).collect();
    names.sort_by_key(|&(_, offset)| offset);
    let mut tensors = BTreeMap::new();
    for (name, _) in names {
        check_length(path, &content, name, file_bytes)?;
        let tensor = content
            .tensor(&mut reader, name, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu))
            .map_err(|e| ModelError::corrupt(path, format!("tensor `{name}`: {}", reason(&e))))?;
        if let Some((name, tensor)) = rename(&config, name, tensor)? {
            tensors.insert(name, tensor);
        }
    }
    let mut config = config;
    config.tie_word_embeddings = !tensors.contains_key("lm_head.weight");
    Ok(Checkpoint { config, tensors, tokenizer, chat_template, files: vec![path.into()] })
}

/// candle's errors carry a backtrace behind the first line.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let short = first.contains("fill whole buffer") || first.contains("remaining");
    if short { format!("the file is cut short ({first})") } else { first.into() }
}

fn check_length(path: &Path, content: &Content, name: &str, file_bytes: u64) -> Result<(), ModelError> {
    let info = &content.tensor_infos[name];
    let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
    let end = content.tensor_data_offset + info.offset + (blocks * info.ggml_dtype.type_size()) as u64;
    if end <= file_bytes {
        return Ok(());
    }
    let reason = format!("the file is cut short: tensor `{name}` ends at byte {end}, the file has {file_bytes}");
    Err(ModelError::corrupt(path, reason))
}

/// llama.cpp's tensor names to Hugging Face's; q and k rows back to rotate-half order.
fn rename(config: &Config, name: &str, tensor: Tensor) -> Result<Option<(String, Tensor)>, ModelError> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok(Some((whole.into(), tensor)));
    }
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else { return Ok(None) };
    let (part, heads) = match rest {
        "attn_q.weight" => ("self_attn.q_proj", config.num_attention_heads),
        "attn_k.weight" => ("self_attn.k_proj", config.num_key_value_heads),
        "attn_v.weight" => ("self_attn.v_proj", 0),
        "attn_output.weight" => ("self_attn.o_proj", 0),
        "ffn_gate.weight" => ("mlp.gate_proj", 0),
        "ffn_up.weight" => ("mlp.up_proj", 0),
        "ffn_down.weight" => ("mlp.down_proj", 0),
        "attn_norm.weight" => ("input_layernorm", 0),
        "ffn_norm.weight" => ("post_attention_layernorm", 0),
        _ => return Ok(None),
    };
    let tensor = if heads > 0 { rotate_half_rows(&tensor, heads)? } else { tensor };
    Ok(Some((format!("model.layers.{layer}.{part}.weight"), tensor)))
}

/// Row `2 i + half` of a head (llama.cpp) becomes row `half * head_dim / 2 + i` (Hugging Face).
fn rotate_half_rows(tensor: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
    let (rows, columns) = tensor.dims2()?;
    let half = rows / heads / 2;
    Ok(tensor.reshape((heads, half, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Metadata<'_> {
    fn value(&self, key: &str) -> Result<&Value, ModelError> {
        let missing = || ModelError::corrupt(self.path, format!("metadata key `{key}` is missing"));
        self.content.metadata.get(key).ok_or_else(missing)
    }

    fn number(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.value(key)?;
        let number = value.to_u64().or_else(|_| value.to_u32().map(u64::from));
        let number = number.or_else(|_| value.to_i32().map(|v| v as u64));
        number.map(|n| n as usize).map_err(|e| ModelError::corrupt(self.path, format!("`{key}`: {}", reason(&e))))
    }

    fn float(&self, key: &str) -> Result<f64, ModelError> {
        let value = self.value(key)?;
        let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
        number.map_err(|e| ModelError::corrupt(self.path, format!("`{key}`: {}", reason(&e))))
    }

    fn text(&self, key: &str) -> Result<&str, ModelError> {
        let value = self.value(key)?.to_string();
        value.map(String::as_str).map_err(|e| ModelError::corrupt(self.path, format!("`{key}`: {}", reason(&e))))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ModelError> {
        let fail = |e: candle_core::Error| ModelError::corrupt(self.path, format!("`{key}`: {}", reason(&e)));
        let values = self.value(key)?.to_vec().map_err(fail)?;
        values.iter().map(|v| v.to_string().cloned().map_err(fail)).collect()
    }

    fn unsupported(&self, key: &str, value: impl ToString, why: &'static str) -> ModelError {
        ModelError::Unsupported { path: self.path.into(), key: key.into(), value: value.to_string(), why }
    }

    fn config(&self) -> Result<Config, ModelError> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(self.unsupported("general.architecture", architecture, "only `llama` is"));
        }
        if self.content.metadata.contains_key("llama.rope.scaling.type") {
            let kind = self.text("llama.rope.scaling.type")?;
            if kind != "none" {
                return Err(self.unsupported("llama.rope.scaling.type", kind, "only plain RoPE is"));
            }
        }
        let hidden_size = self.number("llama.embedding_length")?;
        let num_attention_heads = self.number("llama.attention.head_count")?.max(1);
        let head_dim = self.number("llama.attention.key_length").unwrap_or(hidden_size / num_attention_heads);
        let vocab_size = match self.number("llama.vocab_size") {
            Ok(size) => size,
            Err(_) => self.texts("tokenizer.ggml.tokens")?.len(),
        };
        Config {
            model_type: "llama".into(),
            architectures: Vec::new(),
            hidden_size,
            intermediate_size: self.number("llama.feed_forward_length")?,
            num_hidden_layers: self.number("llama.block_count")?,
            num_attention_heads,
            num_key_value_heads: self.number("llama.attention.head_count_kv").unwrap_or(num_attention_heads),
            head_dim,
            vocab_size,
            rms_norm_eps: short_float(self.float("llama.attention.layer_norm_rms_epsilon")?),
            rope_theta: self.float("llama.rope.freq_base").unwrap_or(10_000.0),
            max_position_embeddings: self.number("llama.context_length")?,
            tie_word_embeddings: false,
            bos_token_id: self.number("tokenizer.ggml.bos_token_id").ok().map(|id| id as u32),
            eos_token_id: self.number("tokenizer.ggml.eos_token_id").ok().map(|id| TokenIds::One(id as u32)),
            pad_token_id: self.number("tokenizer.ggml.padding_token_id").ok().map(|id| id as u32),
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
        }
        .normalise()
        .map_err(|e| ModelError::corrupt(self.path, e))
    }

    fn tokenizer(&self, config: &Config) -> Result<Tokenizer, ModelError> {
        let model = self.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(self.unsupported("tokenizer.ggml.model", model, "only byte-level BPE (`gpt2`) is"));
        }
        let fail = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let merges = self.texts("tokenizer.ggml.merges")?;
        let merges = merges.iter().map(|m| {
            let pair = m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| ModelError::corrupt(self.path, format!("merge `{m}` is not a pair")))
        });
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let vocab = tokens.iter().enumerate().map(|(i, t)| (t.clone(), i as u32)).collect::<Vocab>();
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(fail)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        match self.text("tokenizer.ggml.pre").unwrap_or("gpt-2") {
            "smollm" => {
                let split = Digits::new(true);
                let bytes = ByteLevel::new(false, true, true);
                inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])))
            }
            "gpt-2" | "gpt2" | "default" => inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true))),
            other => return Err(self.unsupported("tokenizer.ggml.pre", other, "only `smollm` and `gpt-2` are")),
        };
        inner.with_decoder(Some(ByteLevel::default()));
        let specials = self.special_tokens(&tokens)?;
        inner.add_special_tokens(specials).map_err(fail)?;
        let eos = config.eos_token_id.as_ref().map_or(&[][..], |ids| ids.ids());
        Ok(Tokenizer::new(inner, eos))
    }

    /// Control tokens (type 3) and the ones a user defined (type 4) are never split.
    fn special_tokens(&self, tokens: &[String]) -> Result<Vec<AddedToken>, ModelError> {
        let Ok(types) = self.value("tokenizer.ggml.token_type") else { return Ok(Vec::new()) };
        let types = types.to_vec().map_err(|e| ModelError::corrupt(self.path, reason(&e)))?;
        let control = |v: &Value| matches!(v.to_i32().or_else(|_| v.to_u32().map(|t| t as i32)), Ok(3 | 4));
        let named = tokens.iter().zip(types).filter(|(_, v)| control(v));
        Ok(named.map(|(t, _)| AddedToken::from(t.clone(), true)).collect())
    }
}

/// The decimal number that a file meant when it stored an f32: 1e-5, not 0.00000999999974.
fn short_float(value: f64) -> f64 {
    format!("{}", value as f32).parse().unwrap_or(value)
}
