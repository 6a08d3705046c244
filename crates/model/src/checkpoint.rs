//! A model in memory, whichever format it came from, its digest, and how it is written back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use sha2::{Digest, Sha256};

use crate::{
    Architecture, ChatTemplate, ModelConfig, ModelError, Tokenizer,
    account::Ignored,
    fused, ops,
    var_builder::{PEFT_PREFIX, var_builder},
};

/// An open model: configuration, f32 tensors on the CPU under Hugging Face's names, tokenizer and
/// chat template.
///
/// Rows of `q_proj` and `k_proj` are in Hugging Face's rotate-half order whatever the file had.
#[derive(Clone)]
pub struct Checkpoint {
    pub config: Architecture,
    pub tensors: BTreeMap<String, Tensor>,
    pub tokenizer: Tokenizer,
    pub chat_template: Option<ChatTemplate>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Keys, tensors and tokens that its owner said may be left out, see
    /// [`Checkpoint::open_ignoring`].
    pub ignored: Vec<String>,
}

/// A tensor as a file holds it.
pub(crate) struct Stored {
    pub tensor: Tensor,
    pub file: PathBuf,
}

pub(crate) type Tensors = BTreeMap<String, Stored>;

/// Adds a tensor of a file, unless it is ignored.
///
/// # Errors
/// [`ModelError::Corrupt`] where another file has one of the same name.
pub(crate) fn add_tensor(
    tensors: &mut Tensors,
    file: &Path,
    name: String,
    tensor: Tensor,
    ignored: Ignored<'_>,
) -> Result<(), ModelError> {
    if ignored.has(&name) {
        return Ok(());
    }
    if let Some(other) = tensors.get(&name) {
        return Err(ModelError::corrupt(
            file,
            format!("tensor `{name}` is in `{}` too", other.file.display()),
        ));
    }
    tensors.insert(
        name,
        Stored {
            tensor,
            file: file.into(),
        },
    );
    Ok(())
}

/// How [`Checkpoint::save`] stores weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorDtype {
    F16,
    BF16,
    F32,
}

impl Checkpoint {
    /// A checkpoint of parts that fit together; a head that repeats the embedding is left out.
    pub(crate) fn checked(
        config: Architecture,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        files: Vec<PathBuf>,
        ignored: Ignored<'_>,
    ) -> Result<Self, ModelError> {
        let place = files.first().cloned().unwrap_or_default();
        let entries = ignored.entries.to_vec();
        let mut checkpoint = Self {
            config,
            tensors,
            tokenizer,
            chat_template,
            files,
            ignored: entries,
        };
        checkpoint.drop_tied_head(&place)?;
        checkpoint.check().map_err(|error| match error {
            ModelError::Shape { .. } | ModelError::MissingTensor { .. } => {
                ModelError::corrupt(&place, error)
            }
            other => other,
        })?;
        checkpoint.account_for_tensors(&place, ignored)?;
        Ok(checkpoint)
    }

