//! A Hugging Face folder: `config.json`, `generation_config.json`, the tokenizer's files and
//! `*.safetensors`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::Device;
use serde_json::Value;

use crate::{
    ChatTemplate, Checkpoint, LlamaConfig, ModelError, SpecialTokens, TokenIds, Tokenizer,
    account::{Account, GENERATION, Ignored, LLAMA, ROPE, TOKENIZER, shortened},
    chat::check_template,
    checkpoint::{Tensors, add_tensor},
    named_once, scaled,
};

pub(crate) fn open(dir: &Path, ignored: Ignored<'_>) -> Result<Checkpoint, ModelError> {
    let config_path = dir.join("config.json");
    if !config_path.is_file() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    let account = Account::read(&config_path, ignored)?;
    let mut config = llama_config(&account)?;
    let generation = Account::read_if_there(&dir.join("generation_config.json"), ignored)?;
    generation.check(&GENERATION)?;
    let ends = ends(&generation, config.vocab_size)?;
    add_ends(&mut config, ends);

    let settings = Account::read_if_there(&dir.join("tokenizer_config.json"), ignored)?;
    settings.check(&TOKENIZER)?;
    let tokenizer_path = dir.join("tokenizer.json");
    let tokenizer = tokenizer(&tokenizer_path, &settings, config.eos_token_id.as_ref())?;
    // An end that only the tokenizer's files name is an end for whoever reads the configuration
    // alone.
    add_ends(&mut config, tokenizer.eos_token().into_iter().collect());
    let chat_template =
        template(dir, &settings)?.map(|source| ChatTemplate::new(source, &tokenizer));

    let mut files = weight_files(dir)?;
    let mut tensors = Tensors::new();
    for file in &files {
        named_once::check(file)?;
        let loaded = candle_core::safetensors::load(file, &Device::Cpu)
            .map_err(|e| ModelError::corrupt(file, e))?;
        for (name, tensor) in loaded {
            add_tensor(&mut tensors, file, name, tensor, ignored)?;
        }
    }
    let tensors = scaled::to_floats(tensors, &account)?;
    files.push(config_path);
    files.push(tokenizer_path);
    Checkpoint::checked(
        config.into(),
        tensors,
        tokenizer,
        chat_template,
        files,
        ignored,
    )
}

