//! Whole runs on a tiny model: from nothing, then fine-tuned, resumed, distilled, and stopped for
//! good reasons.

mod cost;
mod data;
mod distillation;
mod early;
mod heads;
mod init;
mod learning;
mod place;
mod resume;
