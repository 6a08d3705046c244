//! Experiments of many training runs: what is compared, the cells that were run, what they say.

pub mod cell;
pub mod plan;
pub mod report;
pub mod run;
