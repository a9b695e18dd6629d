//! Searches for inputs on which `waystation_fuzz::udp_sessions` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::udp_sessions(input));
