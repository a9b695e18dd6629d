//! Searches for inputs on which `waystation_fuzz::stats_request` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::stats_request(input));
