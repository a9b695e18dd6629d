//! Holds the documentation of A2AL to the code: every test that it names is there.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words of a test's name, which is a sentence; shorter names in backticks are other things.
const WORDS_MIN: usize = 5;
const DOCUMENT: &str = "docs/protocols/a2al.md";

#[test]
fn tests_that_the_documentation_of_a2al_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join(DOCUMENT)).unwrap();
    let is_sentence = |name: &&str| {
        let is_name = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
        let is_metric = name.starts_with("waystation_");
        is_name && !is_metric && name.split('_').count() >= WORDS_MIN
    };
    let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_sentence).collect();
    assert!(named.len() > 15, "{named:?}");
    let mut sources = Vec::new();
    collect(&root.join("appliance"), &mut sources);
    let sources: Vec<String> =
        sources.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_there = |name: &&&str| {
        let head = format!("fn {name}(");
        sources.iter().any(|source| source.contains(&head))
    };
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{DOCUMENT} names {missing:?}");
}

fn collect(directory: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
