//! Where the relay and its clients are.
//!
//! ```text
//!   loopback:    all of them, each client with an address of its own
//!   namespaces:  a  10.78.1.2, fd78:1::2 ──── relay ──── 10.78.2.2, fd78:2::2  b
//!                              10.78.1.1, fd78:1::1  10.78.2.1, fd78:2::1
//! ```
//!
//! The relay forwards nothing, so that what goes from `a` to `b` went through TURN.

use crate::support::given;
use crate::support::process::is_root;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use waystation_tuning::machine::{Machine, Target};

/// One of the two who are relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    A,
    B,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }
}

/// Of which family an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }
}

/// See the module. Dropped, its namespaces are deleted, and with them what is between them.
#[derive(Debug)]
pub(crate) enum Scene {
    Loopback,
    Namespaces { id: String },
}

/// Scenes of this process so far.
static SCENES: AtomicU32 = AtomicU32::new(0);

impl Scene {
    /// Loopback, if it has both families.
    pub(crate) fn loopback() -> Option<Self> {
        let has_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        given(has_ipv6, "IPv6 on loopback").then_some(Self::Loopback)
    }

    /// Three new namespaces, if the test may make them.
    pub(crate) fn namespaces() -> Option<Self> {
        let has_ip = Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok();
        if !given(is_root() && has_ip, "root, and ip") {
            return None;
        }
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let scene = Self::Namespaces { id: format!("{}-{number}", std::process::id()) };
        scene.build();
        Some(scene)
    }

    fn build(&self) {
        for name in ["a", "relay", "b"] {
            ip(&format!("netns add {}", self.namespace(name)));
            ip(&format!("-netns {} link set lo up", self.namespace(name)));
        }
        let relay = self.namespace("relay");
        // Whatever the machine does, this namespace forwards nothing.
        for family in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
            let line = format!("echo 0 > /proc/sys/net/{family}");
            let words = ["netns", "exec", &relay, "sh", "-c", &line];
            assert!(Command::new("ip").args(words).status().unwrap().success(), "{line}");
        }
        for end in [End::A, End::B] {
            let (name, at) = (end.name(), end.number());
            let outer = self.namespace(name);
            let peer = format!("peer name outer netns {outer}");
            ip(&format!("-netns {relay} link add to-{name} type veth {peer}"));
            for (namespace, device, last) in
                [(&relay, format!("to-{name}"), 1), (&outer, "outer".into(), 2)]
            {
                let add = format!("-netns {namespace} address add");
                ip(&format!("{add} 10.78.{at}.{last}/24 dev {device}"));
                ip(&format!("{add} fd78:{at}::{last}/64 dev {device} nodad"));
                ip(&format!("-netns {namespace} link set {device} up"));
            }
            ip(&format!("-netns {outer} route add default via 10.78.{at}.1"));
            ip(&format!("-netns {outer} route add default via fd78:{at}::1"));
        }
    }

    /// The same with checksums that senders finish, as they are when a network card sends: an XDP
    /// program sees a packet before anybody else on this machine would.
    pub(crate) fn with_finished_checksums(self) -> Self {
        for name in [End::A, End::B].map(End::name) {
            self.within(name, || finish_checksums("outer"));
            let inner = format!("to-{name}");
            self.within("relay", move || finish_checksums(&inner));
        }
        self
    }

    fn namespace(&self, name: &str) -> String {
        match self {
            Self::Loopback => panic!("loopback has no namespaces"),
            Self::Namespaces { id } => format!("waystation-turn-{name}-{id}"),
        }
    }

    /// A command that runs where an end is.
    pub(crate) fn command(&self, end: End, program: &Path) -> Command {
        self.command_in(end.name(), program)
    }

    /// A command that runs where the relay is.
    pub(crate) fn relay_command(&self, program: &Path) -> Command {
        self.command_in("relay", program)
    }

    fn command_in(&self, name: &str, program: &Path) -> Command {
        let mut command = match self {
            Self::Loopback => Command::new(program),
            Self::Namespaces { .. } => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &self.namespace(name)]).arg(program);
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    /// Where an end is. On loopback each test can have addresses of its own: see [`Scene::places`].
    pub(crate) fn address(&self, end: End, family: Family) -> IpAddr {
        let at = end.number();
        match (self, family) {
            (Self::Loopback, Family::Ipv4) => Ipv4Addr::new(127, 0, at, 2).into(),
            (Self::Loopback, Family::Ipv6) => Ipv6Addr::LOCALHOST.into(),
            (Self::Namespaces { .. }, Family::Ipv4) => Ipv4Addr::new(10, 78, at, 2).into(),
            (Self::Namespaces { .. }, Family::Ipv6) => {
                Ipv6Addr::new(0xfd78, at.into(), 0, 0, 0, 0, 0, 2).into()
            }
        }
    }

    /// Runs something on a thread that is where an end is. Sockets stay there.
    pub(crate) fn at<T: Send + 'static>(
        &self,
        end: End,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.within(end.name(), what)
    }

    fn within<T: Send + 'static>(
        &self,
        name: &str,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let namespace = match self {
            Self::Loopback => None,
            Self::Namespaces { .. } => Some(PathBuf::from("/run/netns").join(self.namespace(name))),
        };
        let thread = std::thread::spawn(move || {
            if let Some(path) = namespace {
                let file = File::open(path).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            }
            what()
        });
        thread.join().unwrap()
    }

    /// The blocks of the ends' addresses.
    pub(crate) fn blocks(&self) -> &'static str {
        match self {
            Self::Loopback => "[\"127.0.0.0/8\", \"::1/128\"]",
            Self::Namespaces { .. } => "[\"10.78.0.0/16\", \"fd78::/16\"]",
        }
    }

    /// Asserts that nothing of one end arrives at the other by itself.
    pub(crate) fn assert_apart(&self) {
        let Self::Namespaces { .. } = self else {
            return;
        };
        for (end, family) in [(End::A, Family::Ipv4), (End::B, Family::Ipv6)] {
            let there = self.address(end.other(), family);
            let mut ping = self.command(end, Path::new("ping"));
            ping.args(["-c", "1", "-W", "1", &there.to_string()]);
            let status = ping.stdout(Stdio::null()).stderr(Stdio::null()).status();
            // Without the program there is nothing to learn.
            assert!(!status.is_ok_and(|status| status.success()), "{there} answers");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Self::Namespaces { .. } = self {
            for name in ["a", "relay", "b"] {
                let words = ["netns", "del", &self.namespace(name)];
                let _ = Command::new("ip").args(words).stderr(Stdio::null()).status();
            }
        }
    }
}

fn finish_checksums(interface: &str) {
    let (nic, feature) = (interface.to_owned(), "tx-checksum-ip-generic".to_owned());
    Machine::this().write(&Target::Feature { nic, feature }, "off").unwrap();
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
