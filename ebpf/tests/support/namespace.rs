//! Network namespaces that end with the thread that made them.

use nix::sched::{CloneFlags, setns, unshare};
use std::{fs::File, process::Command};

/// A network namespace. It is there as long as a thread is in it or this is not dropped.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Moves the calling thread into a new namespace, with loopback up and routing look-ups on.
    pub fn enter_new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        waystation_ebpf::forwarding::switch_on().unwrap();
        assert_eq!(waystation_ebpf::forwarding::switches_off().count(), 0);
        Self { file: File::open("/proc/thread-self/ns/net").unwrap() }
    }

    /// Moves the calling thread into this namespace.
    pub fn enter(&self) {
        setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// What `ip link … netns` takes for this namespace.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Runs `ip` with the words of `arguments`, in the namespace of the calling thread.
///
/// # Panics
/// When it fails.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// The index of an interface of the calling thread's namespace.
pub fn index_of(interface: &str) -> u32 {
    let output =
        Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}
