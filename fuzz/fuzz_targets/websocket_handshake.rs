//! See [`marill_fuzz::websocket_handshake`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::websocket_handshake(bytes));
