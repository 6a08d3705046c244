//! See [`marill_fuzz::two_party_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::two_party_frames(bytes));
