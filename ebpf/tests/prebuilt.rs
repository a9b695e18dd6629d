//! The committed object: built from the sources that stand beside it, and telling nobody where.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use ring::digest::{SHA256, digest};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What the object is built from, relative to the programs' directory.
const SOURCES: &[&str] =
    &["Cargo.toml", "Cargo.lock", ".cargo", "src", "../ebpf/abi/src", "../ebpf/abi/Cargo.toml"];

#[test]
fn the_object_was_built_from_these_sources() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xdp-programs");
    let mut hashes = BTreeMap::new();
    for source in SOURCES {
        collect(&programs, Path::new(source), &mut hashes);
    }
    let text = fs::read_to_string(programs.join("prebuilt/SOURCES.sha256")).unwrap();
    let recorded: BTreeMap<PathBuf, String> = text
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(hash, path)| (path.into(), hash.to_owned()))
        .collect();
    assert_eq!(hashes, recorded, "sources changed since; run xdp-programs/build");
}

#[test]
fn the_object_holds_no_path_of_the_machine_that_built_it() {
    let text = String::from_utf8_lossy(waystation_ebpf::object::PREBUILT);
    for place in ["/root", "/home", "/usr", "/work", "/tmp", ".cargo", ".rs"] {
        assert!(!text.contains(place), "{place}");
    }
}

fn collect(root: &Path, path: &Path, hashes: &mut BTreeMap<PathBuf, String>) {
    let whole = root.join(path);
    if whole.is_dir() {
        for entry in fs::read_dir(whole).unwrap() {
            collect(root, &path.join(entry.unwrap().file_name()), hashes);
        }
    } else {
        let hash = digest(&SHA256, &fs::read(whole).unwrap());
        hashes.insert(path.to_owned(), hex::encode(hash));
    }
}
