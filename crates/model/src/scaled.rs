//! Weights stored as 8-bit floats with scales beside them: a weight is its stored value times its
//! scale. They are multiplied when a checkpoint is opened, so that everything behind it sees the
//! weights that are meant.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value};

use crate::{
    ModelError,
    account::{Account, Known},
    checkpoint::{Stored, Tensors},
};

/// `quantization_config` of the formats whose scales stand beside the weights. How activations
/// would be rounded by hardware that multiplies in 8 bits does not enter, so a fixed scale for that
/// is refused where a file has one.
const QUANTIZATION: Known = Known {
    used: &[
        "config_groups",
        "format",
        "quant_method",
        "weight_block_size",
    ],
    harmless: &[
        "activation_scale_ub",
        "activation_scheme",
        "dequantize",
        "global_compression_ratio",
        "ignore",
        "ignored_layers",
        "modules_to_not_convert",
        "quantization_status",
        "scale_fmt",
        "version",
    ],
    neutral: &[
        ("fmt", &["\"e4m3\""]),
        ("kv_cache_scheme", &[]),
        ("sparsity_config", &["{}"]),
        ("transform_config", &["{}"]),
    ],
};

/// All tensors as f32, scales applied.
///
/// # Errors
/// [`ModelError::Unaccounted`] for a way of storing weights that is not computed,
/// [`ModelError::Shape`] for a scale that does not fit its weight, [`ModelError::MissingTensor`]
/// for one that is not there.
pub(crate) fn to_floats(
    mut stored: Tensors,
    account: &Account<'_>,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let config = account.table("quantization_config")?;
    let block = config
        .as_ref()
        .map(|table| block_size(account, table))
        .transpose()?
        .flatten();
    let names: Vec<String> = stored
        .iter()
        .filter(|(_, t)| t.tensor.dtype() == DType::F8E4M3)
        .map(|(n, _)| n.clone())
        .collect();
    for name in names {
        let Some(module) = name.strip_suffix(".weight") else {
            continue;
        };
        for unused in ["input_scale", "activation_scale"] {
            let name = format!("{module}.{unused}");
            if let Some(scale) = stored.get(&name) {
                let why =
                    "is a fixed scale of activations, and they are not rounded to 8 bits here";
                return Err(ModelError::unaccounted(
                    &scale.file,
                    &format!("tensor `{name}`"),
                    &name,
                    why,
                ));
            }
        }
        let scales = ["weight_scale", "weight_scale_inv"].map(|kind| format!("{module}.{kind}"));
        let Some((name_of_scale, scale)) = scales.iter().find_map(|name| stored.remove_entry(name))
        else {
            if config.is_some() {
                return Err(ModelError::MissingTensor {
                    name: scales[0].clone(),
                });
            }
            let reason = format!(
                "tensor `{name}` is of 8-bit floats, with neither `{}` nor a \
                 `quantization_config`\n\n\
                 hint: store it as 16-bit floats if it is meant as it stands",
                scales[0]
            );
            return Err(ModelError::corrupt(&stored[&name].file, reason));
        };
        let weight = stored.get_mut(&name).expect("its name is from there");
        weight.tensor = multiplied(&weight.tensor, &scale.tensor, block, &name_of_scale)?;
    }
    let floats = stored.into_iter().map(|(name, Stored { tensor, file })| {
        let float = tensor.to_dtype(DType::F32);
        let float =
            float.map_err(|e| ModelError::corrupt(&file, format!("tensor `{name}`: {e}")))?;
        Ok((name, float))
    });
    floats.collect()
}

/// Rows and columns that share a scale, where the file says so.
fn block_size(
    account: &Account<'_>,
    table: &Map<String, Value>,
) -> Result<Option<[usize; 2]>, ModelError> {
    let refuse = |key: &str, why: &str| {
        let value = table.get(key).cloned().unwrap_or_default();
        Err(account.refuse(&format!("quantization_config.{key}"), &value, why))
    };
    match table.get("quant_method").and_then(Value::as_str) {
        Some("fp8" | "fbgemm_fp8") => {}
        Some("compressed-tensors")
            if table.get("format").is_some_and(|f| f == "float-quantized") => {}
        Some("compressed-tensors") => {
            return refuse("format", "is not computed, only \"float-quantized\"");
        }
        _ => {
            return refuse(
                "quant_method",
                "is not computed, only \"fp8\", \"fbgemm_fp8\" and \"compressed-tensors\"",
            );
        }
    }
    account.check_table("quantization_config.", table, &[&QUANTIZATION])?;
    let groups = table.get("config_groups").and_then(Value::as_object);
    let mut blocks: Vec<&Value> = groups
        .into_iter()
        .flatten()
        .map(|(_, g)| &g["weights"]["block_structure"])
        .collect();
    blocks.extend(table.get("weight_block_size"));
    blocks.retain(|block| !block.is_null());
    let Some(first) = blocks.first() else {
        return Ok(None);
    };
    let sizes: Vec<usize> = first
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n.as_u64())
        .map(|n| n as usize)
        .collect();
    match sizes.as_slice() {
        &[rows, columns]
            if rows > 0 && columns > 0 && blocks.iter().all(|block| block == first) =>
        {
            Ok(Some([rows, columns]))
        }
        _ => refuse("weight_block_size", "is no pair of sizes"),
    }
}

/// `weight [out, in]` times one scale, one a row, or one a block.
fn multiplied(
    weight: &Tensor,
    scale: &Tensor,
    block: Option<[usize; 2]>,
    name: &str,
) -> Result<Tensor, ModelError> {
    let (rows, columns) = weight.dims2()?;
    let misshapen = || {
        let found = scale.dims().to_vec();
        let expected = vec![rows, 1];
        ModelError::Shape {
            name: name.into(),
            found,
            expected,
        }
    };
    if rows == 0 || columns == 0 {
        return Err(misshapen());
    }
    let [block_rows, block_columns] = match (scale.dims(), block) {
        ([] | [1] | [1, 1], _) => [rows, columns],
        (&[n] | &[n, 1], _) if n == rows => [1, columns],
        (&[n, m], Some([r, c])) if n == rows.div_ceil(r) && m == columns.div_ceil(c) => [r, c],
        (&[n, m], None)
            if n > 0 && m > 0 && rows.is_multiple_of(n) && columns.is_multiple_of(m) =>
        {
            [rows / n, columns / m]
        }
        _ => return Err(misshapen()),
    };
    let scales: Vec<f32> = scale.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut values: Vec<f32> = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let across = columns.div_ceil(block_columns);
    for (i, row) in values.chunks_exact_mut(columns).enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            *value *= scales[i / block_rows * across + j / block_columns];
        }
    }
    Ok(Tensor::from_vec(values, (rows, columns), weight.device())?)
}
