//! What secure evaluation costs before anything is run: rounds and bytes counted over shapes, and
//! the time that a network makes of them. No file is read here and no clock.

pub mod comparison;
pub mod count;
pub mod network;

pub use crate::{
    comparison::{Estimate, estimates},
    network::{Network, Setting, UnknownNetwork},
};
