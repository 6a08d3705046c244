//! GGUF files: metadata and tensors under Hugging Face's names, so that nothing else needs to know
//! the format.

mod header;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Seek},
    path::Path,
};

use candle_core::{
    Device, Tensor,
    quantized::gguf_file::{Content, Value},
};
use serde_json::{Map, Value as Json};
use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use crate::{
    ChatTemplate, Checkpoint, LlamaConfig, ModelError, RopeScaling, SpecialTokens, Tokenizer,
    account::{Account, GGUF, Ignored},
    chat::check_template,
    llama::read::add_ends,
};

/// Opens a GGUF file of the `llama` architecture with a GPT-2 style tokenizer; every tensor is
/// dequantized to f32.
pub(crate) fn open(path: &Path, ignored: Ignored<'_>) -> Result<Checkpoint, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let file_bytes = file.metadata().map_err(ModelError::io(path))?.len();
    let mut reader = BufReader::new(file);
    header::check(&mut reader, file_bytes).map_err(|e| ModelError::corrupt(path, e))?;
    reader.rewind().map_err(ModelError::io(path))?;
    let content = Content::read(&mut reader).map_err(|e| ModelError::corrupt(path, reason(&e)))?;
    let metadata = Metadata::new(path, &content, ignored);
    let mut config = metadata.config()?;
    let tokenizer = metadata.tokenizer(&config)?;
    let template = metadata.account.text("tokenizer.chat_template")?;
    if let Some(Err(error)) = template.map(check_template) {
        let key = "tokenizer.chat_template";
        let value = &metadata.account.keys["tokenizer.chat_template"];
        return Err(metadata
            .account
            .refuse(key, value, &format!("cannot be read: {error}")));
    }
    let chat_template = template.map(|source| ChatTemplate::new(source.into(), &tokenizer));

    let mut names: Vec<(&String, u64)> = content
        .tensor_infos
        .iter()
        .map(|(n, t)| (n, t.offset))
        .collect();
    names.retain(|(name, _)| !ignored.has(name));
    names.sort_by_key(|&(_, offset)| offset);
    let mut tensors = BTreeMap::new();
    for (name, _) in names {
        check_length(path, &content, name, file_bytes)?;
        let of_tensor = |e: candle_core::Error| {
            ModelError::corrupt(path, format!("tensor `{name}`: {}", reason(&e)))
        };
        let tensor = content
            .tensor(&mut reader, name, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu));
        let tensor = tensor.map_err(of_tensor)?;
        if name == "rope_freqs.weight" {
            config.rope_scaling = divisors(path, &tensor, config.head_dim)?;
            continue;
        }
        match rename(&config, name, tensor).map_err(of_tensor)? {
            Some((name, tensor)) => tensors.insert(name, tensor),
            None => {
                let why = "is not used: this architecture has none";
                return Err(ModelError::unaccounted(
                    path,
                    &format!("tensor `{name}`"),
                    name,
                    why,
                ));
            }
        };
    }
    Checkpoint::checked(
        config.into(),
        tensors,
        tokenizer,
        chat_template,
        vec![path.into()],
        ignored,
    )
}

/// Divisors of the rotation's frequencies, one for each pair: what llama.cpp's converter makes of
/// `llama3` scaling. Nothing where all are 1.
fn divisors(
    path: &Path,
    tensor: &Tensor,
    head_dim: usize,
) -> Result<Option<RopeScaling>, ModelError> {
    let divisors = tensor.flatten_all()?.to_vec1::<f32>()?;
    let divisors: Vec<f64> = divisors.into_iter().map(f64::from).collect();
    if divisors.iter().all(|divisor| *divisor == 1.0) {
        return Ok(None);
    }
    let scaling = RopeScaling::Divisors { divisors };
    match scaling.check(head_dim) {
        Ok(()) => Ok(Some(scaling)),
        Err((_, problem)) => {
            let reason = format!("tensor `rope_freqs.weight` {problem}");
            Err(ModelError::corrupt(path, reason))
        }
    }
}

/// candle's errors carry a backtrace behind the first line.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let short = first.contains("fill whole buffer") || first.contains("remaining");
    if short {
        format!("the file is cut short ({first})")
    } else {
        first.into()
    }
}

fn check_length(
    path: &Path,
    content: &Content,
    name: &str,
    file_bytes: u64,
) -> Result<(), ModelError> {
    let info = &content.tensor_infos[name];
    let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
    let bytes = blocks as u128 * info.ggml_dtype.type_size() as u128;
    let end = u128::from(content.tensor_data_offset) + u128::from(info.offset) + bytes;
    if end <= u128::from(file_bytes) {
        return Ok(());
    }
    let reason = format!(
        "the file is cut short: tensor `{name}` ends at byte {end}, the file has {file_bytes}"
    );
    Err(ModelError::corrupt(path, reason))
}

