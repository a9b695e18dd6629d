//! WireGuard from end to end through an opaque UDP session, in three network namespaces.
//!
//! The ends are wireguard-go, the load is iperf3. No data core drives UDP sessions yet, so what
//! stands between the ends is a loop of this file over the same table: two sockets, no batches.
//!
//! ```text
//!   a  10.77.1.2 ──── 10.77.1.1  relay  10.77.2.1 ──── 10.77.2.2  b
//!      10.99.0.1 ════════════ the tunnel ═════════════ 10.99.0.2
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where and shows why; it looks at the clock, and pauses"
)]

mod support;

use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::process::is_root;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_relay::address_policy::{AddressPolicy, Block};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::CoreId;
use waystation_relay::udp::{
    Learning, LegSettings, LocalPort, Outcome, Protocol, RateLimit, Sessions, Settings,
};

/// Says to [`relay_of_the_ends`] that it is one, and where to write what happens.
const RELAY: &str = "WAYSTATION_TEST_UDP_RELAY";
const PORTS: [LocalPort; 2] = [LocalPort(41_000), LocalPort(42_000)];
const END_PORT: u16 = 51_820;
/// Where end A is after it has moved.
const MOVED_PORT: u16 = 51_999;
/// How long the load lasts, and when the end moves. Recovery takes the hold-down of 3 s and then
/// the next retransmission of TCP, which has become rare by then.
const LOAD_SECONDS: u64 = 20;
const MOVE_AFTER: Duration = Duration::from_secs(3);
/// A full packet at the usual MTU of 1420.
const FULL_BYTES: usize = 16 + 1420 + 16;

#[test]
fn tunnel_carries_a_load_and_survives_an_end_that_moves() {
    if !given(is_root() && has_programs(), "root, and ip, wg, wireguard-go and iperf3") {
        return;
    }
    let scene = Scene::new();
    let mut relay = scene.start_relay();
    let mut ends = [scene.start_end(0), scene.start_end(1)];
    scene.join(&ends);
    // The first keep-alive begins a handshake, whose answer teaches where A is.
    eventually("a handshake", || scene.told().contains("by: Handshake").then_some(()));

    let mut server = scene.spawn("b", "iperf3 --server --one-off --bind 10.99.0.2");
    // 5201, in hexadecimal, listening.
    let listens =
        |table: Vec<u8>| String::from_utf8(table).unwrap().contains(":1451 00000000:0000 0A");
    let table = || scene.run("b", "cat /proc/net/tcp").stdout;
    eventually("iperf3 to listen", || listens(table()).then_some(()));
    let load = format!("iperf3 --client 10.99.0.2 --time {LOAD_SECONDS} --json");
    let client = scene.spawn("a", &load);
    std::thread::sleep(MOVE_AFTER);
    let moved = format!("wg set {} listen-port {MOVED_PORT}", ends[0].interface);
    assert!(scene.run("a", &moved).status.success());
    let output = client.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let _ = server.wait();
    ends.iter_mut().for_each(End::stop);
    relay.stop();

    let told = scene.told();
    let address = format!("to: 10.77.1.2:{MOVED_PORT}");
    assert!(told.contains(&address), "the end was not followed:\n{told}");
    let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("{report}"));
    let bytes = |interval: &Value| interval["sum"]["bytes"].as_u64().unwrap();
    let tail: u64 = intervals.iter().rev().take(4).map(bytes).sum();
    let before: u64 = intervals.iter().take(2).map(bytes).sum();
    println!("{before} bytes in the first 2 s, {tail} in the last 4 s\n{told}");
    assert!(before > 0 && tail > 0, "{before}, {tail}\n{told}");
    // Every full packet at this MTU has a length that is no multiple of 16, and none was junk.
    assert!(!told.contains("udp_not_wireguard"), "{told}");
    assert!(told.contains("full packets") && !told.contains(" 0 full packets"), "{told}");
}

