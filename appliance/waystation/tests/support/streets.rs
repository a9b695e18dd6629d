//! A relay, a client and a peer in three network namespaces, with nothing but the relay between.
//!
//! ```text
//!   client 198.51.100.7 ── wan 198.51.100.1 │ relay │ lan 203.0.113.1 ── peer 203.0.113.7
//! ```
//!
//! Namespaces end with the thread that made them and the processes in them. Senders finish their
//! checksums themselves, as a network card does; on veth nobody else would.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::path::Path;
use tempfile::TempDir;
use waystation_ebpf::attach::{Attachment, Wanted};
use waystation_ebpf::programs::Programs;
use waystation_tuning::machine::{Machine, Target};

pub const WAN: &str = "198.51.100.1";
pub const LAN: &str = "203.0.113.1";
pub const CLIENT: &str = "198.51.100.7";
pub const PEER: &str = "203.0.113.7";

/// A program that passes everything: what a veth needs at the other end to take in frames that were
/// sent by a program.
#[derive(Debug)]
pub struct Passing {
    _programs: Programs,
    _attachment: Attachment,
}

impl Passing {
    pub fn on(interface: &str) -> Self {
        let mut programs = Programs::load(None).unwrap();
        let attachment = Attachment::new(&mut programs, interface, Wanted::Native, None).unwrap();
        Self { _programs: programs, _attachment: attachment }
    }
}

/// The calling thread, and what it starts, is in the relay's namespace.
#[derive(Debug)]
pub struct Streets {
    relay: File,
    client: File,
    peer: File,
    _ends: [Passing; 2],
}

impl Streets {
    pub fn new() -> Self {
        let client = new_namespace();
        let peer = new_namespace();
        let relay = new_namespace();
        join("wan", WAN, &client);
        join("lan", LAN, &peer);
        let ends = [(&client, CLIENT, WAN), (&peer, PEER, LAN)].map(|(home, address, gateway)| {
            enter(home);
            ip(&format!("addr add {address}/24 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("route add default via {gateway}"));
            finish_checksums("eth0");
            Passing::on("eth0")
        });
        enter(&relay);
        Self { relay, client, peer, _ends: ends }
    }

    /// Does something where the client is.
    pub fn at_client<T>(&self, act: impl FnOnce() -> T) -> T {
        enter(&self.client);
        let result = act();
        enter(&self.relay);
        result
    }

    /// Does something where the peer is.
    pub fn at_peer<T>(&self, act: impl FnOnce() -> T) -> T {
        enter(&self.peer);
        let result = act();
        enter(&self.relay);
        result
    }

    /// The peer's socket.
    pub fn peer(&self) -> UdpSocket {
        self.at_peer(|| UdpSocket::bind((PEER, 0)).unwrap())
    }
}

/// Whether an interface of the calling thread's namespace has an XDP program.
pub fn has_program(interface: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", "dev", interface]).output().unwrap();
    assert!(output.status.success(), "{interface}");
    String::from_utf8(output.stdout).unwrap().contains("xdp")
}

/// A switch of the calling thread's namespace.
pub fn switch(path: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap().trim().to_owned()
}

/// Puts the calling thread, and what it starts, into a namespace with nothing but loopback.
pub fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Puts the calling thread into a network namespace.
pub fn enter(namespace: &File) {
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

/// A pair of interfaces, one here and one in a home.
fn join(interface: &str, address: &str, home: &File) {
    let home = format!("/proc/{}/fd/{}", std::process::id(), home.as_raw_fd());
    ip(&format!("link add {interface} type veth peer name eth0 netns {home}"));
    ip(&format!("addr add {address}/24 dev {interface}"));
    ip(&format!("link set {interface} up"));
    finish_checksums(interface);
}

fn finish_checksums(interface: &str) {
    let (nic, feature) = (interface.to_owned(), "tx-checksum-ip-generic".to_owned());
    Machine::this().write(&Target::Feature { nic, feature }, "off").unwrap();
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// A BPF file system for the calling thread and what it starts, gone when dropped.
#[derive(Debug)]
pub struct BpfMount {
    directory: TempDir,
}

impl BpfMount {
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let directory = TempDir::new().unwrap();
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), none).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Nobody can pin anything from here on, or remove a pin.
    pub fn forbid_writing(&self) {
        let (none, read_only) = (None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
        mount(none, self.path(), none, read_only, none).unwrap();
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        umount2(self.directory.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
