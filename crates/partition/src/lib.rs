//! A fine-tuned model split into what anyone may hold and what only its owner holds.
//!
//! ```text
//! DIR/manifest.json   everything public: base, architecture, transforms, numeric format, digests
//! DIR/public/         the base weights in the base's own compact storage, tokenizer, chat template
//! DIR/private/        the low-rank factors, or the private layers of a full fine-tune;
//!                     never leaves the server
//! DIR/README.md       model card: what each party learns
//! ```
//!
//! [`export()`] and [`export_full`] write a partition and check themselves, [`Partition::open`] is
//! the server's view, and [`Partition::open_public`] the client's. Nothing here is decided by file
//! names: digests decide.

mod bert;
mod card;
mod error;
mod export;
mod gpt2;
mod layers;
mod llama;
mod manifest;
mod partition;
mod private;
mod range;

pub use bert::bert_weights;
pub use error::PartitionError;
pub use export::{ExportOptions, ExportReport, ExportStage, export, export_full, shared_layers};
pub use gpt2::gpt2_weights;
pub use llama::{full_weights, private_weights, program_spec, public_weights};
pub use manifest::{Base, BaseFormat, FileEntry, ID_FILE, MANIFEST_FILE, Manifest, Reveal, SCHEMA};
pub use partition::Partition;
pub use private::{ADAPTER_FILE, LAYERS_FILE, PrivatePart};
pub use range::{Measured, describe_range, measure_range, range_of};

/// What each party of the setting `dealer` holds and learns: `(party, holds, learns)`.
pub fn parties() -> &'static [(&'static str, &'static str, &'static str)] {
    &card::PARTIES
}

/// What this kind of privacy does not give, one sentence each.
#[must_use]
pub fn limits(manifest: &Manifest) -> Vec<&'static str> {
    card::limits(manifest.decoder.numeric.rounding)
}

/// What a partition leaves to whoever serves it: `(what, choices)`.
pub fn choices() -> &'static [(&'static str, &'static str)] {
    &card::CHOICES
}

/// What a manifest gives away to everyone, one line each.
pub fn published(manifest: &Manifest) -> Vec<String> {
    card::published(manifest)
}
