//! See [`marill_fuzz::adapter_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::adapter_config(bytes));
