//! Holds the documentation to the code: every test that it names is there.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words of a test's name, which is a sentence; shorter names in backticks are other things.
const WORDS_MIN: usize = 5;
/// Pages on whose every mention of a sentence this looks.
const PAGES: &[&str] =
    &["docs/protocols/a2al.md", "docs/promises.md", "docs/security.md", "docs/performance.md"];
const PROMISES: &str = "docs/promises.md";
/// Rooms with tests.
const ROOMS: &[&str] = &["appliance", "benches", "ebpf", "tuning"];

#[test]
fn tests_that_the_documentation_names_are_there() {
    let tests = Tests::read();
    let is_sentence = |name: &&str| {
        let is_name = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
        let is_metric = name.starts_with("waystation_");
        is_name && !is_metric && name.split('_').count() >= WORDS_MIN
    };
    let mut seen = 0;
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let named: BTreeSet<&str> = quoted(&text).filter(is_sentence).collect();
        seen += named.len();
        let missing: Vec<_> = named.iter().filter(|name| !tests.has(name)).collect();
        assert!(missing.is_empty(), "{page} names {missing:?}");
    }
    assert!(seen > 60, "only {seen} names found");
}

#[test]
fn every_promise_names_a_test_that_is_there_and_how_to_run_it() {
    let tests = Tests::read();
    let text = fs::read_to_string(root().join(PROMISES)).unwrap();
    let mut promises = 0;
    // A fault has its number in front, and its figure behind.
    let mut columns = (1, 2);
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let Some(at) = cells.iter().position(|cell| *cell == "test") {
            columns = (at, at + 1);
            continue;
        }
        let is_heading = cells[0].starts_with("---") || cells[0].starts_with("**");
        if is_heading {
            continue;
        }
        let (named, run) = (cells[columns.0], cells[columns.1]);
        promises += 1;
        let named: Vec<&str> = quoted(named).collect();
        let (commands, names): (Vec<&str>, Vec<&str>) =
            named.into_iter().partition(|text| text.contains("--test "));
        for name in names {
            let is_other = name.starts_with("waystation-") || name.contains([' ', '=']);
            assert!(is_other || tests.has(name), "no test {name}: {line}");
        }
        for command in commands.into_iter().chain(quoted(run)) {
            let words: Vec<&str> = command.split(' ').collect();
            for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
                assert!(tests.has_program(pair[1]), "no test program {}: {line}", pair[1]);
            }
            let room = words[0].strip_prefix("waystation").filter(|rest| !rest.starts_with('_'));
            let is_there = room.is_none_or(|_| tests.packages.contains(words[0]));
            assert!(is_there, "no package {}: {line}", words[0]);
        }
    }
    assert!(promises > 90, "only {promises} promises found");
}

#[test]
fn a_name_that_is_not_there_would_be_found() {
    let tests = Tests::read();
    for present in ["a_name_that_is_not_there_*", "log::tests", "documented", "theft"] {
        assert!(tests.has(present), "{present}");
    }
    for absent in ["nobody_ever_wrote_a_test_of_this_*", "log::no_such_module", "no_such_file"] {
        assert!(!tests.has(absent), "{absent}");
    }
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What can be named: functions, modules, and the files that are programs of tests.
struct Tests {
    functions: BTreeSet<String>,
    modules: BTreeSet<String>,
    programs: BTreeSet<String>,
    packages: BTreeSet<String>,
}

impl Tests {
    fn read() -> Self {
        let mut paths = Vec::new();
        ROOMS.iter().for_each(|room| collect(&root().join(room), &mut paths));
        let (mut functions, mut modules) = (BTreeSet::new(), BTreeSet::new());
        let (mut programs, mut packages) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            let text = fs::read_to_string(&path).unwrap();
            if path.ends_with("Cargo.toml") {
                let name = text.lines().find_map(|line| line.strip_prefix("name = "));
                packages.extend(name.map(|name| name.trim_matches('"').to_owned()));
                continue;
            }
            functions.extend(after(&text, "fn "));
            modules.extend(after(&text, "mod "));
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let parent = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
            if parent == "tests" {
                programs.insert(stem.clone());
            }
            if stem == "main" {
                programs.insert(parent.to_owned());
            }
            modules.insert(stem);
        }
        assert!(functions.len() > 1000, "only {} functions found", functions.len());
        Self { functions, modules, programs, packages }
    }

    /// Whether a name is of something. A star stands for its rest; colons lead into modules, and
    /// strokes to a file.
    fn has(&self, name: &str) -> bool {
        let (beginning, is_whole) =
            name.strip_suffix('*').map_or((name, true), |beginning| (beginning, false));
        let beginning = beginning.strip_suffix(".rs").unwrap_or(beginning);
        let mut parts: Vec<&str> = beginning.split(['/', ':']).filter(|p| !p.is_empty()).collect();
        let last = parts.pop().unwrap_or_default();
        let is_function = match is_whole {
            true => self.functions.contains(last),
            false => self
                .functions
                .range(last.to_owned()..)
                .next()
                .is_some_and(|found| found.starts_with(last)),
        };
        let is_there = is_function || is_whole && self.modules.contains(last);
        is_there && parts.iter().all(|module| self.modules.contains(*module))
    }

    fn has_program(&self, name: &str) -> bool {
        self.programs.contains(name)
    }
}

/// The identifiers behind a keyword.
fn after<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = String> + 'a {
    let rests = text.split(keyword).skip(1);
    rests.map(|rest| {
        let end = rest.find(|letter: char| letter != '_' && !letter.is_alphanumeric());
        rest[..end.unwrap_or(rest.len())].to_owned()
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            || path.ends_with("Cargo.toml")
        {
            paths.push(path);
        }
    }
}
