//! What a person reads: answers, progress, errors with their hints and exit codes.

pub mod advice;
pub mod exporting;
pub mod failure;
pub mod progress;
pub mod terminal;
pub mod waiting;
