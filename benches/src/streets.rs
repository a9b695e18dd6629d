//! A relay, its clients and its peers in three network namespaces, with nothing but the relay
//! between.
//!
//! ```text
//!   clients 198.51.100.7 ── wan 198.51.100.1 │ relay │ lan 203.0.113.1 ── peers 203.0.113.7
//! ```
//!
//! Owned by the thread that makes it, which is moved into the relay's namespace; what it starts
//! from then on is there too. Namespaces and interfaces end with the sockets, threads and processes in
//! them. Every interface receives in a kernel thread of its own ("threaded NAPI", Linux 5.12), so
//! that what the kernel does on behalf of a relay, an XDP program included, is the time of a thread
//! that can be read and pinned: those of the relay's interfaces are on the relay's processor, those
//! of the others on the generator's. They have the first say on their processor, as the interrupts
//! have that they stand in for, and like those of a network card they are told of frames at most once
//! in [`MODERATION_NS`]: without that the kernel would wake a thread for each.

use crate::load::processor::{Watched, pin_other};
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use waystation_tuning::machine::{Machine, Target};

/// The relay's address on the side of its clients, and on that of its peers.
pub const WAN: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub const LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
pub const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub const PEERS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
/// Addresses that a flood comes from: the clients' side sends from all of them.
pub const STRANGERS: &str = "10.0.0.0/8";

/// How long an interface that has just received lets frames gather, in nanoseconds: what drivers of
/// network cards do to their interrupts unless told otherwise (`rx-usecs`).
pub const MODERATION_NS: u32 = 50_000;

/// Looks at whether the kernel has made a thread, and the pause between two of them.
const THREAD_TRIES_MAX: u32 = 500;
const THREAD_PAUSE: Duration = Duration::from_millis(10);

/// Who finishes the checksums of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Whoever sends. An XDP program needs that: on these interfaces nobody would later.
    Finished,
    /// Nobody: the kernel knows that frames have not left the machine. What a network card does for
    /// sockets, at the same price.
    Offloaded,
}

/// Who a relay is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Clients,
    Peers,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Clients, Self::Peers];

    /// The address of those who are there.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Clients => CLIENTS,
            Self::Peers => PEERS,
        }
    }
}

/// The far end of one of the relay's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its interface's name, in its namespace.
    pub name: String,
    /// Its own Ethernet address, and that of the relay's interface.
    pub station: [u8; 6],
    pub relay_station: [u8; 6],
}

/// See the module.
#[derive(Debug)]
pub struct Streets {
    clients: File,
    peers: File,
    relay: File,
    /// Names of the interfaces: the relay's two, then the clients' and the peers'.
    names: [String; 4],
    checksums: Checksums,
    /// Threads of the kernel that receive what comes to the relay, and to the others.
    receiving: Vec<u32>,
    receiving_ends: Vec<u32>,
}

/// Why there can be none, in the words of a table.
pub fn missing() -> Option<&'static str> {
    (!geteuid().is_root()).then_some("needs root")
}

impl Streets {
    /// Builds them, and moves the calling thread to the relay.
    ///
    /// # Errors
    ///
    /// Without root, or when `ip`, `unshare` or `chrt` fails.
    pub fn new(checksums: Checksums, relay_cpu: usize, generator_cpu: usize) -> Result<Self> {
        let clients = new_namespace()?;
        let peers = new_namespace()?;
        let relay = new_namespace()?;
        let names = fresh_names();
        join(&names, Side::Clients, WAN, &clients)?;
        join(&names, Side::Peers, LAN, &peers)?;
        let homes = [(&relay, &names[0]), (&relay, &names[1])];
        let far_homes = [(&clients, &names[2]), (&peers, &names[3])];
        for (home, address, gateway, name) in
            [(&clients, CLIENTS, WAN, &names[2]), (&peers, PEERS, LAN, &names[3])]
        {
            enter(home)?;
            ip(&format!("addr add {address}/24 dev {name}"))?;
            ip(&format!("link set {name} up"))?;
            ip(&format!("route add default via {gateway}"))?;
        }
        enter(&clients)?;
        ip(&format!("route add local {STRANGERS} dev lo"))?;
        enter(&relay)?;
        ip(&format!("route add {STRANGERS} via {CLIENTS}"))?;
        let receive = |homes: [(&File, &String); 2], cpu| -> Result<Vec<u32>> {
            let begin = |(home, name): (&File, &String)| {
                enter(home)?;
                if checksums == Checksums::Finished {
                    switch_off(name, "tx-checksum-ip-generic")?;
                }
                receive_in_a_thread(name, cpu)
            };
            homes.into_iter().map(begin).collect()
        };
        let receiving = receive(homes, relay_cpu)?;
        let receiving_ends = receive(far_homes, generator_cpu)?;
        enter(&relay)?;
        Ok(Self { clients, peers, relay, names, checksums, receiving, receiving_ends })
    }

