//! See [`marill_fuzz::websocket`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::websocket(bytes));
