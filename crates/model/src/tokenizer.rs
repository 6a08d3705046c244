use crate::ModelError;
use std::collections::BTreeSet;
use std::path::Path;

/// A byte-pair tokenizer and the ids that end a text.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    eos: BTreeSet<u32>,
}

/// Tokens that end a turn or a text whatever a checkpoint's `eos_token_id` says.
const END_TOKENS: [&str; 4] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"];

impl Tokenizer {
    /// Wraps a tokenizer; `eos` are further ids that end a text.
    pub fn new(inner: tokenizers::Tokenizer, eos: &[u32]) -> Self {
        let ends = END_TOKENS.iter().filter_map(|t| inner.token_to_id(t));
        let eos = ends.chain(eos.iter().copied()).collect();
        Self { inner, eos }
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Corrupt`], naming the file.
    pub fn load(path: &Path, eos: &[u32]) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(ModelError::io(path))?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| ModelError::corrupt(path, e))?;
        Ok(Self::new(inner, eos))
    }

    /// Token ids of a text. No special token is added; special tokens written in the text are recognised.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, special tokens included. An incomplete UTF-8 character shows as U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids, false).map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// The id of one token, written as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether generation ends with this token.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// The ids that end a text, ascending.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.eos.iter().copied()
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Writes `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Corrupt`], naming the file.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        self.inner.save(path, false).map_err(|e| ModelError::corrupt(path, e))
    }
}
