//! A Debian root to install the package in: what it does in a chroot, and under a systemd of its own.
//!
//! Both need root and what `.ci/run` makes: a root directory (`WAYSTATION_DEBIAN_ROOT`, by
//! `debootstrap --variant=minbase --include=systemd`) and the package (`WAYSTATION_DEB`). Everything
//! runs with namespaces of its own; what was started ends with the value that holds it, and the root
//! that was given stays as it is.

use super::control_group::ControlGroup;
use super::process::{Finished, Process, command, is_root, run_within};
use super::{STEP, eventually, eventually_within, given};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
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
/// What becomes systemd, as a container manager would start it. Of the kernel's settings, those of
/// the network namespace are the root's own; for others that the package would set there is a copy,
/// and the rest can only be read, because they are the whole machine's.
const BOOT: &str = r#"
echo $$ >"$2/cgroup.procs"
exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -ec '
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir dev/pts dev/shm settings before
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs tmpfs settings
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
for setting in kernel/numa_balancing net/core/rmem_max net/core/wmem_max \
    net/core/netdev_max_backlog; do
    if test -e proc/sys/$setting; then
        copy=settings/$(basename $setting)
        cat proc/sys/$setting >$copy
        mount --bind $copy proc/sys/$setting
    fi
done
pivot_root . before
umount -l before
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    /usr/lib/systemd/systemd --log-target=journal
' sh "$1"
"#;

/// A Debian root of the test's own.
#[derive(Debug)]
pub struct Debian {
    scratch: TempDir,
    pub root: PathBuf,
}

impl Debian {
    /// A copy of the one that there is, unless there is none.
    pub fn fresh() -> Option<Self> {
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
        // Nobody needs it after a loss of power.
        fs::write(root.join("etc/dpkg/dpkg.cfg.d/unsafe-io"), "force-unsafe-io\n").unwrap();
        Some(Self { scratch, root })
    }

    /// Runs a script in it, with nothing around.
    pub fn run(&self, script: &str) -> Finished {
        fs::write(self.root.join("script"), script).unwrap();
        let mut unshare = command(Path::new("unshare"));
        unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER]);
        run_within(unshare.arg("sh").arg(&self.root).current_dir(self.scratch.path()), SCRIPT)
    }

    /// What a script that succeeds prints.
    pub fn output(&self, script: &str) -> String {
        printed(script, &self.run(script))
    }

    /// Brings a package to where an operator would have copied it.
    pub fn bring(&self, variable: &str) -> String {
        let package = package(variable).unwrap();
        let name = package.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&package, self.root.join("root").join(&name)).unwrap();
        name
    }

    /// A file in it.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Starts systemd in it, unless this machine has no control groups of the second kind to give it.
    pub fn boot(self) -> Option<Booted> {
        let Some(group) = ControlGroup::unified() else {
            given(false, "control groups of the second kind (cgroup2), mounted somewhere");
            return None;
        };
        let mut systemd = command(Path::new("sh"));
        systemd.args(["-ec", BOOT, "sh"]).arg(&self.root).arg(group.path());
        let mut process = Process::spawn(&mut systemd, &self.scratch.path().join("boot"));
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let first = eventually("the first process of the namespace", || {
            assert!(process.ended().is_none(), "{}", process.log());
            fs::read_to_string(&children).ok()?.split_whitespace().next().map(str::to_owned)
        });
        let booted = Booted { first, process, group, debian: self };
        eventually_within("systemd has started everything", SCRIPT, || {
            assert!(booted.process.is_alive(), "{}", booted.process.log());
            let asked = booted.run("systemctl is-system-running");
            // Some service of the machine's may have failed, which is none of ours.
            ["running", "degraded"].contains(&asked.text().trim()).then_some(())
        });
        Some(booted)
    }
}

/// What a package is in, by the variable that names it.
pub fn package(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// What somebody who follows the guide types: its shell blocks of these kinds.
pub fn guide(kinds: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/install.md");
    let text = fs::read_to_string(path).unwrap();
    let mut script = String::from("cd /root\n");
    let mut is_meant = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => is_meant = kinds.contains(&kind),
            None if is_meant => script.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    script
}

/// Checks what is on the screen at the guide's end: a status, who the node is, and a histogram.
pub fn expect_end_of_guide(screen: &str) {
    let (before, histogram) = screen.rsplit_once("STAGE ").expect("no histogram");
    assert!(before.contains("CORE CPU PORT"), "no status:\n{before}");
    let identity = before
        .lines()
        .find(|line| line.len() == 66 && line.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(identity.is_some(), "no identity:\n{before}");
    let turns = histogram.lines().find(|line| line.starts_with("turn "));
    assert!(turns.is_some(), "no row of a stage:\n{histogram}");
}

fn printed(script: &str, finished: &Finished) -> String {
    let said = finished.text();
    assert_eq!(finished.code(), 0, "{script}\nprinted:\n{said}\n{}", finished.stderr);
    said
}

/// A root with systemd as its first process. Dropped, all of it is killed.
#[derive(Debug)]
pub struct Booted {
    /// Of systemd, as the test's own namespace has it.
    first: String,
    process: Process,
    #[allow(dead_code, reason = "is removed once the processes in it are gone")]
    group: ControlGroup,
    pub debian: Debian,
}

impl Booted {
    /// Runs a script beside systemd.
    pub fn run(&self, script: &str) -> Finished {
        let mut enter = command(Path::new("nsenter"));
        enter.args(["--target", &self.first, "--all", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
        enter.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]);
        run_within(enter.args(["bash", "-ec", script]), SCRIPT)
    }

    /// What a script that succeeds prints; the journal too if it does not.
    pub fn output(&self, script: &str) -> String {
        let finished = self.run(script);
        if !finished.status.success() {
            println!("{}", self.journal());
        }
        printed(script, &finished)
    }

    /// What systemd knows of the service by this name.
    pub fn property(&self, name: &str) -> String {
        let shown = self.output(&format!("systemctl show --property {name} --value waystation"));
        shown.trim().to_owned()
    }

    /// What the service and systemd have said of it.
    pub fn journal(&self) -> String {
        self.run("journalctl --no-pager --output cat --unit waystation").text()
    }

    /// Waits until the service is in a state.
    pub fn expect_state(&self, wanted: &str) {
        eventually_within(&format!("the service is {wanted}"), 3 * STEP, || {
            (self.property("ActiveState") == wanted).then_some(())
        });
    }

    /// The network that it is in, by a file that stands for it.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.first))
    }
}
