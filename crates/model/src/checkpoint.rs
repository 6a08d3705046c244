use crate::{Config, ModelError, Tokenizer, gguf};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// An open model: configuration, f32 tensors on the CPU under Hugging Face's names, tokenizer and chat template.
///
/// Rows of `q_proj` and `k_proj` are in Hugging Face's rotate-half order whatever the file had.
#[derive(Clone)]
pub struct Checkpoint {
    pub config: Config,
    pub tensors: BTreeMap<String, Tensor>,
    pub tokenizer: Tokenizer,
    pub chat_template: Option<String>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
}

/// How [`Checkpoint::save`] stores weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorDtype {
    F16,
    F32,
}

impl Checkpoint {
    /// Opens a Hugging Face folder (`config.json`, `tokenizer.json`, `*.safetensors`) or a `.gguf` file.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and, for a file cut short, the first tensor that is missing bytes.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        crate::threads::keep_candle_from_spinning();
        let checkpoint = if path.is_dir() {
            open_folder(path)?
        } else {
            std::fs::metadata(path).map_err(ModelError::io(path))?;
            if path.extension().is_none_or(|e| e != "gguf") {
                return Err(ModelError::NotACheckpoint { path: path.into() });
            }
            gguf::open(path)?
        };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// sha256 (hex) over every tensor's name, shape and f32 bytes (little endian), in order of the names.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in &self.tensors {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update((tensor.rank() as u64).to_le_bytes());
            tensor.dims().iter().for_each(|&d| hash.update((d as u64).to_le_bytes()));
            let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).unwrap_or_default();
            for chunk in values.chunks(4096) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A tensor by its Hugging Face name. A tied head answers to `lm_head.weight` too.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor, ModelError> {
        let stored = if name == "lm_head.weight" && self.config.tie_word_embeddings {
            "model.embed_tokens.weight"
        } else {
            name
        };
        self.tensors.get(stored).ok_or_else(|| ModelError::MissingTensor { name: name.into() })
    }

    /// The values of a tensor, row-major.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`].
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.tensor(name)?.flatten_all()?.to_vec1()?)
    }

    /// Writes a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Write`] or [`ModelError::Corrupt`], naming the file.
    pub fn save(&self, dir: &Path, dtype: TensorDtype) -> Result<(), ModelError> {
        std::fs::create_dir_all(dir).map_err(ModelError::write(dir))?;
        let dtype = if dtype == TensorDtype::F16 { DType::F16 } else { DType::F32 };
        let tensors = self.tensors.iter().map(|(name, t)| Ok((name.clone(), t.to_dtype(dtype)?)));
        let tensors: HashMap<String, Tensor> = tensors.collect::<Result<_, ModelError>>()?;
        write_tensors(tensors, &dir.join("model.safetensors"))?;
        write_json(&dir.join("config.json"), &self.config)?;
        self.tokenizer.save(&dir.join("tokenizer.json"))?;
        let settings = serde_json::json!({ "chat_template": self.chat_template, "add_bos_token": false });
        write_json(&dir.join("tokenizer_config.json"), &settings)
    }

    /// Every tensor of the architecture is present with its shape.
    fn check(&self) -> Result<(), ModelError> {
        let c = &self.config;
        let expect = |name: String, shape: &[usize]| {
            let tensor = self.tensor(&name)?;
            if tensor.dims() == shape {
                return Ok(());
            }
            Err(ModelError::Shape { name, found: tensor.dims().to_vec(), expected: shape.to_vec() })
        };
        expect("model.embed_tokens.weight".into(), &[c.vocab_size, c.hidden_size])?;
        expect("lm_head.weight".into(), &[c.vocab_size, c.hidden_size])?;
        expect("model.norm.weight".into(), &[c.hidden_size])?;
        for layer in 0..c.num_hidden_layers {
            for module in crate::MODULES {
                let shape = c.module_shape(module).expect("MODULES are the modules");
                expect(format!("{}.weight", crate::module_path(layer, module)), &shape)?;
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                expect(format!("model.layers.{layer}.{norm}.weight"), &[c.hidden_size])?;
            }
        }
        Ok(())
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| ModelError::corrupt(path, e))?;
    std::fs::write(path, text + "\n").map_err(ModelError::write(path))
}

