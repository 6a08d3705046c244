//! The float side of Marill: checkpoints, tokenizer, chat template and the architectures in candle.
//!
//! - [`Checkpoint`] opens a Hugging Face folder or a GGUF file and identifies it by a digest of its
//!   tensors.
//! - [`Llama`] is the one float definition of its architecture; training, evaluation and generation
//!   all run it. Its operations ([`ops`]) carry analytic gradients, because candle's fused ones
//!   silently have none.
//! - [`Gpt2`] and [`Bert`] are the float definitions of the other architectures that the secure
//!   program knows. [`Architecture`] is one of the three, and [`ModelConfig`] what all say about
//!   themselves.
//! - [`Prefix`] is what a client runs in clear: plain kernels with a fixed summation order, so that
//!   a prompt fed at once and token by token gives the same bits.

mod account;
mod adapter;
mod architecture;
mod batched_model;
mod bert;
mod chat;
mod checkpoint;
mod config;
mod error;
mod float_model;
mod folder;
mod fused;
mod gguf;
mod gpt2;
mod heads;
mod layers;
mod llama;
mod lora;
mod merge;
mod named_once;
mod open;
pub mod ops;
pub mod peft;
mod prefix;
mod rotation;
mod scaled;
mod size;
mod threads;
mod tokenizer;
mod transforms;
mod var_builder;

pub use account::families::{FamilyKeys, QkNorm};
pub use adapter::Adapter;
pub use architecture::Architecture;
pub use batched_model::{BatchedModel, BlockId, Piece, View};
pub use bert::{Bert, BertConfig};
pub use chat::{ChatTemplate, Message, NO_TEMPLATE, plain_chat, render_chat};
pub use checkpoint::{Checkpoint, TensorDtype};
pub use config::{ModelConfig, Sizes, TokenIds};
pub use error::ModelError;
pub use float_model::FloatModel;
pub use gpt2::{Gpt2, Gpt2Cache, Gpt2Config};
pub use heads::{
    HeadMethod, HeadTransform, LayerHeads, MOST_GROUPINGS, adjacent_groups, all_groupings,
    all_prunings, strided_groups,
};
pub use layers::{AffineBlock, LayerNorm, Linear, RmsNorm, Rows};
pub use llama::{Cache, Llama, LlamaBlock, LlamaConfig, MODULES, module_path};
pub use lora::LoraConfig;
pub use peft::PeftAdapter;
pub use prefix::Prefix;
pub use rotation::RopeScaling;
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use transforms::Transforms;
