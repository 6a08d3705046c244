//! The secure programs, written against [`crate::engine::Engine`]: what runs, whoever runs it.

pub mod decoder;
pub mod encoder;
pub mod layers;
pub mod sampling;
