//! See [`marill_fuzz::protocol_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::protocol_frames(bytes));
