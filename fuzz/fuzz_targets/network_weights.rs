//! See [`marill_fuzz::network_weights`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::network_weights(bytes));
