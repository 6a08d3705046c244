//! See [`marill_fuzz::recipe`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::recipe(bytes));
