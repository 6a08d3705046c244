//! See [`marill_fuzz::data_rows`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::data_rows(bytes));
