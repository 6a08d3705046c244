//! See [`marill_fuzz::calibration`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::calibration(bytes));
