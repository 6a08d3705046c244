//! What arguments name, and groups of arguments that commands share.

pub mod base_model;
pub mod model_dir;
pub mod network;
pub mod places;
pub mod target;
