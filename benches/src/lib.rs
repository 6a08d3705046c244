//! Time of kernels and gates: `cargo bench -p marill-benches`. Clippy builds the benchmarks with
//! all other targets, CI does not run them. Rounds and bytes are `marill bench`'s and the tests'.
