//! WireGuard from end to end through an opaque UDP session of the real process, in three network
//! namespaces. The ends are wireguard-go, the load is iperf3.
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

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::appliance::Appliance;
use support::process::{command, fast_binary, is_root};
use support::upgrading::Upgrade;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_tuning::machine::{Machine, Target};

/// The relay's ports, which ends A and B send to.
const PORTS: [u16; 2] = [21_000, 22_000];
const END_PORT: u16 = 51_820;
/// Where end A is after it has moved.
const MOVED_PORT: u16 = 51_999;
/// How long the load lasts, and when the end moves. Recovery takes the hold-down of 3 s and then
/// the next retransmission of TCP, which has become rare by then.
const LOAD_SECONDS: u64 = 20;
const MOVE_AFTER: Duration = Duration::from_secs(3);

#[test]
fn tunnel_carries_a_load_and_survives_an_end_that_moves() {
    if let Some(scene) = Scene::given() {
        let (relay, row, carried) = carries_a_load(&scene, "");
        // Every byte of the load has passed through the session, in trains where several came at
        // once.
        assert!(row["legs"][1]["bytes_out"].as_u64().unwrap() > carried, "{row}");
        assert_eq!(row["tier"], "gso");
        assert!(row["datagrams_in_trains"].as_u64().unwrap() > 0, "{row}");
        has_seen_no_junk(&relay);
    }
}

/// Most of the load goes through the program, but for handshakes and for the time between the end's
/// move and the moment in which it is known.
#[test]
fn tunnel_goes_through_xdp_and_comes_back_to_it_after_an_end_has_moved() {
    if let Some(scene) = Scene::given() {
        scene.send_as_cards_do();
        let (relay, row, carried) = carries_a_load(&scene, "[xdp]\nmode = \"native\"\n");
        let status = relay.status();
        let offloaded = &status["totals"]["counters"]["udp_datagrams_offloaded"];
        println!("{offloaded} datagrams through XDP, {carried} bytes of load");
        println!("{row}");
        // What the program has carried is told a second later.
        eventually("what the program carried is counted", || {
            let row = row_of(&relay);
            let offloaded = row["datagrams_offloaded"].as_u64().unwrap();
            let bytes_out = row["legs"][1]["bytes_out"].as_u64().unwrap();
            (offloaded > 1000 && bytes_out > carried && row["tier"] == "xdp").then_some(())
        });
        let verdicts = relay.document("/v1/xdp")["verdicts"].as_array().unwrap().clone();
        let frames = |name: &str| {
            let row = verdicts.iter().find(|row| row["verdict"] == name).unwrap();
            row["frames"].as_u64().unwrap()
        };
        assert!(frames("relayed_on") > 1000, "{verdicts:?}");
        has_seen_no_junk(&relay);
    }
}

/// A transfer over the tunnel ends with every byte, whatever became of the process in between.
#[test]
fn transfer_over_the_tunnel_loses_no_byte_over_two_upgrades() {
    let Some(scene) = Scene::given() else { return };
    let mut ends = [scene.start_end(0), scene.start_end(1)];
    let mut relay = Upgrade::from(scene.start_relay(&ends, "")).to(fast_binary());
    scene.join(&ends);
    eventually("a handshake", || address_of_a(&relay.old));
    let mut transfer = Transfer::start(&scene);
    for number in 0..2 {
        transfer.wait_for(TRANSFERRED);
        let mut next = command(Path::new("ip"));
        let upgrade = relay.command();
        next.args(["netns", "exec", &scene.namespace("relay")]).arg(upgrade.get_program());
        next.args(upgrade.get_args());
        let waited = relay.perform_with(next)["udp_waited_us"].clone();
        transfer.wait_for(TRANSFERRED);
        println!("upgrade {number} of the relay: datagrams waited {waited} us");
    }
    let (bytes, longest) = transfer.finish();
    println!("{bytes} bytes through the tunnel; the longest time in which none came: {longest:?}");
    relay.expect_end_of_all_before();
    ends.iter_mut().for_each(End::stop);
    assert_eq!(row_of(&relay.old)["name"], "tunnel");
    has_seen_no_junk(&relay.old);
}

