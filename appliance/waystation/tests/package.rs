//! What comes with the program: its manual pages say what `--help` says, and the units hold what
//! they promise.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and shows figures; nothing of it runs anywhere else"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::given;
use support::process::{binary, command, exists, run};
use tempfile::TempDir;

/// The greatest exposure that `systemd-analyze security` may find, in tenths of its points.
const EXPOSURE_MAX: &str = "25";

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../package").canonicalize().unwrap()
}

/// Everything that `generate` writes.
fn generated() -> TempDir {
    let directory = TempDir::new().unwrap();
    let finished = run(command(&binary()).arg("generate").arg(directory.path()));
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    directory
}

/// A command of the program as `--help` knows it.
struct Known {
    /// The words after the program's name.
    words: Vec<String>,
    help: String,
}

impl Known {
    fn ask(words: Vec<String>) -> Self {
        let finished = run(command(&binary()).args(&words).arg("--help"));
        assert_eq!(finished.code(), 0, "{words:?}");
        Self { help: finished.text(), words }
    }

    /// This one and all below it.
    fn with_all_below(self) -> Vec<Self> {
        let below = self.commands().into_iter().map(|name| {
            let words = self.words.iter().cloned().chain([name]).collect();
            Self::ask(words).with_all_below()
        });
        let below: Vec<Self> = below.flatten().collect();
        std::iter::once(self).chain(below).collect()
    }

    fn commands(&self) -> Vec<String> {
        let listed = self.section("Commands:").into_iter();
        let names = listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
        names.filter(|name| name != "help").collect()
    }

    /// The long options.
    fn options(&self) -> BTreeSet<String> {
        let words = self.section("Options:").into_iter().flat_map(|line| {
            let words: Vec<String> = line.split([' ', ',', '=']).map(str::to_owned).collect();
            // What an option does may name others, which this command need not have.
            words.into_iter().filter(|word| !word.is_empty()).take(2).collect::<Vec<_>>()
        });
        words.filter(|word| word.starts_with("--")).collect()
    }

    /// The lines under a heading that begin an entry.
    fn section(&self, heading: &str) -> Vec<String> {
        let mut lines = self.help.lines().skip_while(|line| *line != heading).skip(1);
        let of_section: Vec<&str> =
            lines.by_ref().take_while(|line| line.is_empty() || line.starts_with(' ')).collect();
        let entries = of_section.into_iter().filter(|line| {
            let indent = line.len() - line.trim_start().len();
            (2..=6).contains(&indent)
        });
        entries.map(|line| line.trim().to_owned()).collect()
    }

    fn page(&self) -> String {
        let name = std::iter::once("waystation").chain(self.words.iter().map(String::as_str));
        format!("{}.1", name.collect::<Vec<_>>().join("-"))
    }
}

#[test]
fn every_command_and_option_of_the_help_has_its_manual_page_and_no_page_is_of_anything_else() {
    let directory = generated();
    let pages = directory.path().join("man");
    let known = Known::ask(Vec::new()).with_all_below();
    assert!(known.len() > 25, "only {} commands found", known.len());
    let mut names = BTreeSet::from(["waystation.toml.5".to_owned()]);
    for command in &known {
        let page = fs::read_to_string(pages.join(command.page())).unwrap_or_else(|error| {
            panic!("waystation {} has no page: {error}", command.words.join(" "))
        });
        let options = command.options();
        assert!(options.contains("--help"), "{:?}: {options:?}", command.words);
        for option in options {
            let written = option.replace('-', "\\-");
            assert!(page.contains(&written), "{} does not name {option}", command.page());
        }
        assert!(page.contains(env!("CARGO_PKG_VERSION")), "{} has no version", command.page());
        names.insert(command.page());
    }
    let files = fs::read_dir(&pages).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    // The help of the help is nobody's page.
    let files = files.into_iter().filter(|name| !name.contains("-help")).collect::<BTreeSet<_>>();
    assert_eq!(files, names);
}

#[test]
fn every_key_of_the_default_configuration_is_in_its_manual_page_with_its_default() {
    let directory = generated();
    let page = fs::read_to_string(directory.path().join("man/waystation.toml.5")).unwrap();
    let page = page.replace("\\-", "-").replace("\\(dq", "\"");
    let printed = run(command(&binary()).args(["config", "default"])).text();
    let written = fs::read_to_string(directory.path().join("waystation.toml")).unwrap();
    assert_eq!(written, printed);
    let mut keys = 0;
    for line in printed.lines().filter(|line| !line.starts_with("# ") || line.ends_with('=')) {
        let line = line.trim_start_matches("# ");
        if line.starts_with('[') {
            assert!(page.contains(&format!(".SH \"{line}\"")), "{line}");
        } else if let Some((key, value)) = line.split_once(" =") {
            let entry = page.split(".TP\n").find(|e| e.starts_with(&format!("\\fB{key}\\fR\n")));
            assert!(entry.is_some(), "{key} is not in the page");
            let default = if value.is_empty() { "absent" } else { value.trim() };
            assert!(page.contains(&format!("Default: {default}.")), "{key}: {default}");
            keys += 1;
        }
    }
    assert!(keys > 50, "only {keys} keys found");
}

