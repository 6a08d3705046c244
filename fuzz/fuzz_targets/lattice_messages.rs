//! See [`marill_fuzz::lattice_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| marill_fuzz::lattice_messages(bytes));
