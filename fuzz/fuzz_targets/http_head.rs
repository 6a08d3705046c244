//! See [`marill_fuzz::http_head`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::http_head(bytes));
