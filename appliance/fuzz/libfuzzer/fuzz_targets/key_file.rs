//! Searches for inputs on which `waystation_fuzz::key_file` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::key_file(input));
