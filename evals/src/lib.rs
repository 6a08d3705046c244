//! Evaluation: tasks, engines and scores; what is evaluated here is what is served.
//!
//! - [`Task`]: a versioned TOML file, embedded; its rows are rendered by the code that training
//!   uses
//! - [`engine`]: the float model, the integer twin, the secure protocol in process
//! - [`harness::run`]: task and engine to a [`Report`]
//! - [`metrics`]: BLEU, chrF, standard errors; [`measure`]: scores as functions of figures that add
//!   up
//! - [`compare`]: the difference of two runs on the same questions, with its interval
//! - [`merge`]: the report of a run from those of its parts
//! - [`results`]: a folder of results as lm-evaluation-harness writes it
//! - [`recovery`]: the share of a full fine-tune's gain that a model keeps, over tasks
//! - [`sandbox`]: where generated programs run
//! - [`table`]: the tables that people know

pub mod compare;
pub mod engine;
mod error;
pub mod harness;
pub mod measure;
pub mod merge;
pub mod metrics;
mod program;
mod prompt;
pub mod recovery;
pub mod results;
pub mod sandbox;
pub mod table;
mod task;

pub use error::EvalError;
pub use harness::{ExampleFigures, Metric, Part, Report, Sample, Scope};
pub use prompt::{Frame, PromptFormatter, Question};
pub use task::{Checks, Kind, Shots, Task};
