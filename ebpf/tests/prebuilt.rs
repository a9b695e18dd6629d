//! The committed object: built from the sources that stand beside it, and telling nobody where.

use std::path::Path;
use waystation_proving::prebuilt::{assert_built_from, assert_tells_no_place};

/// What the object is built from, relative to the programs' directory.
const SOURCES: &[&str] =
    &["Cargo.toml", "Cargo.lock", ".cargo", "src", "../ebpf/abi/src", "../ebpf/abi/Cargo.toml"];

#[test]
fn the_object_was_built_from_these_sources() {
    assert_built_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../xdp-programs"), SOURCES);
}

#[test]
fn the_object_holds_no_path_of_the_machine_that_built_it() {
    assert_tells_no_place(waystation_ebpf::object::PREBUILT);
}
