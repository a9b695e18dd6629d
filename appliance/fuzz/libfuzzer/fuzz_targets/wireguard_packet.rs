//! Searches for inputs on which `waystation_fuzz::wireguard_packet` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::wireguard_packet(input));