/// llama.cpp's tensor names to Hugging Face's; q and k rows back to rotate-half order.
fn rename(
    config: &LlamaConfig,
    name: &str,
    tensor: Tensor,
) -> candle_core::Result<Option<(String, Tensor)>> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok(Some((whole.into(), tensor)));
    }
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else {
        return Ok(None);
    };
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
    let tensor = if heads > 0 {
        rotate_half_rows(&tensor, heads)?
    } else {
        tensor
    };
    Ok(Some((
        format!("model.layers.{layer}.{part}.weight"),
        tensor,
    )))
}

/// Row `2 i + half` of a head (llama.cpp) becomes row `half * head_dim / 2 + i` (Hugging Face).
fn rotate_half_rows(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = tensor.dims2()?;
    let half = rows / heads / 2;
    if half * heads * 2 != rows {
        candle_core::bail!("its {rows} rows are no {heads} heads");
    }
    tensor
        .reshape((heads, half, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
    /// Everything but long lists, which stand as their length.
    account: Account<'a>,
}

/// A value as JSON.
fn json(value: &Value) -> Json {
    const SHORT: usize = 16;
    match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::Bool(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        // No number of JSON, and refused as none.
        Value::F32(v) if !v.is_finite() => v.to_string().into(),
        Value::F64(v) if !v.is_finite() => v.to_string().into(),
        Value::F32(v) => short_float(f64::from(*v)).into(),
        Value::F64(v) => (*v).into(),
        Value::Array(list) if list.len() > SHORT => format!("{} values", list.len()).into(),
        Value::Array(list) => list.iter().map(json).collect(),
    }
}

impl<'a> Metadata<'a> {
    fn new(path: &'a Path, content: &'a Content, ignored: Ignored<'a>) -> Self {
        let keys: Map<String, Json> = content
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), json(value)))
            .collect();
        Self {
            path,
            content,
            account: Account::new(path, keys, ignored),
        }
    }

    fn value(&self, key: &str) -> Result<&Value, ModelError> {
        self.content
            .metadata
            .get(key)
            .ok_or_else(|| self.account.missing(key))
    }

    fn text(&self, key: &str) -> Result<&str, ModelError> {
        self.account
            .text(key)?
            .ok_or_else(|| self.account.missing(key))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ModelError> {
        let fail = |e: candle_core::Error| {
            ModelError::corrupt(self.path, format!("`{key}`: {}", reason(&e)))
        };
        let values = self.value(key)?.to_vec().map_err(fail)?;
        values
            .iter()
            .map(|v| v.to_string().cloned().map_err(fail))
            .collect()
    }

    fn unsupported(&self, key: &str, value: impl ToString, why: &'static str) -> ModelError {
        ModelError::Unsupported {
            path: self.path.into(),
            key: key.into(),
            value: value.to_string(),
            why: why.into(),
        }
    }

    fn config(&self) -> Result<LlamaConfig, ModelError> {
        let account = &self.account;
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(self.unsupported("general.architecture", architecture, "only `llama` is"));
        }
        if let Some(kind) = account
            .text("general.type")?
            .filter(|kind| *kind != "model")
        {
            return Err(self.unsupported("general.type", kind, "only `model` is"));
        }
        account.check(&[&GGUF])?;
        let needed = |key: &str| account.size(key)?.ok_or_else(|| account.missing(key));
        let hidden_size = needed("llama.embedding_length")?;
        let num_attention_heads = needed("llama.attention.head_count")?;
        let head_dim = self.head_dim(hidden_size, num_attention_heads)?;
        let tokens = self
            .value("tokenizer.ggml.tokens")?
            .to_vec()
            .map_or(0, Vec::len);
        let mut config = LlamaConfig {
            hidden_size,
            intermediate_size: needed("llama.feed_forward_length")?,
            num_hidden_layers: needed("llama.block_count")?,
            num_attention_heads,
            num_key_value_heads: account
                .size("llama.attention.head_count_kv")?
                .unwrap_or(num_attention_heads),
            head_dim,
            vocab_size: account.size("llama.vocab_size")?.unwrap_or(tokens),
            rms_norm_eps: account
                .number("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| account.missing("llama.attention.layer_norm_rms_epsilon"))?,
            rope_theta: account.number("llama.rope.freq_base")?.unwrap_or(10_000.0),
            max_position_embeddings: needed("llama.context_length")?,
            tie_word_embeddings: !self.content.tensor_infos.contains_key("output.weight"),
            bos_token_id: self.token("tokenizer.ggml.bos_token_id")?,
            eos_token_id: None,
            pad_token_id: self.token("tokenizer.ggml.padding_token_id")?,
            ..LlamaConfig::default()
        }
        .normalize()
        .map_err(|reason| ModelError::TooLarge {
            path: self.path.into(),
            reason: in_gguf_words(reason),
        })?;
        for end in ["eos", "eot", "eom"] {
            let id = self.token(&format!("tokenizer.ggml.{end}_token_id"))?;
            add_ends(&mut config, id.into_iter().collect());
        }
        Ok(config)
    }

    /// The size of a head, the same for queries, keys, values and rotation.
    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, ModelError> {
        let account = &self.account;
        let head_dim = match account.size("llama.attention.key_length")? {
            Some(length) => length,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let reason =
                    "`llama.attention.head_count` does not divide `llama.embedding_length`";
                return Err(ModelError::corrupt(self.path, reason));
            }
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(length) = account.size(key)?.filter(|length| *length != head_dim) {
                return Err(account.refuse(
                    key,
                    &length.into(),
                    &format!("is not computed, only {head_dim}"),
                ));
            }
        }
        Ok(head_dim)
    }

    /// A token's id; -1 stands for none, also where it is stored without a sign.
    fn token(&self, key: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.account.id(key)?.filter(|id| *id != u32::MAX))
    }

    /// The texts of the tokens that metadata names, and whether plain text begins with one.
    fn specials(&self, tokens: &[String]) -> Result<SpecialTokens, ModelError> {
        let mut specials = SpecialTokens {
            add_bos: self.account.flag("tokenizer.ggml.add_bos_token")?,
            ..Default::default()
        };
        for (name, key) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        ] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let Some(id) = self.token(&key)? else {
                continue;
            };
            let text = tokens.get(id as usize);
            let beyond = || {
                ModelError::corrupt(
                    self.path,
                    format!("`{key}` = {id}, and there are {} tokens", tokens.len()),
                )
            };
            specials
                .texts
                .insert(name.into(), text.ok_or_else(beyond)?.clone());
        }
        Ok(specials)
    }

    fn tokenizer(&self, config: &LlamaConfig) -> Result<Tokenizer, ModelError> {
        let model = self.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(self.unsupported(
                "tokenizer.ggml.model",
                model,
                "only byte-level BPE (`gpt2`) is",
            ));
        }
        let fail = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let merges = self.texts("tokenizer.ggml.merges")?;
        let merges = merges.iter().map(|m| {
            let pair = m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| ModelError::corrupt(self.path, format!("merge `{m}` is not a pair")))
        });
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
            return Err(ModelError::corrupt(
                self.path,
                format!("token `{twice}` stands twice"),
            ));
        }
        let vocab = tokens
            .iter()
            .enumerate()
            .map(|(i, t)| (t.clone(), i as u32))
            .collect::<Vocab>();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .build()
            .map_err(fail)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        match self.account.text("tokenizer.ggml.pre")?.unwrap_or("gpt-2") {
            "smollm" => {
                let split = Digits::new(true);
                let bytes = ByteLevel::new(false, true, true);
                inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])))
            }
            "gpt-2" | "gpt2" | "default" => {
                inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            }
            other => {
                return Err(self.unsupported(
                    "tokenizer.ggml.pre",
                    other,
                    "only `smollm` and `gpt-2` are",
                ));
            }
        };
        inner.with_decoder(Some(ByteLevel::default()));
        let specials = self.special_tokens(&tokens)?;
        inner.add_special_tokens(specials).map_err(fail)?;
        let eos = config
            .eos_token_id
            .as_ref()
            .map_or(&[][..], |ids| ids.ids());
        let tokenizer = Tokenizer::new(inner, eos).with_specials(self.specials(&tokens)?);
        tokenizer.map_err(|e| ModelError::corrupt(self.path, e))
    }

    /// Control tokens (type 3) and the ones a user defined (type 4) are never split; the latter are
    /// text of an answer.
    fn special_tokens(&self, tokens: &[String]) -> Result<Vec<AddedToken>, ModelError> {
        let Ok(types) = self.value("tokenizer.ggml.token_type") else {
            return Ok(Vec::new());
        };
        let types = types
            .to_vec()
            .map_err(|e| ModelError::corrupt(self.path, reason(&e)))?;
        if types.len() != tokens.len() {
            let reason = format!(
                "{} tokens and {} values of `tokenizer.ggml.token_type`",
                tokens.len(),
                types.len()
            );
            return Err(ModelError::corrupt(self.path, reason));
        }
        let kind = |v: &Value| v.to_i32().or_else(|_| v.to_u32().map(|t| t as i32)).ok();
        let named = tokens
            .iter()
            .zip(types)
            .filter_map(|(token, v)| match kind(v) {
                Some(3) => Some(AddedToken::from(token.clone(), true)),
                Some(4) => Some(AddedToken::from(token.clone(), false).normalized(false)),
                _ => None,
            });
        Ok(named.collect())
    }
}

/// Hugging Face's names of sizes as this kind of file calls them.
fn in_gguf_words(reason: String) -> String {
    const NAMES: [(&str, &str); 8] = [
        ("hidden_size", "llama.embedding_length"),
        ("intermediate_size", "llama.feed_forward_length"),
        ("num_hidden_layers", "llama.block_count"),
        ("num_attention_heads", "llama.attention.head_count"),
        ("num_key_value_heads", "llama.attention.head_count_kv"),
        ("max_position_embeddings", "llama.context_length"),
        ("head_dim", "llama.attention.key_length"),
        ("rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"),
    ];
    NAMES.iter().fold(reason, |text, (theirs, ours)| {
        text.replace(&format!("`{theirs}`"), &format!("`{ours}`"))
    })
}

/// The decimal number that a file meant when it stored an f32: 1e-5, not 0.00000999999974.
fn short_float(value: f64) -> f64 {
    format!("{}", value as f32).parse().unwrap_or(value)
}
