//! Maps that a family's files hold in one tensor: cut apart when a checkpoint is opened, put
//! together when it is written.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::{LlamaConfig, ModelConfig, ModelError, module_path};

/// A fused map by its name, and the modules whose rows it holds, in order.
const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("mlp.gate_up_proj", &["gate_proj", "up_proj"]),
];

/// The linear maps of a layer as the family's files and other programs have them, with the modules
/// whose rows each holds.
pub(crate) fn maps(config: &LlamaConfig) -> Vec<(String, Vec<&'static str>)> {
    let mut maps: Vec<(String, Vec<&'static str>)> = Vec::new();
    let mut left: Vec<&'static str> = config.modules().to_vec();
    if config.is_fused() {
        for (fused, modules) in FUSED {
            maps.push((fused.into(), modules.to_vec()));
            left.retain(|module| !modules.contains(module));
        }
    }
    let single = left.into_iter().map(|module| {
        let path = module_path(0, module);
        let (_, inner) = path.split_once(".0.").expect("a path names its layer");
        (inner.to_owned(), vec![module])
    });
    maps.extend(single);
    maps
}

fn name(layer: usize, fused: &str) -> String {
    format!("model.layers.{layer}.{fused}.weight")
}

/// Tensors by the modules' own names.
///
/// # Errors
/// [`ModelError::Shape`] for a fused map of other rows than its modules have.
pub(crate) fn split(
    mut tensors: BTreeMap<String, Tensor>,
    config: &LlamaConfig,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let layers = if config.is_fused() {
        config.num_hidden_layers
    } else {
        0
    };
    for layer in 0..layers {
        for (fused, modules) in FUSED {
            let name = name(layer, fused);
            let Some(whole) = tensors.remove(&name) else {
                continue;
            };
            let shapes = modules
                .iter()
                .map(|m| config.module_shape(m).unwrap_or([0; 2]));
            let expected = vec![
                shapes.clone().map(|shape| shape[0]).sum(),
                config.hidden_size,
            ];
            if whole.dims() != expected {
                let found = whole.dims().to_vec();
                return Err(ModelError::Shape {
                    name,
                    found,
                    expected,
                });
            }
            let mut first = 0;
            for (module, [rows, _]) in modules.iter().zip(shapes) {
                let part = whole.narrow(0, first, rows)?.copy()?;
                tensors.insert(format!("{}.weight", module_path(layer, module)), part);
                first += rows;
            }
        }
    }
    Ok(tensors)
}

/// Tensors as the family's files have them.
///
/// # Errors
/// From candle.
pub(crate) fn joined(
    mut tensors: BTreeMap<String, Tensor>,
    config: &LlamaConfig,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let layers = if config.is_fused() {
        config.num_hidden_layers
    } else {
        0
    };
    for layer in 0..layers {
        for (fused, modules) in FUSED {
            let parts = modules.iter();
            let parts =
                parts.filter_map(|m| tensors.remove(&format!("{}.weight", module_path(layer, m))));
            let parts: Vec<Tensor> = parts.collect();
            tensors.insert(name(layer, fused), Tensor::cat(&parts, 0)?);
        }
    }
    Ok(tensors)
}