    /// sha256 (hex) over every tensor's name, shape and f32 bytes (little endian), in order of the
    /// names.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in &self.tensors {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update((tensor.rank() as u64).to_le_bytes());
            tensor
                .dims()
                .iter()
                .for_each(|&d| hash.update((d as u64).to_le_bytes()));
            let values = tensor
                .flatten_all()
                .and_then(|t| t.to_vec1::<f32>())
                .unwrap_or_default();
            for chunk in values.chunks(4096) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        marill_numeric::hex(&hash.finalize())
    }

    /// A tensor by its Hugging Face name. A tied head answers to `lm_head.weight` too.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor, ModelError> {
        let stored = match self.config.tied_head() {
            Some((head, embedding)) if name == head => embedding,
            _ => name,
        };
        self.tensors
            .get(stored)
            .ok_or_else(|| ModelError::MissingTensor { name: name.into() })
    }

    /// The tensors as candle-nn's modules ask for them: `vb.pp("model.layers").pp(3)`.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        self.var_builder_with([])
    }

    /// As [`Self::var_builder`], with `more` beside these tensors or, under the same name, in their
    /// place: variables to train, and an adapter's factors under PEFT's names.
    pub fn var_builder_with(
        &self,
        more: impl IntoIterator<Item = (String, Tensor)>,
    ) -> VarBuilder<'static> {
        let more = more.into_iter().map(|(name, tensor)| {
            let name = name.strip_prefix(PEFT_PREFIX).unwrap_or(&name);
            (name.to_owned(), tensor)
        });
        var_builder(self.tensors.clone().into_iter().chain(more))
    }

    /// The values of a tensor, row-major.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`].
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.tensor(name)?.flatten_all()?.to_vec1()?)
    }

    /// Writes a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json`,
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Write`] or [`ModelError::Corrupt`], naming the file.
    pub fn save(&self, dir: &Path, dtype: TensorDtype) -> Result<(), ModelError> {
        std::fs::create_dir_all(dir).map_err(ModelError::write(dir))?;
        let dtype = match dtype {
            TensorDtype::F16 => DType::F16,
            TensorDtype::BF16 => DType::BF16,
            TensorDtype::F32 => DType::F32,
        };
        let tensors = match &self.config {
            Architecture::Llama(config) => fused::joined(self.tensors.clone(), config)?,
            _ => self.tensors.clone(),
        };
        let tensors = tensors
            .into_iter()
            .map(|(name, t)| Ok((name, t.to_dtype(dtype)?)));
        let tensors: HashMap<String, Tensor> = tensors.collect::<Result<_, ModelError>>()?;
        write_tensors(tensors, &dir.join("model.safetensors"))?;
        // Scales are in the weights by now.
        let config = serde_json::to_value(self.config.without_scales());
        let mut config = config.map_err(|e| ModelError::corrupt(dir.join("config.json"), e))?;
        if let Some(keys) = config.as_object_mut() {
            // Transformers has a family's own default where it is missing, which may be a token
            // behind this vocabulary.
            keys.entry("pad_token_id")
                .or_insert(serde_json::Value::Null);
        }
        write_json(&dir.join("config.json"), &config)?;
        self.tokenizer.save(&dir.join("tokenizer.json"))?;
        write_json(&dir.join("tokenizer_config.json"), &self.tokenizer_config())
    }

    /// What `tokenizer_config.json` says of this model: its template, its special tokens, and
    /// whether plain text begins with one.
    pub fn tokenizer_config(&self) -> serde_json::Value {
        let mut settings = serde_json::Map::new();
        settings.insert(
            "chat_template".into(),
            self.chat_template
                .as_ref()
                .map(|t| t.source.as_str())
                .into(),
        );
        settings.insert(
            "add_bos_token".into(),
            self.tokenizer.begins_plain_text().into(),
        );
        for (name, text) in &self.tokenizer.specials().texts {
            settings.insert(name.clone(), text.as_str().into());
        }
        settings.into()
    }

    /// Every tensor is one of the architecture, every weight is a number and every token has a row.
    fn account_for_tensors(&self, place: &Path, ignored: Ignored<'_>) -> Result<(), ModelError> {
        let known = self.config.tensors().into_iter().map(|(name, _)| name);
        let known: BTreeSet<String> = known.collect();
        for (name, tensor) in &self.tensors {
            // Tables that older versions of transformers stored, and compute themselves since.
            if !known.contains(name) && !name.ends_with("rotary_emb.inv_freq") {
                let why = "is not used: this architecture has none";
                return Err(ModelError::unaccounted(
                    place,
                    &format!("tensor `{name}`"),
                    name,
                    why,
                ));
            }
            let odd = ops::with_floats(tensor, "check", |values| {
                values.iter().position(|v| !v.is_finite())
            })?;
            if let Some(index) = odd {
                let reason = format!("tensor `{name}`: value {index} is not a finite number");
                return Err(ModelError::corrupt(place, reason));
            }
        }
        let rows = self.config.vocab_size();
        let beyond = self.tokenizer.beyond(rows);
        if let Some((id, token)) = beyond.iter().find(|(_, token)| !ignored.has(token)) {
            let why = format!("has id {id}, and the embedding has {rows} rows");
            return Err(ModelError::unaccounted(
                place,
                &format!("token `{token}`"),
                token,
                &why,
            ));
        }
        Ok(())
    }

    /// A head of its own beside `tie_word_embeddings` must be the embedding, which then stands for
    /// it.
    fn drop_tied_head(&mut self, place: &Path) -> Result<(), ModelError> {
        let Some((head_name, embedding_name)) = self.config.tied_head() else {
            return Ok(());
        };
        let head = self.tensors.remove(head_name);
        let embedding = self.tensors.get(embedding_name);
        let (Some(head), Some(embedding)) = (head, embedding) else {
            return Ok(());
        };
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        if head.dims() == embedding.dims() && values(&head)? == values(embedding)? {
            return Ok(());
        }
        let why = format!("is not `{embedding_name}`, and `tie_word_embeddings` says that it is");
        let what = format!("tensor `{head_name}`");
        Err(ModelError::unaccounted(place, &what, head_name, &why))
    }

    /// Every tensor of the architecture is present with its shape.
    fn check(&self) -> Result<(), ModelError> {
        for (name, expected) in self.config.tensors() {
            let tensor = self.tensor(&name)?;
            if tensor.dims() != expected {
                let found = tensor.dims().to_vec();
                return Err(ModelError::Shape {
                    name,
                    found,
                    expected,
                });
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
pub(crate) fn write_tensors(
    tensors: HashMap<String, Tensor>,
    path: &Path,
) -> Result<(), ModelError> {
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
