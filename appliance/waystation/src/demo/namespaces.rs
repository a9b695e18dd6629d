//! The machines of scenario `xdp`, as network namespaces of this process: an end on each side of the
//! relay, with no other way to each other.
//!
//! ```text
//!   end A 198.51.100.7 ── wan 198.51.100.1 │ relay │ lan 203.0.113.1 ── end B 203.0.113.7
//! ```
//!
//! Made on the main thread before there is another, which stays in the relay's. They have no names:
//! the kernel removes them, and the interfaces between them, when the process ends, however it ends.

use crate::exit::Unmet;
use anyhow::Context;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use waystation_tuning::machine::{Machine, Target};

/// The relay's addresses, where end A and end B send to.
pub(super) const RELAY: [Ipv4Addr; 2] =
    [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];
/// Where the ends are.
pub(super) const ENDS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 7)];
/// The relay's interfaces.
const INTERFACES: [&str; 2] = ["wan", "lan"];
/// The end's interface.
const END_INTERFACE: &str = "eth0";
/// The namespace of the calling thread.
const HERE: &str = "/proc/thread-self/ns/net";

/// This user may not make them.
#[derive(Debug, thiserror::Error)]
#[error(
    "scenario xdp needs root: it makes network namespaces, joins them by interfaces of its own, and \
     loads a program into the kernel (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF); scenario udp shows the \
     same sessions without"
)]
pub(crate) struct NeedsRoot;

/// See the module. The calling thread of [`Namespaces::make`] is in the relay's.
#[derive(Debug)]
pub(super) struct Namespaces {
    relay: File,
    ends: [File; 2],
}

impl Namespaces {
    /// Makes them, and leaves the calling thread in the relay's.
    ///
    /// # Errors
    /// [`NeedsRoot`], or what keeps an interface from being made.
    pub(super) fn make() -> anyhow::Result<Self> {
        let ends = [enter_new()?, enter_new()?];
        let relay = enter_new()?;
        for side in 0..2 {
            let (interface, address) = (INTERFACES[side], RELAY[side]);
            let home = format!("/proc/{}/fd/{}", std::process::id(), ends[side].as_raw_fd());
            ip(&format!("link add {interface} type veth peer name {END_INTERFACE} netns {home}"))?;
            ip(&format!("addr add {address}/24 dev {interface}"))?;
            ip(&format!("link set {interface} up"))?;
            send_as_cards_do(interface)?;
        }
        let namespaces = Self { relay, ends };
        for side in 0..2 {
            namespaces.at_end(side, || {
                ip(&format!("addr add {}/24 dev {END_INTERFACE}", ENDS[side]))?;
                ip(&format!("link set {END_INTERFACE} up"))?;
                ip(&format!("route add default via {}", RELAY[side]))?;
                send_as_cards_do(END_INTERFACE)
            })?;
        }
        Ok(namespaces)
    }

    /// Does something where an end is. Sockets that it makes stay there.
    pub(super) fn at_end<T>(
        &self,
        side: usize,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        setns(&self.ends[side], CloneFlags::CLONE_NEWNET).context("an end's namespace")?;
        let result = act();
        setns(&self.relay, CloneFlags::CLONE_NEWNET).context("the relay's namespace")?;
        result
    }
}

fn enter_new() -> anyhow::Result<File> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(Errno::EPERM) => return Err(NeedsRoot.into()),
        Err(errno) => return Err(errno).context("the kernel makes no network namespace"),
    }
    ip("link set lo up")?;
    File::open(HERE).context(HERE)
}

/// What a network card does and a veth has to be told: checksums are finished before a packet
/// leaves, since the program sees it before anybody else could; and packets are joined (GRO), since
/// otherwise an interface without a program does not take in what another's program has sent.
fn send_as_cards_do(interface: &str) -> anyhow::Result<()> {
    for (feature, value) in [("tx-checksum-ip-generic", "off"), ("rx-gro", "on")] {
        let (nic, feature) = (interface.to_owned(), feature.to_owned());
        Machine::this().write(&Target::Feature { nic, feature }, value)?;
    }
    Ok(())
}

/// Runs `ip` in the namespace of the calling thread.
fn ip(arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null());
    let output = command.output().context("scenario xdp needs the program ip (iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("Operation not permitted") {
        return Err(NeedsRoot.into());
    }
    Err(Unmet(format!("ip {arguments}: {}", error.trim())).into())
}
