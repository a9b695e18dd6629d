//! The keys of `[xdp]`; a part of the table of keys.

use super::Config;
use super::keys::{Key, key, live};
use super::rule::Rule;
use crate::limits::XDP_DENIED_MAX;
use crate::units::ByteSize;

pub(super) const MODE: Key<Config> = live(
    "xdp",
    "mode",
    "name",
    Rule::Xdp { at: |config| &mut config.xdp.mode },
    "Whether the program is put on interfaces. native runs it in the driver, generic after the \
        kernel has made a packet of the frame, which is several times dearer; auto takes what the \
        driver can. Many drivers interrupt the link for a second when a program comes or goes.",
);
pub(super) const INTERFACES: Key<Config> = key(
    "xdp",
    "interfaces",
    "names",
    Rule::Interfaces { at: |config| &mut config.xdp.interfaces },
    "Interfaces to put it on. Empty: all but loopback that have an address which [turn] or [dht] \
        listens on, [turn] relays from, or udp.addresses names; without [turn] and [dht] all that \
        sessions are on. One with another XDP program is left alone.",
);
pub(super) const PIN_DIRECTORY: Key<Config> = key(
    "xdp",
    "pin_directory",
    "path",
    Rule::FilePath { at: |config| &mut config.xdp.pin_directory },
    "A directory in a BPF file system, for example /sys/fs/bpf/waystation. The program then \
        stays on its interfaces over a restart, and filters on meanwhile. Empty: nothing outlives \
        the process.",
);
pub(super) const DENY: Key<Config> = live(
    "xdp",
    "deny",
    "blocks",
    Rule::Blocks { entries_max: XDP_DENIED_MAX, at: |config| &mut config.xdp.deny },
    "Blocks that nothing is taken from on the relay's UDP ports, their sessions included.",
);
pub(super) const STRANGER_RATE: Key<Config> = live(
    "xdp",
    "stranger_rate",
    "packets per second",
    Rule::Count { min: 0, max: 10_000_000, at: |config| &mut config.xdp.stranger_rate },
    "What an IPv4 address or an IPv6 /64 may send to the relay's UDP ports without a session; \
        peers that a client reaches without a channel are without one too. 0: no limit.",
);
pub(super) const NEWCOMER_RATE: Key<Config> = live(
    "xdp",
    "newcomer_rate",
    "sources per second and processor",
    Rule::Count { min: 0, max: 10_000_000, at: |config| &mut config.xdp.newcomer_rate },
    "How many sources that have not been seen lately are let in, so that a flood from made-up \
        ones shuts out nobody who is known. 0: no limit.",
);
pub(super) const CAPTURE_MEMORY: Key<Config> = key(
    "xdp",
    "capture_memory",
    "bytes",
    Rule::Size {
        min: ByteSize::from_kib(0),
        max: ByteSize::from_kib(64 << 10),
        at: |config| &mut config.xdp.capture_memory,
    },
    "Room for samples of packets that `waystation capture` has not read yet; rounded up to a power \
        of two of pages. A sample takes 288 bytes. 0B: nothing can be captured, and the program \
        spends nothing on it. Needs Linux 5.18.",
);
pub(super) const STEER: Key<Config> = key(
    "xdp",
    "steer",
    "flag",
    Rule::Flag { at: |config| &mut config.xdp.steer },
    "Whether clients' packets go to the processor of the data core that owns their session, and to \
        that core's socket whatever the kernel's hash says. It costs trains of datagrams where the \
        kernel does not join them behind that (before Linux 6.15), and helps where one queue \
        receives for many cores. Each core needs a processor of its own.",
);