    /// Moves the calling thread to the relay.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enter_relay(&self) -> Result<()> {
        enter(&self.relay)
    }

    /// Does something on a side.
    ///
    /// # Errors
    ///
    /// What it fails with, or when the kernel refuses to move the thread.
    pub fn at<T>(&self, side: Side, act: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(match side {
            Side::Clients => &self.clients,
            Side::Peers => &self.peers,
        })?;
        let done = act();
        enter(&self.relay)?;
        done
    }

    /// What is at the far end of the relay's interface to a side.
    pub fn end(&self, side: Side) -> End {
        let [relay_station, station] = stations(side);
        let name = match side {
            Side::Clients => &self.names[2],
            Side::Peers => &self.names[3],
        };
        End { name: name.clone(), station, relay_station }
    }

    /// Whether whoever sends finishes checksums.
    pub fn checksums_are_finished(&self) -> bool {
        self.checksums == Checksums::Finished
    }

    /// A relay together with what receives for it.
    pub fn watched(&self, relay: Watched) -> Watched {
        let kernel_threads = self.receiving.clone();
        Watched::Beside { relay: Box::new(relay), kernel_threads }
    }

    /// What receives for the clients and the peers.
    pub fn watched_ends(&self) -> Watched {
        let kernel_threads = self.receiving_ends.clone();
        Watched::Beside { relay: Box::new(Watched::Nobody), kernel_threads }
    }
}

/// Names that no other interface has, here or in the kernel's threads: at most 15 bytes each.
fn fresh_names() -> [String; 4] {
    static BUILT: AtomicU32 = AtomicU32::new(0);
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    ["w", "l", "c", "p"].map(|side| format!("{side}{}n{number}", std::process::id()))
}

fn new_namespace() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    ip("link set lo up")?;
    File::open("/proc/thread-self/ns/net").context("opening a network namespace")
}

fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
}

/// Ethernet addresses of the relay's interface to a side, and of its far end.
fn stations(side: Side) -> [[u8; 6]; 2] {
    let number = match side {
        Side::Clients => 1,
        Side::Peers => 2,
    };
    // Of the kind that nobody assigns.
    [[2, 0, 0, 0, number, 1], [2, 0, 0, 0, number, 7]]
}

/// A pair of interfaces, one here and one in a home.
fn join(names: &[String; 4], side: Side, address: IpAddr, home: &File) -> Result<()> {
    let home = format!("/proc/{}/fd/{}", std::process::id(), home.as_raw_fd());
    let (here, there) = match side {
        Side::Clients => (&names[0], &names[2]),
        Side::Peers => (&names[1], &names[3]),
    };
    let [station, far_station] = stations(side).map(|station| {
        let parts = station.map(|byte| format!("{byte:02x}"));
        parts.join(":")
    });
    ip(&format!(
        "link add {here} address {station} type veth peer name {there} address {far_station} \
         netns {home}"
    ))?;
    ip(&format!("addr add {address}/24 dev {here}"))?;
    ip(&format!("link set {here} up"))
}

/// Has an interface of the calling thread's namespace receive in a thread of the kernel's, and pins
/// that. Returns its number.
fn receive_in_a_thread(name: &str, cpu: usize) -> Result<u32> {
    // An interface of this kind receives by itself only with a program or with receive offload.
    feature(name, "rx-gro", "on")?;
    // What /sys shows is of the namespace that it was mounted in.
    let script = "mount -t sysfs sysfs /sys && cd \"/sys/class/net/$0\" && echo 1 > threaded && \
                  echo 1 > napi_defer_hard_irqs && echo \"$1\" > gro_flush_timeout";
    run("unshare", &["--mount", "sh", "-c", script, name, &MODERATION_NS.to_string()])?;
    let thread = kernel_thread(&format!("napi/{name}-"))?;
    pin_other(thread, cpu)?;
    run("chrt", &["--fifo", "--pid", "1", &thread.to_string()])?;
    Ok(thread)
}

/// The number of the kernel's thread whose name begins so.
fn kernel_thread(prefix: &str) -> Result<u32> {
    for _ in 0..THREAD_TRIES_MAX {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // It may have ended by itself.
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.starts_with(prefix) {
                return Ok(number);
            }
        }
        thread::park_timeout(THREAD_PAUSE);
    }
    bail!("the kernel has no thread {prefix}…; threaded NAPI needs Linux 5.17")
}

fn switch_off(name: &str, what: &str) -> Result<()> {
    feature(name, what, "off")
}

fn feature(name: &str, feature: &str, value: &str) -> Result<()> {
    let (nic, feature) = (name.to_owned(), feature.to_owned());
    let target = Target::Feature { nic, feature };
    Machine::this().write(&target, value).with_context(|| format!("{target:?}: {value}"))
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
    Ok(())
}
