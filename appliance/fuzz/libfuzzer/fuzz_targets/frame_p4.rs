//! Searches for inputs on which `waystation_fuzz::frame_p4` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::frame_p4(input));
