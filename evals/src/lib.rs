//! Evaluation: tasks, engines and scores; what is evaluated here is what is served.

pub mod metrics;
