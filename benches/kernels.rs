//! What a party computes alone: ring products, pseudorandom streams, comparison functions.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use marill_crypto::{
    Prg, Seed,
    aes::Cipher,
    dcf::{CHUNK, Keys, Shape, UNNAMED, generate, root},
};
use marill_numeric::{PublicMatrix, ring};

fn prg() -> Prg {
    Prg::new(&Seed::from_bytes([7; 32]), "benchmark")
}

/// The widest maps of SmolLM2-135M and of a model of 7B.
const SHAPES: [(usize, usize); 2] = [(1536, 576), (11_008, 4096)];

fn ring_products(c: &mut Criterion) {
    let mut group = c.benchmark_group("public matrix times shares");
    for (rows, cols) in SHAPES {
        let weights: Vec<f32> = (0..rows * cols)
            .map(|i| (i % 255) as f32 / 128.0 - 1.0)
            .collect();
        let matrix = PublicMatrix::quantize(&weights, rows, cols, None, &|_| 1.0, 24, "matrix")
            .expect("finite weights");
        let x = prg().words(cols);
        group.throughput(Throughput::Elements((rows * cols) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}")), |b| {
            b.iter(|| matrix.apply(black_box(&x)));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("dot product of shares");
    for n in [64, 4096] {
        let x = prg().words(n);
        let y = prg().words(n);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| ring::dot(black_box(&x), black_box(&y)));
        });
    }
    group.finish();
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("pseudorandom words");
    for n in [64, 65_536] {
        let mut prg = prg();
        group.throughput(Throughput::Bytes(8 * n as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| b.iter(|| prg.words(n)));
    }
    group.finish();
}

fn comparison_functions(c: &mut Criterion) {
    let cipher = Cipher::new(&UNNAMED);
    let mut prg = prg();
    let roots = [true, false].map(|first| -> Vec<u128> {
        let words = prg.words(2 * CHUNK);
        words.chunks(2).map(|w| root(w[0], w[1], first)).collect()
    });
    let mut group = c.benchmark_group("256 comparison functions");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for bits in [13, 32, 47] {
        let shape = Shape::new(bits, &[6]);
        let alpha: Vec<u64> = prg
            .words(CHUNK)
            .iter()
            .map(|word| word >> (64 - bits))
            .collect();
        let make = |out: &mut Vec<u8>| {
            generate(
                &shape,
                [&roots[0], &roots[1]],
                &alpha,
                |_, _| 1,
                0,
                &cipher,
                out,
            );
        };
        group.bench_function(BenchmarkId::new("generate", bits), |b| {
            b.iter(|| {
                let mut out = Vec::new();
                make(&mut out);
                out
            });
        });
        let mut cws = Vec::new();
        make(&mut cws);
        let keys = Keys {
            shape: &shape,
            first: true,
            roots: &roots[0],
            cws: &cws,
            first_tree: 0,
            cipher: &cipher,
        };
        group.bench_function(BenchmarkId::new("evaluate", bits), |b| {
            b.iter(|| {
                let mut sums = vec![0; CHUNK];
                keys.evaluate(black_box(&alpha), 1, &mut [&mut sums]);
                sums
            });
        });
    }
    group.finish();
}

criterion_group!(kernels, ring_products, streams, comparison_functions);
criterion_main!(kernels);
