//! Fine-tuning for secure inference: frozen prefix, LoRA updates, merged heads, distillation.
//!
//! [`train`] runs a recipe and writes its output folder: `adapter.safetensors` and
//! `transforms.json` (or a whole checkpoint under `model/` when all weights were trained),
//! `recipe.toml` as resolved, `metrics.jsonl`, `tensorboard/`, `loss.svg` and `checkpoints/`. The
//! caller exports the partition. A run and its resumed twin give the same bits: every random number
//! is a function of seed, stream and counter, and every sum has a fixed order.

mod activations;
mod batches;
mod best;
mod calibration;
mod data_init;
mod directions;
mod distill;
mod dry_run;
mod error;
mod estimate;
mod events;
mod heads;
mod init_from;
mod objective;
mod optimizer;
mod options;
mod output;
mod params;
mod prefix_cache;
mod record;
mod rng;
mod samples;
mod scratch;
mod state;
mod teacher;
mod trainer;
mod transforms;

pub use dry_run::{DryRun, dry_run};
pub use error::TrainError;
pub use estimate::{Estimate, peak_memory_bytes};
pub use options::TrainOptions;
pub use output::{Best, DataNotes, HeadError, Progress, Summary, TaughtBy, Told, TrainReport};
pub use rng::Rng;
pub use samples::{Sample, end_token, prompt_text, prompt_tokens, some_rows};
pub use scratch::{CHATML, SPECIAL_TOKENS, train_tokenizer};
pub use teacher::{train, train_told};
pub use transforms::shape_of;
