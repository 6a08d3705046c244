//! What arguments name, and groups of arguments that commands share.

pub mod base_model;
pub mod folders;
pub mod listen;
pub mod model_dir;
pub mod network;
pub mod services;
pub mod target;
pub mod variables;
