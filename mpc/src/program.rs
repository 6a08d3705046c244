//! The secure programs, written against [`crate::engine::Engine`]: what runs, whoever runs it.

pub(crate) mod blocks;
pub mod cache;
pub mod decoder;
pub mod encoder;
pub mod layers;
pub(crate) mod padding;
mod project;
mod qk_norm;
pub mod sampling;
mod step;

pub(crate) use crate::program::step::run_blind;
pub use crate::program::step::step;
