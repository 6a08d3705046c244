//! See [`marill_fuzz::endpoint`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::endpoint(bytes));
