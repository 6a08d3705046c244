//! See [`marill_fuzz::checkpoint_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::checkpoint_config(bytes));
