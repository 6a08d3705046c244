//! See [`marill_fuzz::ticket`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::ticket(bytes));