/// Writes a safetensors file beside its place and moves it there when all of it is on the disk.
pub(crate) fn write_tensors(tensors: HashMap<String, Tensor>, path: &Path) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> Result<(), ModelError> {
        candle_core::safetensors::save(&tensors, &partial).map_err(ModelError::write(path))?;
        let file = std::fs::File::open(&partial).map_err(ModelError::write(path))?;
        file.sync_all().map_err(ModelError::write(path))?;
        std::fs::rename(&partial, path).map_err(ModelError::write(path))
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn open_folder(dir: &Path) -> Result<Checkpoint, ModelError> {
    let config_path = dir.join("config.json");
    if !config_path.is_file() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    let text = std::fs::read_to_string(&config_path).map_err(ModelError::io(&config_path))?;
    let config: Config = serde_json::from_str(&text).map_err(|e| ModelError::corrupt(&config_path, e))?;
    if config.model_type != "llama" {
        let (path, value) = (config_path, config.model_type);
        return Err(ModelError::Unsupported { path, key: "model_type".into(), value, why: "only `llama` is" });
    }
    let config = config.normalise().map_err(|e| ModelError::corrupt(&config_path, e))?;

    let mut files = weight_files(dir)?;
    let mut tensors = BTreeMap::new();
    for file in &files {
        let loaded = candle_core::safetensors::load(file, &Device::Cpu).map_err(|e| ModelError::corrupt(file, e))?;
        for (name, tensor) in loaded {
            tensors.insert(name, tensor.to_dtype(DType::F32)?);
        }
    }
    if config.tie_word_embeddings {
        tensors.remove("lm_head.weight");
    }

    let tokenizer_path = dir.join("tokenizer.json");
    let eos = config.eos_token_id.as_ref().map_or(&[][..], |ids| ids.ids());
    let tokenizer = Tokenizer::load(&tokenizer_path, eos)?;
    let chat_template = folder_template(dir)?;
    files.push(config_path);
    files.push(tokenizer_path);
    Ok(Checkpoint { config, tensors, tokenizer, chat_template, files })
}

/// What the index names, or `model.safetensors`, or every safetensors file: a folder may hold the same weights twice.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let (index, whole) = (dir.join("model.safetensors.index.json"), dir.join("model.safetensors"));
    if index.is_file() {
        let text = std::fs::read_to_string(&index).map_err(ModelError::io(&index))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| ModelError::corrupt(&index, e))?;
        let map = json["weight_map"].as_object().ok_or_else(|| ModelError::corrupt(&index, "has no `weight_map`"))?;
        let names: std::collections::BTreeSet<&str> = map.values().filter_map(|name| name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\']) || !dir.join(name).is_file()) {
            return Err(ModelError::corrupt(&index, format!("names `{name}`, which is not beside it")));
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
    if files.is_empty() { Err(ModelError::NotACheckpoint { path: dir.into() }) } else { Ok(files) }
}

/// `chat_template.jinja`, or the entry of `tokenizer_config.json`, where present.
fn folder_template(dir: &Path) -> Result<Option<String>, ModelError> {
    let jinja = dir.join("chat_template.jinja");
    if jinja.is_file() {
        return std::fs::read_to_string(&jinja).map(Some).map_err(ModelError::io(jinja));
    }
    let settings = dir.join("tokenizer_config.json");
    if !settings.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&settings).map_err(ModelError::io(&settings))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| ModelError::corrupt(&settings, e))?;
    Ok(json["chat_template"].as_str().map(str::to_owned))
}
