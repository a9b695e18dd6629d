//! The package in a fresh Debian root: the guide word for word, an upgrade, and a purge.
//!
//! Needs root, and what `.ci/run` makes: a root and the package, as in `support/debian.rs`, and the
//! same package with a higher version (`WAYSTATION_DEB_NEXT`). Everything runs in a chroot; the same
//! under systemd is in `booted.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and shows what was on screen"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::debian::{Debian, expect_end_of_guide, guide, package};
use support::given;

/// Where an installation may leave its traces: what apt, dpkg and the tools for users keep.
const KEPT_BY_OTHERS: &[&str] = &[
    "/etc/.pwd.lock",
    "/etc/group",
    "/etc/gshadow",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/subgid",
    "/etc/subuid",
    "/run",
    "/script",
    "/root",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/log",
];

/// Every path in a root that no other package has to do with.
fn paths(debian: &Debian) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    collect(&debian.root, &debian.root, &mut paths);
    paths
}

fn collect(root: &Path, directory: &Path, paths: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("/{}", entry.path().strip_prefix(root).unwrap().display());
        let is_of_others = KEPT_BY_OTHERS.iter().any(|kept| {
            // Tools for users keep the version before under the same name with a hyphen.
            path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest == "-")
        });
        if is_of_others {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(root, &entry.path(), paths);
        }
        paths.insert(path);
    }
}

#[test]
fn first_time_reader_who_follows_the_guide_ends_with_a_relay_and_a_histogram() {
    let Some(debian) = Debian::fresh() else { return };
    debian.bring("WAYSTATION_DEB");
    let screen = debian.output(&guide(&["sh", "sh without systemd"]));
    println!("{screen}");
    expect_end_of_guide(&screen);
}

#[test]
fn package_installs_upgrades_and_is_gone_after_a_purge() {
    let Some(debian) = Debian::fresh() else { return };
    if !given(package("WAYSTATION_DEB_NEXT").is_some(), "WAYSTATION_DEB_NEXT") {
        return;
    }
    let before = paths(&debian);
    let first = debian.bring("WAYSTATION_DEB");
    debian.output(&format!("apt-get install -y /root/{first}"));
    let installed = paths(&debian);
    for path in [
        "/usr/bin/waystation",
        "/usr/lib/systemd/system/waystation.service",
        "/usr/lib/systemd/system/waystation-tune.service",
        "/usr/lib/systemd/system/waystation-tune@.service",
        "/etc/waystation/waystation.toml",
        "/etc/waystation/hw-profiles.d",
        "/usr/share/waystation/hw-profiles/generic.toml",
        "/usr/share/waystation/monitoring/alert-rules.yml",
        "/usr/share/waystation/monitoring/grafana-dashboard.json",
        "/usr/share/bash-completion/completions/waystation",
        "/usr/share/man/man1/waystation-tune-apply.1.gz",
        "/usr/share/man/man5/waystation.toml.5.gz",
        "/usr/share/doc/waystation/copyright",
        "/usr/share/doc/waystation/install.md",
        "/usr/share/doc/waystation/examples/waystation.toml",
        "/var/lib/waystation",
    ] {
        let is_there = installed.contains(path)
            // Packages leave out manuals where dpkg is told to.
            || path.starts_with("/usr/share/man") && !before.contains("/usr/share/man/man1");
        assert!(is_there, "{path} is not installed");
    }
    let started: Vec<_> = installed
        .iter()
        .filter(|path| path.contains(".wants/") && path.contains("waystation"))
        .collect();
    assert!(started.is_empty(), "is started without being asked to: {started:?}");
    assert!(debian.read("etc/passwd").lines().any(|line| line.starts_with("waystation:")));

    // What is the operator's: a key that root had made, and two files.
    let identity = "waystation identity --state-dir /var/lib/waystation";
    let known_as = debian.output(identity);
    let key = fs::metadata(debian.root.join("var/lib/waystation/node_key")).unwrap();
    let state = fs::metadata(debian.root.join("var/lib/waystation")).unwrap();
    assert_eq!((key.uid(), key.mode() & 0o777), (state.uid(), 0o600));
    assert_ne!(key.uid(), 0, "the service cannot read its key");
    let mine = "echo '# mine' >> /etc/waystation/waystation.toml
        cp /usr/share/waystation/hw-profiles/veth.toml /etc/waystation/hw-profiles.d/own.toml";
    debian.output(mine);

    let next = debian.bring("WAYSTATION_DEB_NEXT");
    debian.output(&format!("apt-get install -y /root/{next}"));
    let version = "dpkg-query --showformat='${Version}' --show waystation";
    assert!(next.contains(&debian.output(version)), "{next} is not what is installed");
    assert!(debian.read("etc/waystation/waystation.toml").ends_with("# mine\n"));
    assert!(paths(&debian).contains("/etc/waystation/hw-profiles.d/own.toml"));
    assert_eq!(debian.output(identity), known_as);

    // With the place for pins of examples/xdp.conf, on a file system of any kind.
    debian.output(
        "mkdir /run/waystation-bpf
        mount -t tmpfs tmpfs /run/waystation-bpf
        apt-get purge -y waystation
        test ! -e /run/waystation-bpf",
    );
    let after = paths(&debian);
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "taken away besides: {lost:?}");
    for file in ["etc/passwd", "etc/group"] {
        assert!(!debian.read(file).contains("waystation"), "{file}");
    }
}
