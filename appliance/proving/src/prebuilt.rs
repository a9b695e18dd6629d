//! A committed object and the sources it was built from: recorded by their hashes, and compared.
//!
//! Tests of the rooms that hold such objects call it. It builds nothing: a machine that runs the
//! tests need not have the compiler.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a file that cannot be read fails the test that asks for it"
)]

use ring::digest::{SHA256, digest};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The record of hashes, from the programs' directory, as `sha256sum` writes it.
const RECORD: &str = "prebuilt/SOURCES.sha256";
/// What a path of the machine that built an object would hold.
const PLACES: &[&str] = &["/root", "/home", "/usr", "/work", "/tmp", ".cargo", ".rs"];

/// Asserts that nothing among the sources of an object, files and directories relative to the
/// programs' directory, is other than recorded when it was built.
pub fn assert_built_from(programs: &Path, sources: &[&str]) {
    let mut hashes = BTreeMap::new();
    for source in sources {
        collect(programs, Path::new(source), &mut hashes);
    }
    let text = fs::read_to_string(programs.join(RECORD)).unwrap();
    let recorded: BTreeMap<PathBuf, String> = text
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(hash, path)| (path.into(), hash.to_owned()))
        .collect();
    assert_eq!(hashes, recorded, "sources changed since; run {}/build", programs.display());
}

/// Asserts that an object does not hold where it was built.
pub fn assert_tells_no_place(object: &[u8]) {
    let text = String::from_utf8_lossy(object);
    for place in PLACES {
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
