//! Evaluation: tasks, engines and scores; what is evaluated here is what is served.
//!
//! - [`Task`]: a versioned TOML file, embedded; its rows are rendered by the code that training uses
//! - [`engine`]: the float model, the integer twin, the secure protocol in process
//! - [`harness::run`]: task and engine to a [`Report`]
//! - [`metrics`]: BLEU, chrF, standard errors
//! - [`table`]: the tables that people know

pub mod engine;
mod error;
pub mod harness;
pub mod metrics;
mod prompt;
pub mod table;
mod task;

pub use error::EvalError;
pub use harness::{Metric, Report, Sample, Scope};
pub use prompt::{Question, Speaker};
pub use task::{Kind, Shots, Task};
