//! Gates on one-hot correlations: comparison trees over radix digits, and tables.

pub(super) mod activation;
pub(super) mod affine;
pub(super) mod argmax;
pub(super) mod kth;
pub(super) mod lut;
pub(super) mod spline;
pub(super) mod swiglu;
pub(super) mod truncate;
