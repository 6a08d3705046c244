//! Tensors in memory as candle-nn's modules ask for them, by path: `vb.pp("model.layers").pp(3)`.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::ModelError;

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

/// All `*.safetensors` of a folder, in f32.
pub(crate) fn read_tensors(dir: &Path) -> Result<HashMap<String, Tensor>, ModelError> {
    crate::threads::keep_candle_from_spinning();
    let mut tensors = HashMap::new();
    for entry in std::fs::read_dir(dir).map_err(ModelError::io(dir))? {
        let path = entry.map_err(ModelError::io(dir))?.path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let loaded = candle_core::safetensors::load(&path, &Device::Cpu);
        for (name, tensor) in loaded.map_err(|e| ModelError::corrupt(&path, e))? {
            tensors.insert(name, tensor.to_dtype(DType::F32)?);
        }
    }
    if tensors.is_empty() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    Ok(tensors)
}
