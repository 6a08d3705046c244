//! Byte-pair tokenizers of Hugging Face, and the tokens that begin and end a text.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::ModelError;

/// A byte-pair tokenizer and the ids that begin and end a text.
///
/// What `tokenizer.json` says of cutting and padding does not apply: whoever asks decides how much
/// fits.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Without the space that some tokenizers put in front of every text; none where `inner` does
    /// not.
    continuing: Option<Box<tokenizers::Tokenizer>>,
    /// Tokens that are found before a text is split.
    added: BTreeSet<u32>,
    eos: BTreeSet<u32>,
    specials: SpecialTokens,
    /// What stands in front of plain text.
    prefix: Vec<u32>,
}

/// The special tokens that a checkpoint names, by Hugging Face's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token`, `eos_token`, `pad_token` and so on, as written in the vocabulary.
    pub texts: BTreeMap<String, String>,
    /// Whether plain text begins with `bos_token`; the tokenizer's post-processor decides where
    /// nothing is said.
    pub add_bos: Option<bool>,
}

impl SpecialTokens {
    pub fn bos(&self) -> Option<&str> {
        self.texts.get("bos_token").map(String::as_str)
    }

    pub fn eos(&self) -> Option<&str> {
        self.texts.get("eos_token").map(String::as_str)
    }
}

/// Tokens that end a turn or a text whatever a checkpoint's `eos_token_id` says.
const END_TOKENS: [&str; 4] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"];

