//! Searches for inputs on which `waystation_fuzz::idle` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::idle(input));
