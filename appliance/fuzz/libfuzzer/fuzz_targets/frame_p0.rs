//! Searches for inputs on which `waystation_fuzz::frame_p0` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::frame_p0(input));
