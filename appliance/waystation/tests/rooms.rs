//! Holds the architecture: which room may lean on which, where unsafe code and locks may live, and
//! how large a file may get.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines that one file may have; longer ones hold two topics.
const FILE_LINES_MAX: usize = 900;
/// The rooms that each room may lean on. A room that is not here may lean on none.
const ARROWS: &[(&str, &[&str])] = &[
    ("waystation-proving", &[]),
    ("waystation-astral", &[]),
    ("waystation-tuning", &[]),
    ("waystation-a2al", &["waystation-proving"]),
    ("waystation-turn", &["waystation-proving"]),
    ("waystation-relay", &["waystation-astral", "waystation-proving"]),
    ("waystation-ebpf-abi", &[]),
    ("waystation-ebpf", &["waystation-ebpf-abi", "waystation-proving", "waystation-relay"]),
    (
        "waystation-engine",
        &["waystation-astral", "waystation-proving", "waystation-relay", "waystation-turn"],
    ),
    (
        "waystation-management",
        &[
            "waystation-a2al",
            "waystation-astral",
            "waystation-ebpf",
            "waystation-engine",
            "waystation-proving",
            "waystation-relay",
            "waystation-turn",
        ],
    ),
    ("waystation-peer", &["waystation-astral", "waystation-turn"]),
    (
        "waystation-fuzz",
        &[
            "waystation-a2al",
            "waystation-astral",
            "waystation-management",
            "waystation-relay",
            "waystation-turn",
        ],
    ),
];
/// The rooms that may lean on every other: the program, and what measures it.
const TOPS: &[&str] = &["waystation", "waystation-benches"];
/// Rooms that forbid unsafe code altogether.
const SAFE_ROOMS: &[&str] = &[
    "appliance/fuzz/src/lib.rs",
    "appliance/protocols/a2al/src/lib.rs",
    "appliance/protocols/astral/src/lib.rs",
    "appliance/protocols/turn/src/lib.rs",
    "appliance/relay/src/lib.rs",
    "tuning/src/lib.rs",
    "ebpf/src/lib.rs",
];
/// The places of unsafe code in the program: the port, and the types of BPF maps.
const UNSAFE_PLACES: &[&str] = &["appliance/engine/src/port", "ebpf/abi/src/pod.rs"];
/// The allocator that tests count with has to be unsafe; nothing of it is in the program.
const COUNTING_ALLOCATOR: &str = "appliance/proving/src/allocator.rs";
/// Code that runs on data cores, and what it must not say.
const DATA_CORE_PLACES: &[&str] = &["appliance/engine/src", "appliance/relay/src"];
const NOT_ON_DATA_CORES: &[&str] = &["Mutex", "RwLock", "println", "eprintln", "print", "eprint"];

#[test]
fn rooms_lean_on_each_other_as_designed() {
    let arrows = new_arrows(&metadata());
    assert!(arrows.is_empty(), "arrows that the design does not have: {arrows:?}");
}

#[test]
fn a_new_arrow_would_be_found() {
    let package = |name: &str, leans_on: &[&str]| {
        let dependencies: Vec<_> = leans_on.iter().map(|name| json!({ "name": name })).collect();
        json!({ "name": name, "dependencies": dependencies })
    };
    let invented = json!({ "packages": [
        package("waystation-relay", &["waystation-astral", "waystation-engine", "serde"]),
        package("waystation-astral", &[]),
        package("waystation-engine", &[]),
        package("waystation-new", &["waystation-astral"]),
        package("waystation-peer", &["waystation"]),
        package("waystation", &["waystation-relay", "waystation-new"]),
    ] });
    let expected = [
        ("waystation-new", "waystation-astral"),
        ("waystation-peer", "waystation"),
        ("waystation-relay", "waystation-engine"),
    ];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(new_arrows(&invented), BTreeSet::from(expected));
}