/// Sends until its standard input ends, and then says how much that was and what.
const SENDER: &str = "
import hashlib, random, select, socket, sys
to = socket.create_connection(('10.99.0.2', 7000), 30)
digest, sent, noise = hashlib.sha256(), 0, random.Random(1)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    some = noise.randbytes(4096)
    digest.update(some)
    to.sendall(some)
    sent += len(some)
to.shutdown(socket.SHUT_WR)
to.recv(1)
print(sent, digest.hexdigest())
";
/// Receives all there is, says so now and then, and in the end how much that was and what, and for
/// how many milliseconds nothing came at most.
const RECEIVER: &str = "
import hashlib, socket, time
at = socket.create_server(('10.99.0.2', 7000))
print('listens', flush=True)
by, _ = at.accept()
by.settimeout(60)
digest, received, told, longest, last = hashlib.sha256(), 0, 0, 0, time.monotonic()
while some := by.recv(65536):
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    digest.update(some)
    received += len(some)
    if received - told >= 65536:
        told = received
        print(received, flush=True)
print(received, digest.hexdigest(), int(longest * 1000), flush=True)
";
/// What passes before and after each upgrade.
const TRANSFERRED: u64 = 1 << 20;

/// Bytes that go from A to B over the tunnel for as long as the test wants.
struct Transfer {
    sender: Child,
    receiver: Child,
    said: BufReader<ChildStdout>,
    received: u64,
}