/// LLaMA's configuration, from a file whose every key is accounted for; others are refused.
fn llama_config(account: &Account<'_>) -> Result<LlamaConfig, ModelError> {
    let path = &account.path;
    only_llama(account)?;
    if let Some(value) = account.keys.get("architectures")
        && value != &serde_json::json!(["LlamaForCausalLM"])
        && value != &serde_json::json!([])
    {
        return Err(account.refuse(
            "architectures",
            value,
            "is not computed, only [\"LlamaForCausalLM\"]",
        ));
    }
    account.check(&LLAMA)?;
    let needed = |key: &str| account.size(key)?.ok_or_else(|| account.missing(key));
    let hidden_size = needed("hidden_size")?;
    let num_attention_heads = needed("num_attention_heads")?;
    let head_dim = account.size("head_dim")?;
    if head_dim.is_none()
        && num_attention_heads > 0
        && !hidden_size.is_multiple_of(num_attention_heads)
    {
        let reason =
            "`num_attention_heads` does not divide `hidden_size`, and there is no `head_dim`";
        return Err(ModelError::corrupt(path, reason));
    }
    let config = LlamaConfig {
        model_type: "llama".into(),
        architectures: Vec::new(),
        hidden_size,
        intermediate_size: needed("intermediate_size")?,
        num_hidden_layers: needed("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: account
            .size("num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        head_dim: head_dim.unwrap_or(0),
        vocab_size: needed("vocab_size")?,
        rms_norm_eps: account
            .number("rms_norm_eps")?
            .ok_or_else(|| account.missing("rms_norm_eps"))?,
        rope_theta: rope_theta(account)?,
        max_position_embeddings: needed("max_position_embeddings")?,
        tie_word_embeddings: account.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: account.id("bos_token_id")?,
        eos_token_id: None,
        pad_token_id: account.id("pad_token_id")?,
        quantization_config: account.table("quantization_config")?.map(Value::Object),
    };
    let mut config = config.normalize().map_err(|reason| ModelError::TooLarge {
        path: path.clone(),
        reason,
    })?;
    let ends = ends(account, config.vocab_size)?;
    add_ends(&mut config, ends);
    Ok(config)
}

fn only_llama(account: &Account<'_>) -> Result<(), ModelError> {
    let other = match account.keys.get("model_type") {
        None => return Ok(()),
        Some(Value::String(kind)) if kind == "llama" => return Ok(()),
        Some(other) => other,
    };
    let value = other
        .as_str()
        .map_or_else(|| other.to_string(), str::to_owned);
    Err(ModelError::Unsupported {
        path: account.path.clone(),
        key: "model_type".into(),
        value,
        why: "only `llama` is",
    })
}

/// Tokens that end a text, by a file.
fn ends(account: &Account<'_>, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
    let ids = account.ids("eos_token_id")?;
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(ids),
        Some(beyond) => {
            let why = format!("names {beyond}, and there are {vocab_size} tokens");
            Err(account.refuse("eos_token_id", &account.keys["eos_token_id"], &why))
        }
    }
}

/// Adds tokens that end a text, each once and in the order of the files.
pub(crate) fn add_ends(config: &mut LlamaConfig, more: Vec<u32>) {
    let mut ids = config
        .eos_token_id
        .as_ref()
        .map_or_else(Vec::new, |ids| ids.ids().to_vec());
    ids.extend(more);
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    config.eos_token_id = match ids.as_slice() {
        [] => None,
        [id] => Some(TokenIds::One(*id)),
        _ => Some(TokenIds::Many(ids)),
    };
}

/// The base of the rotation: a key of its own, or one of `rope_parameters` (transformers 5) or
/// `rope_scaling`, where no scaling but the one called `default` is computed.
fn rope_theta(account: &Account<'_>) -> Result<f64, ModelError> {
    let mut theta = account
        .number("rope_theta")?
        .map(|theta| ("rope_theta".to_owned(), theta));
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(table) = account.table(key)? else {
            continue;
        };
        if let Some((kind, value)) = table.iter().find(|(_, value)| value.is_object()) {
            let why = "is a table: layers that rotate differently are not computed";
            return Err(account.refuse(&format!("{key}.{kind}"), value, why));
        }
        for name in ["rope_type", "type"] {
            if let Some(kind) = table
                .get(name)
                .filter(|kind| kind.as_str() != Some("default"))
            {
                return Err(account.refuse(
                    &format!("{key}.{name}"),
                    kind,
                    "is not computed, only \"default\"",
                ));
            }
        }
        account.check_table(&format!("{key}."), &table, &ROPE)?;
        let Some(value) = table.get("rope_theta") else {
            continue;
        };
        let place = format!("{key}.rope_theta");
        let new = value.as_f64().ok_or_else(|| {
            ModelError::corrupt(
                &account.path,
                format!("`{place}` = {} is no number", shortened(&value.to_string())),
            )
        })?;
        if let Some((other, old)) = theta.filter(|(_, old)| *old != new) {
            let reason = format!("`{other}` = {old} and `{place}` = {new} contradict each other");
            return Err(ModelError::corrupt(&account.path, reason));
        }
        theta = Some((place, new));
    }
    Ok(theta.map_or(10_000.0, |(_, theta)| theta))
}

fn tokenizer(
    path: &Path,
    settings: &Account<'_>,
    ends: Option<&TokenIds>,
) -> Result<Tokenizer, ModelError> {
    let bare = Tokenizer::load(path, ends.map_or(&[][..], |ids| ids.ids()))?;
    let framed = bare.has_post_processor() && settings.ignored().has("post_processor");
    let bare = if framed {
        bare.without_post_processor()
    } else {
        bare
    };
    check_tokens(&bare, settings)?;
    let mut texts = BTreeMap::new();
    // Where the settings leave a token out, older versions of transformers wrote it here.
    let map = Account::read_if_there(
        &settings.path.with_file_name("special_tokens_map.json"),
        settings.ignored(),
    )?;
    for source in [&map, settings] {
        for name in [
            "bos_token",
            "eos_token",
            "unk_token",
            "pad_token",
            "cls_token",
            "sep_token",
            "mask_token",
        ] {
            let Some(value) = source.keys.get(name) else {
                continue;
            };
            let text =
                token_text(value).ok_or_else(|| source.refuse(name, value, "is no token"))?;
            texts.insert(name.to_owned(), text.to_owned());
        }
    }
    let specials = SpecialTokens {
        texts,
        add_bos: settings.flag("add_bos_token")?,
    };
    bare.with_specials(specials).map_err(|e| match e {
        ModelError::Tokenizer(reason) => ModelError::corrupt(path, reason),
        other => other,
    })
}

