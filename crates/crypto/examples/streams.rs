//! Throughput of pseudorandom streams on one thread, beside what the `aes` crate does in place with
//! blocks that are already there: `cargo run --release -p marill-crypto --example streams`.

use std::{hint::black_box, time::Instant};

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use marill_crypto::{Prg, Seed};

/// What is measured at once, so that a large piece is as long as many small ones.
const BYTES_A_RUN: usize = 1 << 26;

fn main() {
    let cipher = Aes128::new(&[7; 16].into());
    let mut prg = Prg::new(&Seed::from_bytes([7; 32]), "bench");
    println!(
        "{:>12} {:>16} {:>18} {:>18}",
        "words", "stream, GB/s", "cut to 48, GB/s", "`aes` alone, GB/s"
    );
    for words in [512, 4096, 1 << 15, 1 << 20] {
        let mut blocks = vec![aes::Block::default(); words / 2];
        let stream = gigabytes_a_second(words, || drop(black_box(prg.words(words))));
        let cut = gigabytes_a_second(words, || drop(black_box(prg.reduced(words, 48))));
        let crate_alone =
            gigabytes_a_second(words, || cipher.encrypt_blocks(black_box(&mut blocks)));
        println!("{words:>12} {stream:>16.1} {cut:>18.1} {crate_alone:>18.1}");
    }
}

/// The best of several runs.
fn gigabytes_a_second(words: usize, mut run: impl FnMut()) -> f64 {
    let repeats = BYTES_A_RUN / (8 * words);
    let mut once = || {
        let start = Instant::now();
        (0..repeats).for_each(|_| run());
        start.elapsed().as_secs_f64()
    };
    let best = (0..10).map(|_| once()).fold(f64::MAX, f64::min);
    (repeats * 8 * words) as f64 / best / 1e9
}
