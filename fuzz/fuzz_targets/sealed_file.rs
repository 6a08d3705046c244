//! See [`marill_fuzz::sealed_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::sealed_file(bytes));
