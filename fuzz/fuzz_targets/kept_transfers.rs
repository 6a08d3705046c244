//! See [`marill_fuzz::kept_transfers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::kept_transfers(bytes));
