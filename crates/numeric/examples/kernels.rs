//! Throughput of the ring kernels on one thread:
//! `cargo run --release -p marill-numeric --example kernels`.

use std::{hint::black_box, time::Instant};

use marill_numeric::{PublicMatrix, ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = 1536;
    let cols = 576;
    let weights: Vec<f32> = (0..rows * cols)
        .map(|k| ((k * 7919 % 2003) as f32 - 1001.0) / 4000.0)
        .collect();
    let matrix = PublicMatrix::quantize(&weights, rows, cols, None, &|_| 1.0, 24, "bench")?;
    for n in [1, 4, 64] {
        let x: Vec<u64> = (0..n * cols)
            .map(|k| (k as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        let best = best_seconds(|| drop(black_box(matrix.apply(black_box(&x)))));
        println!(
            "public 16-bit weights, {n:>2} rows: {:.1} GMAC/s",
            (n * rows * cols) as f64 / best / 1e9
        );
    }
    let rows = 49_152;
    let cols = 576;
    let head = PublicMatrix::quantize(
        &vec![0.01; rows * cols],
        rows,
        cols,
        None,
        &|_| 1.0,
        24,
        "bench",
    )?;
    let x: Vec<u64> = (0..cols)
        .map(|k| (k as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    let best = best_seconds(|| drop(black_box(head.apply(black_box(&x)))));
    println!(
        "public 16-bit weights, a head of 49,152 tokens: {:.1} GMAC/s",
        (rows * cols) as f64 / best / 1e9
    );
    let k = 576;
    let a: Vec<u64> = (0..64 * k)
        .map(|v| (v as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    let best = best_seconds(|| {
        drop(black_box(ring::matmul_transposed(
            black_box(&a),
            black_box(&a),
            k,
        )))
    });
    println!(
        "ring by ring, 64 x {k} x 64: {:.1} GMAC/s",
        (64 * k * 64) as f64 / best / 1e9
    );
    Ok(())
}

fn best_seconds(mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..60).map(|_| once(&mut run)).fold(f64::MAX, f64::min)
}
