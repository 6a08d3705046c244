//! What a secure program is held against: its integers in clear, real numbers, and bounds.

pub mod range;
pub mod real;
pub mod twin;
