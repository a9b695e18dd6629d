//! The package in a fresh Debian root: the guide word for word, an upgrade, and a purge.
//!
//! Needs root, and three things that `.ci/run` makes: a root directory (`WAYSTATION_DEBIAN_ROOT`,
//! by `debootstrap --variant=minbase --include=systemd`), the package (`WAYSTATION_DEB`), and the
//! same one with a higher version (`WAYSTATION_DEB_NEXT`). Everything runs in a chroot with
//! namespaces of its own; what it has started ends with it, and the root it was given stays as it is.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and shows what was on screen"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::given;
use support::process::{Finished, command, is_root, run_within};
use tempfile::TempDir;

/// Bound of one script in the root: apt and dpkg take a while on a busy machine.
const SCRIPT: Duration = Duration::from_secs(300);
/// What shells run before a script of a test.
const ENTER: &str = r#"
ip link set lo up
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive chroot "$1" bash -e /script
"#;
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

/// A Debian root of the test's own.
struct Debian {
    scratch: TempDir,
    root: PathBuf,
}

impl Debian {
    /// A copy of the one that there is, unless there is none.
    fn fresh() -> Option<Self> {
        let base = std::env::var_os("WAYSTATION_DEBIAN_ROOT").map(PathBuf::from);
        let is_given = base.is_some() && package("WAYSTATION_DEB").is_some();
        if !given(is_root() && is_given, "root, WAYSTATION_DEBIAN_ROOT and WAYSTATION_DEB") {
            return None;
        }
        let scratch = TempDir::new().unwrap();
        let root = scratch.path().join("root");
        let copied =
            run_within(command(Path::new("cp")).arg("-a").arg(base.unwrap()).arg(&root), SCRIPT);
        assert_eq!(copied.code(), 0, "{}", copied.stderr);
        Some(Self { scratch, root })
    }

    /// Runs a script in it, with nothing around.
    fn run(&self, script: &str) -> Finished {
        fs::write(self.root.join("script"), script).unwrap();
        let mut unshare = command(Path::new("unshare"));
        unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER]);
        run_within(unshare.arg("sh").arg(&self.root).current_dir(self.scratch.path()), SCRIPT)
    }

    /// What a script that succeeds prints.
    fn output(&self, script: &str) -> String {
        let finished = self.run(script);
        let said = finished.text();
        assert_eq!(finished.code(), 0, "{script}\nprinted:\n{said}\n{}", finished.stderr);
        said
    }

    /// Brings a package to where an operator would have copied it.
    fn bring(&self, variable: &str) -> String {
        let package = package(variable).unwrap();
        let name = package.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&package, self.root.join("root").join(&name)).unwrap();
        name
    }

    /// Every path in it that no other package has to do with.
    fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        collect(&self.root, &self.root, &mut paths);
        paths
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn package(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
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

/// The shell blocks of the guide that are for a machine which systemd has not started.
fn guide() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/install.md");
    let text = fs::read_to_string(path).unwrap();
    let mut script = String::from("cd /root\n");
    let mut is_meant = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => is_meant = ["sh", "sh without systemd"].contains(&kind),
            None if is_meant => script.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    script
}

#[test]
fn first_time_reader_who_follows_the_guide_ends_with_a_relay_and_a_histogram() {
    let Some(debian) = Debian::fresh() else { return };
    debian.bring("WAYSTATION_DEB");
    let screen = debian.output(&guide());
    println!("{screen}");
    let (before, histogram) = screen.rsplit_once("STAGE ").expect("no histogram");
    assert!(before.contains("CORE CPU PORT"), "no status:\n{before}");
    let identity = before
        .lines()
        .find(|line| line.len() == 66 && line.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(identity.is_some(), "no identity:\n{before}");
    let turns = histogram.lines().find(|line| line.starts_with("turn "));
    assert!(turns.is_some(), "no row of a stage:\n{histogram}");
}

#[test]
fn package_installs_upgrades_and_is_gone_after_a_purge() {
    let Some(debian) = Debian::fresh() else { return };
    if !given(package("WAYSTATION_DEB_NEXT").is_some(), "WAYSTATION_DEB_NEXT") {
        return;
    }
    let before = debian.paths();
    let first = debian.bring("WAYSTATION_DEB");
    debian.output(&format!("apt-get install -y /root/{first}"));
    let installed = debian.paths();
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
    assert!(debian.paths().contains("/etc/waystation/hw-profiles.d/own.toml"));
    assert_eq!(debian.output(identity), known_as);

    debian.output("apt-get purge -y waystation");
    let after = debian.paths();
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "taken away besides: {lost:?}");
    for file in ["etc/passwd", "etc/group"] {
        assert!(!debian.read(file).contains("waystation"), "{file}");
    }
}
