//! Tensors in memory as candle-nn's modules ask for them, by path: `vb.pp("model.layers").pp(3)`.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

/// What PEFT writes in front of the names that a factor has in the model.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";

/// A builder over named f32 tensors on the CPU; of two with one name it has the later one. A
/// variable among them stays one.
pub(crate) fn var_builder(
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu)
}

/// Where a model's tensors begin: under `prefix`, which a file may or may not write, when `name` is
/// there.
pub(crate) fn under<'a>(vb: &VarBuilder<'a>, prefix: &str, name: &str) -> VarBuilder<'a> {
    let inner = vb.pp(prefix);
    if inner.contains_tensor(name) {
        inner
    } else {
        vb.clone()
    }
}
