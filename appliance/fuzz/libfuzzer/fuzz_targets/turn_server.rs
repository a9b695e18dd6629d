//! Searches for inputs on which `waystation_fuzz::turn_server` panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waystation_fuzz::turn_server(input));