/// What stands between the ends. As a test of its own it does nothing.
#[test]
fn relay_of_the_ends() {
    let Some(file) = std::env::var_os(RELAY) else {
        return;
    };
    let mut relay = Relay::new(PathBuf::from(file));
    // Ends when its stdin does, which the thread that waits for that cannot say in another way.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0; 1]);
        let nudge = UdpSocket::bind("127.0.0.1:0").unwrap();
        nudge.send_to(b"", ("127.0.0.1", PORTS[0].0)).unwrap();
    });
    while relay.turn() {}
    relay.tell_counts();
}

struct Relay {
    sessions: Sessions,
    sockets: [UdpSocket; 2],
    began: Instant,
    file: PathBuf,
    full_packets: u64,
    packets: u64,
}

impl Relay {
    fn new(file: PathBuf) -> Self {
        let open = Block::new(Ipv4Addr::new(10, 77, 0, 0).into(), 16).unwrap();
        let policy = Arc::new(AddressPolicy::new(vec![open], []).unwrap());
        let mut sessions = Sessions::new(CoreId(0), 1, [1, 2], policy);
        let b = Learning::Fixed(SocketAddr::from(([10, 77, 2, 2], END_PORT)));
        let settings = Settings {
            legs: [
                LegSettings { port: PORTS[0], learning: Learning::Handshake { first: None } },
                LegSettings { port: PORTS[1], learning: b },
            ],
            protocol: Protocol::Wireguard { public_keys: [None; 2] },
            rate: RateLimit::default(),
            idle_limit_ns: 600_000_000_000,
        };
        sessions.open(settings, 0, &mut |_| ()).unwrap();
        let sockets = PORTS.map(|port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let began = Instant::now();
        Self { sessions, sockets, began, file, full_packets: 0, packets: 0 }
    }

    /// Waits for datagrams and passes them on. `false`: the nudge to end has come.
    fn turn(&mut self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut ready = [0, 1].map(|at| PollFd::new(&self.sockets[at], PollFlags::IN));
        poll(&mut ready, None).unwrap();
        let mut datagram = [0; 65_536];
        for at in [0, 1] {
            while let Ok((bytes, from)) = self.sockets[at].recv_from(&mut datagram) {
                if from.ip().is_loopback() {
                    return false;
                }
                self.pass(PORTS[at], from, &datagram[..bytes]);
            }
        }
        true
    }

    fn pass(&mut self, port: LocalPort, from: SocketAddr, datagram: &[u8]) {
        let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap();
        let mut told = String::new();
        let tell = &mut |event| writeln!(told, "{event:?}").unwrap();
        let outcome = self.sessions.receive(now_ns, port, from, datagram, tell);
        if !told.is_empty() {
            self.write(&told);
        }
        if let Outcome::Forward { to, port, .. } = outcome {
            self.packets += 1;
            self.full_packets += u64::from(datagram.len() == FULL_BYTES);
            // A full socket loses a datagram, as a wire does.
            let _ = self.sockets[usize::from(port == PORTS[1])].send_to(datagram, to);
        }
    }

    fn tell_counts(&mut self) {
        let mut told = format!("{} packets, {} full packets\n", self.packets, self.full_packets);
        for reason in DropReason::ALL {
            let events = self.sessions.drops().events(reason);
            if events > 0 {
                writeln!(told, "{} {events}", reason.name()).unwrap();
            }
        }
        self.write(&told);
    }

    fn write(&self, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

/// Three namespaces and what is between them. All deleted when dropped.
struct Scene {
    directory: TempDir,
    id: u32,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { directory: TempDir::new().unwrap(), id: std::process::id() };
        for name in ["a", "relay", "b"] {
            ip(&format!("netns add {}", scene.namespace(name)));
        }
        let relay = scene.namespace("relay");
        for (at, name) in [(1, "a"), (2, "b")] {
            let end = scene.namespace(name);
            let peer = format!("peer name outer netns {end}");
            ip(&format!("-netns {relay} link add to-{name} type veth {peer}"));
            ip(&format!("-netns {relay} address add 10.77.{at}.1/24 dev to-{name}"));
            ip(&format!("-netns {relay} link set to-{name} up"));
            ip(&format!("-netns {end} address add 10.77.{at}.2/24 dev outer"));
            ip(&format!("-netns {end} link set outer up"));
        }
        ip(&format!("-netns {relay} link set lo up"));
        scene
    }

    fn namespace(&self, name: &str) -> String {
        format!("waystation-wg-{name}-{}", self.id)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("told")
    }

    /// What the relay has written so far.
    fn told(&self) -> String {
        fs::read_to_string(self.file()).unwrap_or_default()
    }

    fn command(&self, name: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(name)]).arg(program);
        command
    }