#[test]
fn manual_pages_have_no_mistake_that_the_formatter_knows() {
    if !given(exists("groff"), "groff") {
        return;
    }
    let directory = generated();
    for page in fs::read_dir(directory.path().join("man")).unwrap() {
        let page = page.unwrap().path();
        let formatted =
            run(command(Path::new("groff")).args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page));
        assert_eq!(formatted.code(), 0, "{}", page.display());
        assert_eq!(formatted.stderr, "", "{}", page.display());
    }
}

#[test]
fn completions_of_bash_know_every_command() {
    let directory = generated();
    let script = directory.path().join("completions/waystation.bash");
    let text = fs::read_to_string(&script).unwrap();
    for name in Known::ask(Vec::new()).commands() {
        assert!(text.contains(&format!("waystation,{name})")), "{name}");
    }
    if given(exists("bash"), "bash") {
        let checked = run(command(Path::new("bash")).arg("-n").arg(&script));
        assert_eq!(checked.code(), 0, "{}", checked.stderr);
    }
}

#[test]
fn configuration_of_the_package_holds_as_it_is_and_with_all_that_it_suggests() {
    let file = package().join("waystation.toml");
    let check = |file: &Path| run(command(&binary()).args(["config", "check"]).arg(file));
    let checked = check(&file);
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
    let text = fs::read_to_string(file).unwrap();
    // What is a suggestion has no space behind its sign, unlike what is a comment.
    let suggested = text.lines().map(|line| match line.strip_prefix('#') {
        Some(line) if !line.starts_with(' ') => line,
        _ => line,
    });
    let directory = TempDir::new().unwrap();
    let with_all = directory.path().join("waystation.toml");
    fs::write(&with_all, suggested.collect::<Vec<_>>().join("\n")).unwrap();
    let checked = check(&with_all);
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
}

/// The units of the package in a directory of their own, with the program that this test is of.
fn units() -> (TempDir, Vec<PathBuf>) {
    let directory = TempDir::new().unwrap();
    let mut units = Vec::new();
    for unit in fs::read_dir(package().join("systemd")).unwrap() {
        let unit = unit.unwrap().path();
        if unit.extension().is_none_or(|extension| extension != "service") {
            continue;
        }
        let text = fs::read_to_string(&unit).unwrap();
        let program = binary().display().to_string();
        let copy = directory.path().join(unit.file_name().unwrap());
        fs::write(&copy, text.replace("/usr/bin/waystation", &program)).unwrap();
        units.push(copy);
    }
    units.sort();
    (directory, units)
}

#[test]
fn units_have_no_mistake_that_systemd_knows() {
    if !given(exists("systemd-analyze"), "systemd-analyze") {
        return;
    }
    let (_directory, units) = units();
    assert_eq!(units.len(), 3, "{units:?}");
    for unit in &units {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no", "--recursive-errors=no"]).arg(instance(unit));
        let verified = run(&mut analyze);
        assert_eq!(verified.code(), 0, "{}: {}", unit.display(), verified.stderr);
        // What it has to say of the machine's own units is not about this one.
        let name = unit.file_stem().unwrap().to_str().unwrap();
        let about: Vec<&str> = verified.stderr.lines().filter(|line| line.contains(name)).collect();
        assert!(about.is_empty(), "{about:?}");
    }
}

/// A template is looked at as the unit of one interface.
fn instance(unit: &Path) -> PathBuf {
    let Some(name) = unit.to_str().unwrap().strip_suffix("@.service") else {
        return unit.to_owned();
    };
    let instance = PathBuf::from(format!("{name}@ens1.service"));
    fs::copy(unit, &instance).unwrap();
    instance
}

#[test]
fn service_is_exposed_no_more_than_a_network_daemon_has_to_be() {
    if !given(exists("systemd-analyze"), "systemd-analyze") {
        return;
    }
    let (_directory, units) = units();
    let service = units.iter().find(|unit| unit.ends_with("waystation.service")).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX]);
    let looked_at = run(analyze.arg(service));
    let text = looked_at.text();
    let overall = text.lines().find(|line| line.contains("Overall exposure level"));
    println!("{}", overall.unwrap_or("no overall exposure").trim());
    assert_eq!(looked_at.code(), 0, "{text}\n{}", looked_at.stderr);
}

#[test]
fn service_leaves_the_program_what_xdp_and_rings_need() {
    let unit = fs::read_to_string(package().join("systemd/waystation.service")).unwrap();
    let values = |key: &str| -> Vec<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.map(str::to_owned).collect()
    };
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let given: Vec<String> =
            values(key).iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect();
        for needed in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
            assert!(given.iter().any(|given| given == needed), "{key} lacks {needed}: {given:?}");
        }
    }
    // Lines count in their order: what a later one forbids is forbidden.
    for call in ["bpf", "io_uring_setup", "capset", "landlock_restrict_self"] {
        let filters = values("SystemCallFilter");
        let allowed = filters.iter().rposition(|line| line.split(' ').any(|word| word == call));
        let forbidden = filters.iter().rposition(|line| line.starts_with('~'));
        assert!(allowed.is_some() && allowed > forbidden, "{call}: {filters:?}");
    }
    assert_eq!(values("LimitMEMLOCK"), ["infinity"]);
    // The switch that routes are looked up by is set by the program itself.
    let writable = values("ReadWritePaths").join(" ");
    for family in ["ipv4", "ipv6"] {
        assert!(writable.contains(&format!("-/proc/sys/net/{family}/conf/lo")), "{writable}");
    }
}
