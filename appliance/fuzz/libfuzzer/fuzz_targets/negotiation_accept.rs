//! Searches for inputs on which `waystation_fuzz::negotiation_accept` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::negotiation_accept(input));
