//! Tests of the ring kernels.

use super::*;

#[test]
fn quantized_products_are_near_floats_in_any_batch() {
    let rows = 5;
    let cols = 37;
    let weights: Vec<f32> = (0..rows * cols)
        .map(|k| ((k * 37 % 101) as f32 - 50.0) / 173.0)
        .collect();
    let matrix = PublicMatrix::quantize(&weights, rows, cols, None, &|_| 1.0, 24, "w").unwrap();
    let x: Vec<u64> = (0..6 * cols)
        .map(|k| (((k * 71 % 997) as i64 - 500) << 5) as u64)
        .collect();
    let all = matrix.apply(&x);
    for r in 0..6 {
        let row = &x[r * cols..][..cols];
        assert_eq!(all[r * rows..][..rows], matrix.apply(row)[..]);
        assert_eq!(all[r * rows..][..rows], matrix.par_apply(row)[..]);
        for i in 0..rows {
            let exact: f64 = (0..cols)
                .map(|j| f64::from(weights[i * cols + j]) * row[j] as i64 as f64)
                .sum();
            let got = all[r * rows + i] as i64 as f64 / f64::from(1 << 24);
            // 37 weights off by 2^-16 of 0.3 at most, times values below 2^14: at most 2.8.
            assert!((got - exact).abs() < 3.0, "{got} {exact}");
        }
    }
}

#[test]
fn rounding_is_to_the_nearest_even_integer() {
    for value in [0.0, 0.5, 1.5, -0.5, -1.5, 2.4999, -32767.5, 32766.5, 1e-9] {
        assert_eq!(nearest(value), f64::round_ties_even(value));
    }
}

#[test]
fn a_weight_that_does_not_fit_is_named() {
    let error = PublicMatrix::quantize(
        &[1.0, f32::INFINITY],
        1,
        2,
        None,
        &|_| 1.0,
        24,
        "layers.3.q_proj",
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("layers.3.q_proj"));
}
