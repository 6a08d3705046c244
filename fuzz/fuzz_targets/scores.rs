//! See [`marill_fuzz::scores`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::scores(bytes));
