//! Differentiable f32 operations on the CPU, each with its analytic gradient.
//!
//! Axes: `N` rows (tokens of all sequences, without padding), `H` heads, `D` head size. Activations
//! are `[N, width]`, contiguous. Every reduction runs in an order that does not depend on the
//! number of threads.

mod attention;
mod cached_attention;
mod dropout;
mod fake_quant;
mod gemm;
mod head;
mod linear;
mod low_rank;
mod match_rows;
mod norm;
mod relations;
mod rope;
mod swiglu;

pub use attention::{Segment, attention};
pub use cached_attention::{CachedAttention, Positions, Queries};
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
pub use dropout::Dropout;
pub use fake_quant::{FakeQuant, round_columns_to, round_factors, round_to, round_weight};
pub use gemm::{Element, Mat, MatMut, dot, gemm};
pub use head::{HeadLoss, KeptRow, Teacher, TeacherLogits, head_loss};
pub use linear::linear;
pub use low_rank::low_rank;
pub use match_rows::row_distance;
pub use norm::rms_norm;
pub use relations::relation_loss;
pub use rope::{RopeTable, rope};
pub use swiglu::swiglu;

/// Rows that one thread takes at a time in element-wise operations.
const ROWS_PER_TASK: usize = 16;

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("`{op}` takes f32")
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("`{op}` takes contiguous tensors"),
    }
}

/// Runs `f` on the values of a tensor without copying them where they are contiguous.
pub(crate) fn with_floats<T>(tensor: &Tensor, op: &str, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("`{op}` runs on the CPU")
    };
    Ok(f(floats(storage, layout, op)?))
}
