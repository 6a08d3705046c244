//! A Hugging Face folder: `config.json`, `generation_config.json`, the tokenizer's files and
//! `*.safetensors`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::Device;
use serde_json::Value;

use crate::{
    ChatTemplate, Checkpoint, ModelError, SpecialTokens, TokenIds, Tokenizer,
    account::{Account, GENERATION, Ignored, TOKENIZER},
    chat::check_template,
    checkpoint::{Tensors, add_tensor},
    fused,
    llama::read::{add_ends, decoder_config, ends},
    named_once, scaled,
};

pub(crate) fn open(dir: &Path, ignored: Ignored<'_>) -> Result<Checkpoint, ModelError> {
    let config_path = dir.join("config.json");
    if !config_path.is_file() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    let account = Account::read(&config_path, ignored)?;
    let mut config = decoder_config(&account)?;
    let generation = Account::read_if_there(&dir.join("generation_config.json"), ignored)?;
    generation.check(&[&GENERATION])?;
    let ends = ends(&generation, config.vocab_size)?;
    add_ends(&mut config, ends);

    let settings = Account::read_if_there(&dir.join("tokenizer_config.json"), ignored)?;
    settings.check(&[&TOKENIZER])?;
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
    let tensors = fused::split(tensors, &config)?;
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
