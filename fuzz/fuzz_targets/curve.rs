//! See [`marill_fuzz::curve`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::curve(bytes));
