//! One module per command: each has `Args` for clap and `run`.

pub mod ablate;
pub mod bench;
pub mod chat;
pub mod dealer;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod gateway;
pub mod generate;
pub mod inspect;
pub mod keys;
pub mod man;
pub mod merge;
pub mod party;
pub mod plan;
pub mod recipes;
pub mod serve;
pub mod state;
pub mod train;
pub mod up;
