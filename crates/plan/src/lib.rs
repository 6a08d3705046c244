//! What secure evaluation costs before anything is run: rounds and bytes counted over shapes, and
//! the time that a network makes of them. No file is read here and no clock.

pub mod calibration;
pub mod choice;
pub mod comparison;
pub mod count;
pub mod curve;
pub mod fit;
pub mod network;
pub mod words;
pub mod work;

pub use crate::{
    calibration::{Calibration, Time},
    comparison::{Estimate, estimates},
    network::{Network, Setting, Side, UnknownNetwork},
    work::Work,
};