impl Transfer {
    fn start(scene: &Scene) -> Self {
        let python = |name: &str, program: &str| {
            let mut command = scene.command(name, Path::new("python3"));
            command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut receiver = python("b", RECEIVER);
        let mut said = BufReader::new(receiver.stdout.take().unwrap());
        assert_eq!(line(&mut said), "listens");
        Self { sender: python("a", SENDER), receiver, said, received: 0 }
    }

    /// Waits until so many more bytes have come. The receiver ends by itself if none do.
    fn wait_for(&mut self, more: u64) {
        let wanted = self.received + more;
        while self.received < wanted {
            self.received = line(&mut self.said).parse().unwrap();
        }
    }

    /// Ends it. Every byte has come, or this panics.
    fn finish(mut self) -> (u64, Duration) {
        drop(self.sender.stdin.take());
        let mut last = String::new();
        self.said.read_to_string(&mut last).unwrap();
        assert!(self.receiver.wait().unwrap().success());
        let sent = self.sender.stdout.take().unwrap();
        let sent = line(&mut BufReader::new(sent));
        assert!(self.sender.wait().unwrap().success());
        let (received, longest) = last.trim_end().rsplit_once(' ').unwrap();
        assert_eq!(received.lines().last(), Some(&*sent));
        let bytes = sent.split(' ').next().unwrap().parse().unwrap();
        (bytes, Duration::from_millis(longest.parse().unwrap()))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        for process in [&mut self.sender, &mut self.receiver] {
            // Both fail only for a process that has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Runs a load through a tunnel whose end A moves in between. Gives the relay, the session's row, and
/// how many bytes the load had.
fn carries_a_load(scene: &Scene, more: &str) -> (Appliance, Value, u64) {
    let mut ends = [scene.start_end(0), scene.start_end(1)];
    let relay = scene.start_relay(&ends, more);
    scene.join(&ends);
    // The first keep-alive begins a handshake, whose answer teaches where A is.
    eventually("a handshake", || {
        (address_of_a(&relay)? == format!("10.77.1.2:{END_PORT}")).then_some(())
    });

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

    let followed = address_of_a(&relay);
    assert_eq!(followed.as_deref(), Some(&*format!("10.77.1.2:{MOVED_PORT}")), "not followed");
    let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("{report}"));
    let bytes = |interval: &Value| interval["sum"]["bytes"].as_u64().unwrap();
    let tail: u64 = intervals.iter().rev().take(4).map(bytes).sum();
    let before: u64 = intervals.iter().take(2).map(bytes).sum();
    let row = row_of(&relay);
    println!("{before} bytes in the first 2 s, {tail} in the last 4 s\n{row}");
    assert!(before > 0 && tail > 0, "{before}, {tail}");

    let carried = intervals.iter().map(bytes).sum();
    (relay, row, carried)
}

fn has_seen_no_junk(relay: &Appliance) {
    // Full packets at this MTU have a length that is no multiple of 16, and none was junk.
    let drops = relay.drops();
    let junk = ["udp_not_wireguard", "udp_handshake_rejected", "udp_leg_unknown"];
    for reason in junk {
        assert_eq!(drops[reason], 0, "{reason}: {drops:?}");
    }
}

/// The session, which is the only row.
fn row_of(relay: &Appliance) -> Value {
    relay.document("/v1/udp")["udp"][0].clone()
}

/// Where end A is, once that is known.
fn address_of_a(relay: &Appliance) -> Option<String> {
    row_of(relay)["legs"][0]["address"].as_str().map(str::to_owned)
}

/// Three namespaces and what is between them. All deleted when dropped.
struct Scene {
    directory: TempDir,
    /// What its namespaces and interfaces are told apart by.
    id: String,
}

impl Scene {
    /// One, if the test may make it.
    fn given() -> Option<Self> {
        let what = "root, and ip, wg, wireguard-go, iperf3 and python3";
        given(is_root() && has_programs(), what).then(Self::new)
    }

    fn new() -> Self {
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let scene = Self { directory: TempDir::new().unwrap(), id };
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

    /// On veth, nobody finishes a checksum before a program sees the packet unless its sender does;
    /// and an interface without a program of its own takes in what another's has sent only if it
    /// joins packets (GRO).
    fn send_as_cards_do(&self) {
        for (name, nic) in [("a", "outer"), ("b", "outer"), ("relay", "to-a"), ("relay", "to-b")] {
            let path = Path::new("/run/netns").join(self.namespace(name));
            let within = move || {
                let file = fs::File::open(path).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                for (feature, value) in [("tx-checksum-ip-generic", "off"), ("rx-gro", "on")] {
                    let (nic, feature) = (nic.to_owned(), feature.to_owned());
                    Machine::this().write(&Target::Feature { nic, feature }, value).unwrap();
                }
            };
            std::thread::spawn(within).join().unwrap();
        }
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

    /// The appliance, with a session of its configuration that both public keys are in.
    fn start_relay(&self, ends: &[End; 2], more: &str) -> Appliance {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("waystation.toml");
        let [key_a, key_b] = [0, 1].map(|at| &ends[at].public_key);
        let session = format!(
            "{more}[listen]\naddresses = [\"127.0.0.1:0\"]\n[engine]\ncores = 1\ncalibrate = false\n\
             [udp]\nallow_peers = [\"10.77.0.0/16\"]\n[[udp.session]]\nname = \"tunnel\"\n\
             protocol = \"wireguard\"\nend_a = \"learn\"\nend_b = \"10.77.2.2:{END_PORT}\"\n\
             port_a = {}\nport_b = {}\npublic_key_a = \"{key_a}\"\npublic_key_b = \"{key_b}\"\n",
            PORTS[0], PORTS[1]
        );
        fs::write(&file, session).unwrap();
        let state = directory.path().join("state");
        // `ip netns exec` becomes the program, so the process is the appliance.
        let mut command = command(Path::new("ip"));
        command.args(["netns", "exec", &self.namespace("relay")]).arg(fast_binary());
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        let relay = Appliance::spawn(&mut command, directory, &state);
        eventually("the session", || (row_of(&relay)["name"] == "tunnel").then_some(()));
        relay
    }

    /// An end with a key, an address in the tunnel, and no peer yet.
    fn start_end(&self, at: usize) -> End {
        let name = ["a", "b"][at];
        let interface = format!("wg{name}{}", self.id);
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

fn has_programs() -> bool {
    let is_there = |(program, argument): (&str, &str)| {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let programs = [
        ("ip", "-V"),
        ("wg", "--version"),
        ("wireguard-go", "--version"),
        ("iperf3", "--version"),
        ("python3", "-V"),
    ];
    programs.into_iter().all(is_there) && Path::new("/dev/net/tun").exists()
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