    fn spawn(&self, name: &str, line: &str) -> Child {
        let mut words = line.split(' ');
        let mut command = self.command(name, Path::new(words.next().unwrap()));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn run(&self, name: &str, line: &str) -> std::process::Output {
        self.spawn(name, line).wait_with_output().unwrap()
    }

    fn start_relay(&self) -> Running {
        let mut command = self.command("relay", &std::env::current_exe().unwrap());
        command.args(["--exact", "relay_of_the_ends", "--nocapture"]).env(RELAY, self.file());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// An end with a key, an address in the tunnel, and no peer yet.
    fn start_end(&self, at: usize) -> End {
        let name = ["a", "b"][at];
        let interface = format!("wg{name}{}", self.id % 100_000_000);
        let process = self.spawn(name, &format!("wireguard-go --foreground {interface}"));
        let mut end = End { interface, public_key: String::new(), process };
        eventually("the socket of wireguard-go", || end.socket().exists().then_some(()));
        let key = self.run(name, "wg genkey").stdout;
        let key_file = self.directory.path().join(name);
        fs::write(&key_file, &key).unwrap();
        let interface = &end.interface;
        let port = format!("listen-port {END_PORT} private-key {}", key_file.display());
        assert!(self.run(name, &format!("wg set {interface} {port}")).status.success());
        let namespace = self.namespace(name);
        ip(&format!("-netns {namespace} address add 10.99.0.{}/24 dev {interface}", at + 1));
        ip(&format!("-netns {namespace} link set {interface} mtu 1420 up"));
        let shown = self.run(name, &format!("wg show {interface} public-key"));
        String::from_utf8(shown.stdout).unwrap().trim().clone_into(&mut end.public_key);
        end
    }

    /// Each end knows the other's key, and the relay as its address.
    fn join(&self, ends: &[End; 2]) {
        for (at, name) in [(0, "a"), (1, "b")] {
            let (interface, key) = (&ends[at].interface, &ends[1 - at].public_key);
            let endpoint = format!("10.77.{}.1:{}", at + 1, PORTS[at]);
            let allowed = format!("10.99.0.{}/32", 2 - at);
            let peer = format!("peer {key} endpoint {endpoint} allowed-ips {allowed}");
            // Only A is told to begin: B cannot be heard before A is known.
            let peer = if at == 0 { peer + " persistent-keepalive 25" } else { peer };
            assert!(self.run(name, &format!("wg set {interface} {peer}")).status.success());
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for name in ["a", "relay", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(name)]).status();
        }
    }
}

/// One end.
struct End {
    interface: String,
    public_key: String,
    process: Child,
}

impl End {
    fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    /// Killed, because a graceful end is no matter of this test; its socket is all that it leaves.
    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(self.socket());
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The relay's process.
struct Running(Child);

impl Running {
    /// Lets it tell what it counted, and end.
    fn stop(&mut self) {
        drop(self.0.stdin.take());
        let _ = eventually("the relay's end", || self.0.try_wait().unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_programs() -> bool {
    let is_there = |(program, argument): (&str, &str)| {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let programs =
        [("ip", "-V"), ("wg", "--version"), ("wireguard-go", "--version"), ("iperf3", "--version")];
    programs.into_iter().all(is_there) && Path::new("/dev/net/tun").exists()
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
