//! LoRA updates as integers.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    spec::{MapSpec, SpecError},
    weights::{PublicWeights, affine::encode_row, behind_norm, expect_len},
};

/// A LoRA update in floats: `delta W = scale · B · A`, `A` `[rank, in]`, `B` `[out, rank]`, both
/// row-major. Erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LoraFloats {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub scale: f32,
}

/// A LoRA update as ring elements, masked or not. Erased when dropped: a session's own copy ends
/// with it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Lora {
    /// `[rank, in]`
    pub(crate) a: Vec<u64>,
    /// `[out, rank]`
    pub(crate) b: Vec<u64>,
    /// `B·A` times the bias of the norm before the map, `[out]`; empty where there is none, and in
    /// every masked form.
    pub(crate) row: Vec<u64>,
}

/// The update of a map as integers; none is a zero update, so that shapes tell nothing about it.
pub(super) fn quantize_lora(
    public: &PublicWeights,
    map: &MapSpec,
    floats: Option<LoraFloats>,
) -> Result<Lora, SpecError> {
    let spec = &public.spec;
    let [len_a, len_b] = map.factor_lens();
    let Some(floats) = floats.filter(|_| map.rank > 0) else {
        return Ok(Lora {
            a: vec![0; len_a],
            b: vec![0; len_b],
            row: Vec::new(),
        });
    };
    let name = format!("layers.{}.{:?}", map.layer, map.module);
    expect_len(&format!("{name}.lora_A"), len_a, floats.a.len())?;
    expect_len(&format!("{name}.lora_B"), len_b, floats.b.len())?;
    // A folds the norm's gain as W does; B folds the update's scale and the query's factor.
    let columns = behind_norm(&public.layers[map.layer].norm_scale, map.module);
    let row = private_row(public, map, &floats)?;
    let a: Vec<f64> = (0..floats.a.len())
        .map(|i| f64::from(floats.a[i]) * columns.map_or(1.0, |c| f64::from(c[i % map.cols])))
        .collect();
    let b: Vec<f64> = (0..floats.b.len())
        .map(|i| {
            let factor = spec.row_factor(map, i / map.rank);
            f64::from(floats.b[i]) * f64::from(floats.scale) * factor
        })
        .collect();
    let largest = |v: &[f64]| v.iter().fold(0f64, |m, x| m.max(x.abs()));
    let max_a = largest(&a);
    let max_b = largest(&b);
    // Both factors share the fractional bits of the product; an even split of their magnitudes
    // rounds best.
    let tilt = if max_a > 0.0 && max_b > 0.0 {
        ((max_b / max_a).log2() / 2.0).round() as i32
    } else {
        0
    };
    let half = (spec.numeric.weight_frac_bits / 2) as i32;
    let quantize = |values: Vec<f64>, bits: i32| {
        values
            .into_iter()
            .map(|v| {
                let scaled = (v * f64::from(bits).exp2()).round_ties_even();
                if scaled.abs() < f64::from(1 << 30) {
                    Ok(scaled as i64 as u64)
                } else {
                    let problem = format!(
                        "layer {}, {:?}: {v} does not fit in fixed point",
                        map.layer, map.module
                    );
                    Err(SpecError::Invalid {
                        field: "adapter",
                        problem,
                    })
                }
            })
            .collect::<Result<Vec<u64>, _>>()
    };
    Ok(Lora {
        a: quantize(a, half + tilt)?,
        b: quantize(b, half - tilt)?,
        row,
    })
}

/// What a LoRA update makes of the bias of the norm before its map, `factor · scale · B·A·beta`, at
/// a product's scale.
fn private_row(
    public: &PublicWeights,
    map: &MapSpec,
    floats: &LoraFloats,
) -> Result<Vec<u64>, SpecError> {
    let Some(beta) = behind_norm(&public.layers[map.layer].norm_bias, map.module) else {
        return Ok(Vec::new());
    };
    let spec = &public.spec;
    let dot = |row: &[f32], x: &[f64]| {
        row.iter()
            .zip(x)
            .map(|(w, x)| f64::from(*w) * x)
            .sum::<f64>()
    };
    let beta: Vec<f64> = beta.iter().map(|b| f64::from(*b)).collect();
    let inner: Vec<f64> = floats
        .a
        .chunks_exact(beta.len())
        .map(|row| dot(row, &beta))
        .collect();
    let row: Vec<f64> = floats
        .b
        .chunks_exact(inner.len())
        .enumerate()
        .map(|(i, row)| dot(row, &inner) * (f64::from(floats.scale) * spec.row_factor(map, i)))
        .collect();
    encode_row(
        &row,
        map.input_frac_bits + spec.numeric.weight_frac_bits,
        "adapter",
    )
}
