//! See [`marill_fuzz::step`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::step(bytes));
