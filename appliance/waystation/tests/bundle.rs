//! The support bundle: what is in it, that it says so first, and that nothing secret is.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Finished, binary, command, run};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_peer::secret_key;

/// What is in a bundle, by name, and the one directory of it.
fn unpacked(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(file).unwrap()));
    let mut parts = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        assert!(path.starts_with(path.components().next().unwrap()), "{path:?}");
        assert_eq!(path.components().count(), 2, "{path:?}");
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        assert!(parts.insert(name, bytes).is_none());
    }
    parts
}

fn bundle(words: &[&str]) -> Finished {
    run(command(&binary()).arg("bundle").args(words))
}

fn private_file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn a_bundle_holds_what_it_lists_and_no_secret_of_any_kind() {
    let files = TempDir::new().unwrap();
    let dht_key = "5e".repeat(32);
    let users = private_file(files.path(), "users", "alice:password-of-alice\n");
    let secrets = private_file(files.path(), "secrets", "secret-of-turn\n");
    let dht = private_file(files.path(), "dht_key", &format!("{dht_key}\n"));
    let key = secret_key().unwrap();
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", "listen = [\"127.0.0.1:0\"]")
        .with("turn", &format!("users_file = \"{users}\""))
        .with("turn", &format!("secrets_file = \"{secrets}\" # secret-of-a-comment"))
        .with("dht", "enabled = true")
        .with("dht", "listen = [\"127.0.0.1:0\"]")
        .with("dht", &format!("key_file = \"{dht}\""))
        .with_key(&key);
    let appliance = Appliance::start(&settings);
    let node = appliance.node(Profile::P4);
    let registration = node.link.register(Visibility::Public).unwrap();
    let config = appliance.directory.path().join("waystation.toml").display().to_string();
    let socket = appliance.socket.display().to_string();
    let file = files.path().join("bundle.tar.gz");
    let name = file.display().to_string();
    let words = [name.as_str(), "--config", &config, "--socket", &socket];

    let listed = bundle(&[&words[..], &["--list"]].concat());
    assert_eq!(listed.code(), 0, "{}", listed.stderr);
    assert!(!file.exists(), "a list is no bundle");

    let made = bundle(&words);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let parts = unpacked(&file);
    let said = made.text();
    for (part, bytes) in &parts {
        assert!(said.contains(part.as_str()), "{part}: {said}");
        assert!(!bytes.is_empty() || part == "MISSING.txt", "{part}");
    }
    for part in [
        "bundle.json",
        "waystation.toml",
        "doctor.json",
        "machine.json",
        "status.json",
        "links.json",
        "sessions.json",
        "udp.json",
        "peers.json",
        "xdp.json",
        "dht.json",
        "log.json",
        "drops.json",
        "histograms.json",
        "total.hlog",
        "interval.hlog",
        "metrics.txt",
        "events.ndjson",
        "kernel.txt",
        "memory.txt",
    ] {
        assert!(parts.contains_key(part), "{part} is missing: {said}");
    }
    for (part, bytes) in parts.iter().filter(|(part, _)| part.ends_with(".json")) {
        let document: Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(document["schema"], 1, "{part}");
    }
    assert!(String::from_utf8_lossy(&parts["waystation.toml"]).contains(&users));
    let missing = String::from_utf8_lossy(&parts["MISSING.txt"]).into_owned();
    assert!(missing.contains("hub.json") || parts.contains_key("hub.json"), "{missing}");

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let nonce = registration.nonce.to_be_bytes();
    let secrets = [
        "password-of-alice".to_owned(),
        "secret-of-turn".to_owned(),
        "secret-of-a-comment".to_owned(),
        dht_key,
        hex(key.expose_bytes()),
        hex(node.key.expose_bytes()),
        hex(&nonce).trim_start_matches('0').to_owned(),
        u64::from_be_bytes(nonce).to_string(),
    ];
    for (part, bytes) in &parts {
        let text = String::from_utf8_lossy(bytes);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is in {part}");
        }
        let raw = key.expose_bytes();
        assert!(!bytes.windows(raw.len()).any(|window| window == raw), "{part}");
    }

    let again = bundle(&words);
    assert_eq!(again.code(), 69, "{}", again.stderr);
    assert!(again.complaint().contains("name another file"), "{}", again.stderr);
    assert_eq!(unpacked(&file).len(), parts.len(), "the first is left as it was");
}

#[test]
fn without_a_running_program_there_is_a_bundle_that_says_what_is_missing() {
    let files = TempDir::new().unwrap();
    let broken = private_file(files.path(), "broken.toml", "[node]\nalias = secret-in-a-typo\n");
    let (file, socket) = (files.path().join("b.tar.gz"), files.path().join("none.sock"));
    let (file_name, socket) = (file.display().to_string(), socket.display().to_string());
    let made = bundle(&[&file_name, "--config", &broken, "--socket", &socket]);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    let parts = unpacked(&file);
    assert!(parts.contains_key("doctor.json") && !parts.contains_key("status.json"));
    let missing = String::from_utf8_lossy(&parts["MISSING.txt"]).into_owned();
    assert!(missing.contains("status.json: there is no socket at"), "{missing}");
    assert!(missing.contains("waystation.toml") && missing.contains("has mistakes"), "{missing}");
    for (part, bytes) in &parts {
        assert!(!String::from_utf8_lossy(bytes).contains("secret-in-a-typo"), "{part}");
    }
    assert!(!made.text().contains("secret-in-a-typo") && !made.stderr.contains("secret-in-a-typo"));
}

#[test]
fn the_end_of_the_journal_is_in_it_and_no_more_than_has_room() {
    let files = TempDir::new().unwrap();
    let script = files.path().join("journalctl");
    let text = "#!/bin/sh\necho \"asked: $*\"\nexec head -c 20000000 /dev/zero\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let file = files.path().join("b.tar.gz");
    let path = format!("{}:{}", files.path().display(), std::env::var("PATH").unwrap_or_default());
    let socket = files.path().join("none.sock");
    let made = run(command(&binary())
        .arg("bundle")
        .arg(&file)
        .arg("--socket")
        .arg(&socket)
        .env("PATH", path));
    assert_eq!(made.code(), 0, "{}", made.stderr);
    let parts = unpacked(&file);
    let journal = &parts["journal.txt"];
    assert!(journal.starts_with(b"asked: --unit=waystation"));
    assert_eq!(journal.len(), 8 << 20);
    assert!(made.text().contains("the last lines of its log, cut off"), "{}", made.text());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let made = bundle(&["/nowhere/at/all.tar.gz", "--socket", "/nowhere/sock"]);
    assert_eq!(made.code(), 69, "{}", made.stderr);
    assert!(made.complaint().contains("cannot write /nowhere/at/all.tar.gz"), "{}", made.stderr);
}