#[test]
fn protocols_and_relay_forbid_unsafe_code() {
    for file in SAFE_ROOMS {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn unsafe_code_is_in_the_port_and_the_types_of_maps_alone() {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for source in sources() {
        let counts = source.path == Path::new(COUNTING_ALLOCATOR);
        if !counts && words(&source.text).contains("unsafe") {
            let place = UNSAFE_PLACES.iter().find(|place| source.path.starts_with(place));
            assert!(place.is_some(), "unsafe code in {}", source.name());
            used.extend(place);
        }
    }
    assert_eq!(used.len(), UNSAFE_PLACES.len(), "unsafe code in {used:?} alone; has it moved?");
}

#[test]
fn data_core_code_takes_no_lock_and_prints_nothing() {
    let on_data_cores = |source: &Source| {
        let is_test = source.path.components().any(|part| part.as_os_str() == "tests");
        !is_test && DATA_CORE_PLACES.iter().any(|place| source.path.starts_with(place))
    };
    let mut seen = 0;
    for source in sources().into_iter().filter(on_data_cores) {
        // Unit tests stand at the end of a file, or in a directory of their own.
        let program = source.text.split("#[cfg(test)]\nmod ").next().unwrap();
        let words = words(program);
        for word in NOT_ON_DATA_CORES {
            assert!(!words.contains(*word), "{word} in {}", source.name());
        }
        seen += 1;
    }
    assert!(seen > 10, "{DATA_CORE_PLACES:?} hold {seen} files; have they moved?");
}

#[test]
fn no_file_is_longer_than_one_topic() {
    let long: Vec<_> = sources()
        .iter()
        .map(|source| (source.text.lines().count(), source.name()))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "more than {FILE_LINES_MAX} lines: {long:?}");
}

#[test]
fn every_module_begins_by_saying_what_it_owns() {
    let silent: Vec<_> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(Source::name)
        .collect();
    assert!(silent.is_empty(), "no //! on the first line: {silent:?}");
}

#[test]
fn words_are_those_of_the_code_and_not_of_comments_or_texts() {
    let text = r##"
        // Mutex in a comment
        /* println in /* a nested */ one */
        let quoted = "RwLock \" still quoted";
        let raw = r#"unsafe "quoted" text"#;
        let letter = '"'; let escaped = '\''; let lifetime: &'static str = "eprintln";
        #![forbid(unsafe_code)] Mutex_like
    "##;
    let words = words(text);
    for absent in ["Mutex", "println", "RwLock", "unsafe", "eprintln", "nested"] {
        assert!(!words.contains(absent), "{absent}");
    }
    for present in ["unsafe_code", "Mutex_like", "quoted", "lifetime", "letter", "escaped"] {
        assert!(words.contains(present), "{present}");
    }
    assert!(words.len() > 6);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Arrows between packages of the workspace, of any kind, that the design does not have.
fn new_arrows(metadata: &Value) -> BTreeSet<(String, String)> {
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> =
        packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut arrows = BTreeSet::new();
    for package in packages {
        let from = package["name"].as_str().unwrap();
        if TOPS.contains(&from) {
            continue;
        }
        let leans_on = package["dependencies"].as_array().unwrap();
        let rooms = leans_on.iter().map(|dependency| dependency["name"].as_str().unwrap());
        for to in rooms.filter(|name| names.contains(name) && *name != from) {
            if !allowed.get(from).is_some_and(|allowed| allowed.contains(&to)) {
                arrows.insert((from.to_owned(), to.to_owned()));
            }
        }
    }
    arrows
}

struct Source {
    /// From the root of the workspace.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Every Rust file of every package.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let directory = manifest.parent().unwrap().canonicalize().unwrap();
        for place in ["src", "tests", "benches", "examples", "build.rs"] {
            collect(&root, &directory.join(place), &mut sources);
        }
    }
    assert!(sources.len() > 50, "only {} files found", sources.len());
    sources
}

fn collect(root: &Path, path: &Path, sources: &mut Vec<Source>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(root, &entry.unwrap().path(), sources);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
        let text = fs::read_to_string(path).unwrap();
        sources.push(Source { path: path.strip_prefix(root).unwrap().to_owned(), text });
    }
}

/// The identifiers and keywords of a file, without those in comments, texts and letters.
fn words(text: &str) -> BTreeSet<String> {
    code_of(text)
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The text with every comment and literal replaced by a space.
fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let literal = literal_bytes(rest, out.chars().next_back());
        if literal > 0 {
            out.push(' ');
            rest = &rest[literal..];
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    out
}

/// Bytes of the comment or literal that starts here, or 0.
fn literal_bytes(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment_bytes(rest)
    } else if rest.starts_with('"') {
        quoted_bytes(rest, '"')
    } else if rest.starts_with('r') && !in_word {
        raw_text_bytes(rest)
    } else if rest.starts_with("'\\") {
        quoted_bytes(rest, '\'')
    } else if rest.starts_with('\'') {
        let mut letters = rest.char_indices().skip(2);
        letters.next().filter(|(_, letter)| *letter == '\'').map_or(0, |(at, _)| at + 1)
    } else {
        0
    }
}

fn block_comment_bytes(rest: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_bytes(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_text_bytes(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let open = 1 + hashes;
    if !rest[open..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[open + 1..].find(&end).map_or(rest.len(), |at| open + 1 + at + end.len())
}
