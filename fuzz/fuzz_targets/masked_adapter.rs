//! See [`marill_fuzz::masked_adapter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::masked_adapter(bytes));
