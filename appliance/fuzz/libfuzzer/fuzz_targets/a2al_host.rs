//! Searches for inputs on which `waystation_fuzz::a2al_host` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::a2al_host(input));