impl Tokenizer {
    /// Wraps a tokenizer; `eos` are further ids that end a text. Nothing stands in front of plain
    /// text.
    pub fn new(mut inner: tokenizers::Tokenizer, eos: &[u32]) -> Self {
        inner
            .with_truncation(None)
            .expect("no limit is no wrong limit")
            .with_padding(None);
        let ends = END_TOKENS.iter().filter_map(|t| inner.token_to_id(t));
        let eos = ends.chain(eos.iter().copied()).collect();
        let continuing = without_prefix(&inner).map(Box::new);
        let added = inner.get_added_tokens_decoder().into_keys().collect();
        Self {
            inner,
            continuing,
            added,
            eos,
            specials: SpecialTokens::default(),
            prefix: Vec::new(),
        }
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Corrupt`], naming the file.
    pub fn load(path: &Path, eos: &[u32]) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(ModelError::io(path))?;
        let inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| ModelError::corrupt(path, e))?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(ModelError::corrupt(
                path,
                "`dropout` is not 0: the same text would have other tokens each time",
            ));
        }
        Ok(Self::new(inner, eos))
    }

    /// The same tokenizer with a checkpoint's special tokens; `eos_token` ends a text, and
    /// `bos_token` stands in front of plain text where the checkpoint or the post-processor says
    /// so.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for a `bos_token` or `eos_token` that is no token, and for a
    /// post-processor that puts anything behind a text.
    pub fn with_specials(mut self, specials: SpecialTokens) -> Result<Self, ModelError> {
        let id = |name: &str, text: &str| {
            let missing =
                || ModelError::Tokenizer(format!("`{name}` = `{text}` is no token of it"));
            self.inner.token_to_id(text).ok_or_else(missing)
        };
        let bos = specials
            .bos()
            .map(|text| id("bos_token", text))
            .transpose()?;
        let eos = specials
            .eos()
            .map(|text| id("eos_token", text))
            .transpose()?;
        let (before, behind) = self.framing()?;
        if !behind.is_empty() {
            let behind = self.decode(&behind)?;
            return Err(ModelError::Tokenizer(format!(
                "its post-processor puts `{behind}` behind every text, and an answer cannot follow \
                 it\n\n\
                 hint: leave it out with `model.ignore = [\"post_processor\"]` in the recipe, \
                 `--ignore post_processor` on the command line"
            )));
        }
        self.prefix = match (specials.add_bos, bos) {
            (Some(false), _) => Vec::new(),
            (None, _) => before,
            (Some(true), _) if !before.is_empty() => before,
            (Some(true), Some(bos)) => vec![bos],
            (Some(true), None) => {
                return Err(ModelError::Tokenizer(
                    "`add_bos_token` is true and there is no `bos_token`".into(),
                ));
            }
        };
        self.eos.extend(eos);
        self.specials = specials;
        Ok(self)
    }

    pub(crate) fn has_post_processor(&self) -> bool {
        self.inner.get_post_processor().is_some()
    }

    /// The same tokenizer as if its file had no post-processor.
    pub(crate) fn without_post_processor(mut self) -> Self {
        self.inner
            .with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        self
    }

    /// What the post-processor puts in front of a text and behind it.
    fn framing(&self) -> Result<(Vec<u32>, Vec<u32>), ModelError> {
        let ids = |special: bool| {
            let encoding = self
                .inner
                .encode_fast("a", special)
                .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
            Ok::<_, ModelError>(encoding.get_ids().to_vec())
        };
        let plain = ids(false)?;
        let framed = ids(true)?;
        if plain == framed || plain.is_empty() {
            return Ok(Default::default());
        }
        let at = framed
            .windows(plain.len())
            .position(|window| window == plain);
        let at = at.ok_or_else(|| {
            ModelError::Tokenizer("its post-processor changes the tokens of a text".into())
        })?;
        Ok((framed[..at].to_vec(), framed[at + plain.len()..].to_vec()))
    }

    /// Token ids of a text that begins a sequence and says everything itself, such as what a chat
    /// template wrote. No special token is added; special tokens written in the text are
    /// recognized.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        encode(&self.inner, text)
    }

    /// Token ids of plain text, behind the token that begins a text where the model has one; never
    /// behind two.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.encode(text)?;
        if self.prefix.is_empty() || ids.starts_with(&self.prefix) {
            return Ok(ids);
        }
        Ok([self.prefix.as_slice(), &ids].concat())
    }

    /// Token ids of a text that goes on behind another, such as an answer: without the space in
    /// front that some tokenizers give every text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode_continuing(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let Some(bare) = &self.continuing else {
            return self.encode(text);
        };
        let encoding = bare
            .encode(text, false)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let ids = encoding.get_ids();
        let places = encoding.get_offsets();
        // Behind a special token, the whole text would have been given its space again.
        let special = ids
            .iter()
            .zip(places)
            .position(|(id, _)| self.added.contains(id));
        let Some(at) = special else {
            return Ok(ids.to_vec());
        };
        Ok([&ids[..at], &self.encode(&text[places[at].0..])?].concat())
    }

    /// The text of token ids, special tokens included. An incomplete UTF-8 character shows as
    /// U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(ids, false)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// As [`Self::decode`], without special tokens: what an answer says, as transformers'
    /// `skip_special_tokens`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode_said(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(ids, true)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// The id of one token, written as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether texts are cut at this token before anything else is done with them.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().contains_key(&id)
    }

    /// The special tokens that the checkpoint names.
    pub fn specials(&self) -> &SpecialTokens {
        &self.specials
    }

    /// Whether a token stands in front of plain text.
    pub fn begins_plain_text(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The token that ends a text, where the checkpoint names one.
    pub fn eos_token(&self) -> Option<u32> {
        self.token_id(self.specials.eos()?)
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

    /// Tokens whose ids are not below `rows`.
    pub(crate) fn beyond(&self, rows: usize) -> BTreeMap<u32, String> {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary
            .into_iter()
            .filter(|(_, id)| *id as usize >= rows)
            .map(|(token, id)| (id, token))
            .collect()
    }

    /// Whether it puts a space in front of every text.
    pub(crate) fn adds_space(&self) -> bool {
        self.continuing.is_some()
    }

    /// Writes `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Corrupt`], naming the file.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        self.inner
            .save(path, false)
            .map_err(|e| ModelError::corrupt(path, e))
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// The same tokenizer without a space in front of a text; `None` where it has none.
fn without_prefix(inner: &tokenizers::Tokenizer) -> Option<tokenizers::Tokenizer> {
    let json =
        |value: Result<Value, serde_json::Error>| value.expect("parts of a tokenizer are JSON");
    let normalizer = inner
        .get_normalizer()
        .map(|n| json(serde_json::to_value(n)));
    let pre_tokenizer = inner
        .get_pre_tokenizer()
        .map(|p| json(serde_json::to_value(p)));
    let mut bare_normalizer = normalizer.clone();
    let mut bare_pre_tokenizer = pre_tokenizer.clone();
    bare_normalizer.iter_mut().for_each(take_off_prefix);
    bare_pre_tokenizer.iter_mut().for_each(take_off_prefix);
    if bare_normalizer == normalizer && bare_pre_tokenizer == pre_tokenizer {
        return None;
    }
    let mut bare = inner.clone();
    // A normalizer that only puts a space in front leaves nothing to do.
    let normalizer = bare_normalizer
        .filter(|n| n["type"] != "Prepend")
        .map(|value| {
            serde_json::from_value::<NormalizerWrapper>(value)
                .expect("a sequence with fewer parts is one")
        });
    let pre_tokenizer = bare_pre_tokenizer.map(|value| {
        serde_json::from_value::<PreTokenizerWrapper>(value)
            .expect("another value of the same switch is one")
    });
    bare.with_normalizer(normalizer)
        .ok()?
        .with_pre_tokenizer(pre_tokenizer);
    Some(bare)
}

/// SentencePiece's space in front is a normalizer of its own or a switch of `Metaspace`;
/// `ByteLevel` has one too.
fn take_off_prefix(part: &mut Value) {
    match part["type"].as_str() {
        Some("Sequence") => {
            for name in ["normalizers", "pretokenizers"] {
                if let Some(parts) = part.get_mut(name).and_then(Value::as_array_mut) {
                    parts.retain(|part| part["type"] != "Prepend");
                    parts.iter_mut().for_each(take_off_prefix);
                }
            }
        }
        Some("Metaspace") => part["prepend_scheme"] = "never".into(),
        Some("ByteLevel") => part["add_prefix_space"] = false.into(),
        _ => {}
    }
}