/// A token written as a text, or as an object with its properties.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// transformers adds tokens that the settings name and `tokenizer.json` does not have; here they
/// must agree.
fn check_tokens(tokenizer: &Tokenizer, settings: &Account<'_>) -> Result<(), ModelError> {
    let differs =
        |key: &str, value: &Value| settings.refuse(key, value, "is not what `tokenizer.json` says");
    let ignored = settings.ignored();
    if let Some(table) = settings.table("added_tokens_decoder")? {
        for (id, value) in &table {
            let token = token_text(value).and_then(|text| tokenizer.token_id(text));
            if token.is_none() || token != id.parse().ok() {
                return Err(differs(&format!("added_tokens_decoder.{id}"), value));
            }
        }
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let named: Vec<&Value> = match settings.keys.get(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(table)) => table.values().collect(),
            Some(other) => return Err(settings.refuse(key, other, "is no list of tokens")),
        };
        let known = |value: &&Value| {
            token_text(value)
                .is_some_and(|text| tokenizer.token_id(text).is_some() || ignored.has(text))
        };
        if let Some(value) = named.into_iter().find(|value| !known(value)) {
            return Err(differs(key, value));
        }
    }
    match settings.flag("add_prefix_space")? {
        Some(adds) if adds != tokenizer.adds_space() => {
            Err(differs("add_prefix_space", &adds.into()))
        }
        _ => Ok(()),
    }
}

/// `chat_template.jinja`, or the entry of `tokenizer_config.json`: a text, or several of which one
/// is the `default`.
fn template(dir: &Path, settings: &Account<'_>) -> Result<Option<String>, ModelError> {
    let jinja = dir.join("chat_template.jinja");
    if jinja.is_file() && !settings.ignored().has("chat_template.jinja") {
        let source = std::fs::read_to_string(&jinja).map_err(ModelError::io(&jinja))?;
        let wrong =
            |why: &str| ModelError::unaccounted(&jinja, "the template", "chat_template.jinja", why);
        check_template(&source).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
        return Ok(Some(source));
    }
    let Some(value) = settings.keys.get("chat_template") else {
        return Ok(None);
    };
    let default = match value {
        Value::String(text) => Some(text.as_str()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            default.and_then(|entry| entry["template"].as_str())
        }
        Value::Object(named) => named.get("default").and_then(Value::as_str),
        _ => return Err(settings.refuse("chat_template", value, "is no template")),
    };
    match default {
        Some(text) => match check_template(text) {
            Ok(()) => Ok(Some(text.to_owned())),
            Err(error) => {
                Err(settings.refuse("chat_template", value, &format!("cannot be read: {error}")))
            }
        },
        None => Err(settings.refuse("chat_template", value, "has no template named `default`")),
    }
}

/// What the index names, or `model.safetensors`, or every safetensors file: a folder may hold the
/// same weights twice.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index = dir.join("model.safetensors.index.json");
    let whole = dir.join("model.safetensors");
    if index.is_file() {
        let text = std::fs::read_to_string(&index).map_err(ModelError::io(&index))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| ModelError::corrupt(&index, e))?;
        let map = json["weight_map"]
            .as_object()
            .ok_or_else(|| ModelError::corrupt(&index, "has no `weight_map`"))?;
        let names: std::collections::BTreeSet<&str> =
            map.values().filter_map(|name| name.as_str()).collect();
        if let Some(name) = names
            .iter()
            .find(|name| name.contains(['/', '\\']) || !dir.join(name).is_file())
        {
            return Err(ModelError::corrupt(
                &index,
                format!("names `{name}`, which is not beside it"),
            ));
        }
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let entries = std::fs::read_dir(dir).map_err(ModelError::io(dir))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    if files.is_empty() {
        Err(ModelError::NotACheckpoint { path: dir.into() })
    } else {
        Ok(files)
    }
}
