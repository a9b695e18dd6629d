//! The profiles: all valid, each for what it says, and the document made from them current.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use waystation_tuning::catalog::{BUILT_IN, Catalog, CatalogError, Match, Reason, Subject};
use waystation_tuning::documentation;
use waystation_tuning::profile::{Key, Profile, ProfileError, Status, Value, is_version_at_least};

/// Profiles of devices that were at hand; no other may say that something was measured.
const AT_HAND: &[&str] = &["veth", "virtio_net"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn find<'a>(catalog: &'a Catalog, driver: &'a str, pci_id: Option<&'a str>) -> Match<'a> {
    catalog.find(Subject { driver: Some(driver), pci_id, firmware: None })
}

fn key(text: &str) -> Key {
    Key::try_from(text.to_owned()).unwrap()
}

#[test]
fn every_built_in_profile_is_valid_and_named_like_its_file() {
    let in_folder: BTreeSet<String> = fs::read_dir(repository().join("hw-profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let built_in: BTreeSet<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(in_folder, built_in);
    for (name, text) in BUILT_IN {
        let profile = Profile::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(profile.name, *name);
        assert!(profile.extends.is_none(), "{name}: stands by itself");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{name}: a long line");
    }
}

#[test]
fn only_devices_at_hand_were_measured() {
    for (name, text) in BUILT_IN {
        let profile = Profile::parse(text).unwrap();
        let measured = profile.settings.values().any(|it| it.status == Status::Measured);
        assert!(!measured || AT_HAND.contains(name), "{name} says that something was measured");
    }
}

#[test]
fn every_profile_says_how_xdp_runs() {
    for (name, text) in BUILT_IN {
        let profile = Profile::parse(text).unwrap();
        assert!(profile.setting(&Key::XdpMode).is_some(), "{name}");
    }
}

#[test]
fn a_nic_without_a_profile_gets_the_generic_one_and_is_told_so() {
    let catalog = Catalog::read(None).unwrap();
    for subject in [Subject::default(), Subject { driver: Some("nobody"), ..Subject::default() }] {
        let found = catalog.find(subject);
        assert_eq!(found.entry.profile.name, "generic");
        assert_eq!(found.reason, Reason::NothingElse);
        assert!(found.reason.text().contains("no profile knows"));
    }
    let generic: Vec<_> =
        catalog.entries().iter().filter(|entry| entry.profile.selector.is_none()).collect();
    assert_eq!(generic.len(), 1);
}

#[test]
fn each_driver_finds_its_profile() {
    let catalog = Catalog::read(None).unwrap();
    for (name, text) in BUILT_IN {
        let Some(selector) = Profile::parse(text).unwrap().selector else { continue };
        for driver in &selector.drivers {
            let id = selector.pci_ids.first().map(String::as_str);
            assert_eq!(find(&catalog, driver, id).entry.profile.name, *name);
        }
    }
}

#[test]
fn an_own_profile_takes_over_what_it_extends_and_comes_first() {
    let directory = TempDir::new().unwrap();
    let text = r#"
        name = "ice-here"
        title = "E810 at this site"
        extends = "ice"
        [settings."rings.rx"]
        value = "max"
        status = "measured"
        source = "our own load test"
        why = "Fewer drops."
    "#;
    fs::write(directory.path().join("ice.toml"), text).unwrap();
    fs::write(directory.path().join("notes.txt"), "not a profile").unwrap();
    let catalog = Catalog::read(Some(directory.path())).unwrap();
    let found = find(&catalog, "ice", Some("8086:1592"));
    let profile = &found.entry.profile;
    assert_eq!(profile.name, "ice-here");
    assert!(found.entry.origin.ends_with("ice.toml"));
    assert_eq!(profile.setting(&Key::RingsRx).unwrap().value, Value::Word("max".into()));
    let base = Profile::parse(BUILT_IN.iter().find(|(name, _)| *name == "ice").unwrap().1).unwrap();
    assert_eq!(profile.settings.len(), base.settings.len());
    assert_eq!(profile.selector, base.selector);
    assert_eq!(find(&catalog, "i40e", None).entry.profile.name, "i40e");
}

#[test]
fn the_more_exact_of_two_own_profiles_wins() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, selector: &str| {
        let text = format!("name = \"{name}\"\ntitle = \"t\"\n[selector]\n{selector}\n");
        fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    };
    write("exact", "drivers = [\"ice\"]\npci_ids = [\"8086:1592\"]");
    write("wide", "drivers = [\"ice\"]");
    write("new", "drivers = [\"mlx5_core\"]\nfirmware_min = \"22.31\"");
    let catalog = Catalog::read(Some(directory.path())).unwrap();
    assert_eq!(find(&catalog, "ice", Some("8086:1592")).entry.profile.name, "exact");
    assert_eq!(find(&catalog, "ice", Some("8086:1593")).entry.profile.name, "wide");
    let firmware = |version| {
        let subject =
            Subject { driver: Some("mlx5_core"), firmware: version, ..Subject::default() };
        let found = catalog.find(subject);
        (found.entry.profile.name.as_str(), found.reason)
    };
    assert_eq!(firmware(Some("22.36.1010")), ("new", Reason::Driver));
    assert_eq!(firmware(Some("20.99")), ("mlx5_core", Reason::Driver));
    assert_eq!(firmware(None), ("new", Reason::DriverUnknownFirmware));
}

#[test]
fn what_is_wrong_with_a_profile_is_said() {
    let wrong = |rest: &str| {
        let text = format!("name = \"a\"\ntitle = \"b\"\n{rest}");
        Profile::parse(&text).unwrap_err().to_string()
    };
    let setting = |key: &str, value: &str, source: &str| {
        wrong(&format!(
            "[settings.\"{key}\"]\nvalue = {value}\nstatus = \"vendor\"\n\
             source = {source}\nwhy = \"w\""
        ))
    };
    let cases = [
        (wrong("colour = 1"), "colour"),
        (wrong("[selector]\ndrivers = []"), "drivers is empty"),
        (wrong("[selector]\ndrivers = [\"x\"]\npci_ids = [\"8086:159G\"]"), "8086:159G"),
        (setting("rings.rx", "true", "\"s\""), "rings.rx"),
        (setting("rings.rx", "\"min\"", "\"s\""), "max"),
        (setting("features.rx-lro", "1", "\"s\""), "true or false"),
        (setting("features.rx-lroo", "true", "\"s\""), "rx-lroo"),
        (setting("xdp.mode", "\"fast\"", "\"s\""), "native"),
        (setting("rings.tx", "-1", "\"s\""), "line"),
        (setting("rings.tx", "1", "\"\""), "source"),
        (setting("rings.tx", "1", "\"a | b\""), "one line"),
    ];
    for (said, word) in cases {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    assert!(matches!(Profile::parse(""), Err(ProfileError::Syntax(_))));
}

#[test]
fn profiles_that_lean_on_each_other_in_a_circle_are_refused() {
    let directory = TempDir::new().unwrap();
    for (name, extends) in [("left", "right"), ("right", "left"), ("lost", "nowhere")] {
        let text = format!("name = \"{name}\"\ntitle = \"t\"\nextends = \"{extends}\"\n");
        fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    }
    let error = Catalog::read(Some(directory.path())).unwrap_err();
    assert!(matches!(error, CatalogError::Extends { .. }), "{error}");
}

#[test]
fn a_profile_longer_than_any_is_refused() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("long.toml"), "#".repeat(70_000)).unwrap();
    let error = Catalog::read(Some(directory.path())).unwrap_err();
    assert!(matches!(error, CatalogError::TooLong { .. }), "{error}");
    let absent = directory.path().join("absent");
    assert_eq!(Catalog::read(Some(&absent)).unwrap().entries().len(), BUILT_IN.len());
}

#[test]
fn versions_are_compared_by_their_numbers() {
    assert!(is_version_at_least("22.36.1010 (MT_0000000359)", "22.31"));
    assert!(is_version_at_least("9.10", "9.9"));
    assert!(!is_version_at_least("9.9", "9.10"));
    assert!(is_version_at_least("3.20 0x8000d84c", "3.20"));
}

#[test]
fn keys_are_read_as_they_are_written() {
    for each in Key::all() {
        assert_eq!(key(&each.to_string()), each);
    }
}

/// `WAYSTATION_TEST_WRITE=1 cargo test -p waystation-tuning` brings the document up to date.
#[test]
fn the_document_of_profiles_is_current() {
    let path = repository().join("docs/hardware.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(documentation::BEGIN).unwrap();
    let (_, tail) = rest.split_once(documentation::END).unwrap();
    let tables = documentation::tables(&Catalog::read(None).unwrap());
    let current =
        format!("{head}{}\n\n{tables}\n{}{tail}", documentation::BEGIN, documentation::END);
    if std::env::var_os("WAYSTATION_TEST_WRITE").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(text == current, "docs/hardware.md is out of date; WAYSTATION_TEST_WRITE=1 writes it");
}
