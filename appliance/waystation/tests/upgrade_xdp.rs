//! One process takes over from another while the kernel relays for both: what is relayed by the
//! XDP program goes on, and a program, a map or a pin that one of them needs is not the other's to
//! take away.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Process, binary, command, is_root, run};
use support::streets::{BpfMount, CLIENT, LAN, Streets, WAN, has_program};
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_peer::TurnClient;

const CHANNEL: u16 = 0x4000;
/// Datagrams there and back before, and after, the hand-over.
const ECHOES: usize = 20;
/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);

/// A relay with the program, between two ends, and the process that is to be next.
struct Scene {
    old: Appliance,
    new: Option<Process>,
    streets: Streets,
    server: SocketAddr,
    pins: PathBuf,
    _files: TempDir,
    _mount: BpfMount,
}

/// A client of the TURN server and its peer.
struct Channel {
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
}

/// The ends of an opaque session, and where they send to.
struct Pair {
    ends: [UdpSocket; 2],
    to: [SocketAddr; 2],
}

impl Scene {
    fn start() -> Self {
        let (mount, files) = (BpfMount::new(), TempDir::new().unwrap());
        let pins = mount.path().join("waystation");
        let users = files.path().join("users");
        fs::write(&users, "alice:pw\n").unwrap();
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
        let peers = "[\"198.51.100.0/24\", \"203.0.113.0/24\"]";
        let streets = Streets::new();
        let settings = Settings::new(PortName::Epoll, 1)
            .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
            .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
            .with("turn", &format!("allow_peers = {peers}"))
            .with("turn", "deny_peers = []")
            .with("turn", &format!("users_file = \"{}\"", users.display()))
            .with("udp", &format!("allow_peers = {peers}"))
            .with("xdp", "mode = \"native\"")
            .with("xdp", &format!("pin_directory = \"{}\"", pins.display()));
        let old = Appliance::start(&settings);
        let server = old.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
        let scene = Self { old, new: None, streets, server, pins, _files: files, _mount: mount };
        assert_eq!(scene.xdp()["state"], "on", "{}", scene.xdp());
        scene
    }

    fn next(&self) -> Command {
        let directory = self.old.directory.path();
        let mut command = command(&binary());
        command.arg("upgrade").arg("--config").arg(directory.join("waystation.toml"));
        command.arg("--state-dir").arg(directory.join("state"));
        command
    }

    /// Has the next process take over.
    fn upgrade(&mut self) {
        let log = self.old.directory.path().join("log of the next");
        let mut new = Process::spawn(&mut self.next(), &log);
        eventually("the next process serves", || {
            let ended = new.ended();
            assert!(ended.is_none(), "ended with {ended:?}:\n{}", new.log());
            let events = client::get(&self.old.socket, "/v1/events").ok()?;
            String::from_utf8(events).unwrap().contains("took_over").then_some(())
        });
        self.new = Some(new);
    }

    fn expect_end_of_old(&mut self) {
        let status = self.old.process.wait(STEP);
        assert!(status.success(), "{status:?}\n{}", self.old.process.log());
    }

    fn xdp(&self) -> Value {
        self.old.document("/v1/xdp")
    }

    fn channel(&self) -> Channel {
        let mut client =
            self.streets.at_client(|| TurnClient::over_udp(self.server, ("alice", "pw"))).unwrap();
        let relayed = client.allocate().unwrap();
        let peer = self.streets.peer();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Channel { client, peer, relayed }
    }

    fn pair(&self) -> Pair {
        let client = self.streets.at_client(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let ends = [client, self.streets.peer()];
        let [a, b] = ends.each_ref().map(|end| end.local_addr().unwrap());
        let uri = format!("/v1/udp/open?a={a}&b={b}");
        let opened = client::post(&self.old.socket, &uri, CLIENT_TIMEOUT).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        let to = |leg: usize, address: &str| {
            let port = opened["legs"][leg]["port"].as_u64().unwrap();
            SocketAddr::new(address.parse().unwrap(), u16::try_from(port).unwrap())
        };
        let pair = Pair { to: [to(0, WAN), to(1, LAN)], ends };
        // Where they send to is known once they have; what was sent first may find no neighbour.
        pair.find_each_other();
        pair
    }

    /// All sessions and allocations.
    fn rows(&self) -> Vec<Value> {
        self.old.document("/v1/udp")["udp"].as_array().unwrap().clone()
    }

    fn await_tier(&self, tier: &str, rows: usize) {
        eventually(&format!("{rows} in tier {tier}"), || {
            let all = self.rows();
            (all.len() == rows && all.iter().all(|row| row["tier"] == tier)).then_some(())
        });
    }

    /// How many datagrams the kernel has relayed of all that there is.
    fn offloaded(&self) -> Vec<u64> {
        self.rows().iter().map(|row| row["datagrams_offloaded"].as_u64().unwrap()).collect()
    }

    /// The kernel relays of everything that there is, by what `exchange` sends.
    fn expect_relayed_in_the_kernel(&self, mut exchange: impl FnMut()) {
        let before = self.offloaded();
        eventually("the program relays", || {
            (0..5).for_each(|_| exchange());
            let now = self.offloaded();
            (now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before))
                .then_some(())
        });
    }

    /// The programs that the interfaces run.
    fn running(&self) -> Vec<u64> {
        ["wan", "lan"]
            .map(|name| {
                let shown = run(Command::new("ip").args(["-j", "link", "show", "dev", name]));
                let shown: Value = serde_json::from_str(&shown.text()).unwrap();
                shown[0]["xdp"]["prog"]["id"].as_u64().unwrap()
            })
            .to_vec()
    }

    fn program(&self) -> u64 {
        self.xdp()["program_id"].as_u64().unwrap()
    }
}

impl Channel {
    /// A datagram there and back, neither of which may be lost.
    fn echo(&mut self, number: usize) {
        let payload = number.to_be_bytes();
        self.client.send(CHANNEL, &payload).unwrap();
        let mut buffer = [0; 64];
        self.peer.set_read_timeout(Some(STEP)).unwrap();
        let (bytes, from) = self.peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&payload[..], self.relayed));
        self.peer.send_to(&payload, self.relayed).unwrap();
        let back = self.client.receive(STEP).unwrap();
        assert_eq!((back.channel, &back.payload[..]), (Some(CHANNEL), &payload[..]));
    }
}

impl Pair {
    fn find_each_other(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.ends[to].set_read_timeout(Some(LOOK)).unwrap();
            eventually("it comes through", || {
                self.ends[from].send_to(b"first", self.to[from]).unwrap();
                self.ends[to].recv_from(&mut [0; 16]).ok()
            });
        }
        // What was sent twice may still come.
        for end in &self.ends {
            while end.recv_from(&mut [0; 16]).is_ok() {}
            end.set_read_timeout(Some(STEP)).unwrap();
        }
    }

    /// A datagram there and back, neither of which may be lost.
    fn echo(&self, number: usize) {
        let payload = number.to_be_bytes();
        for (from, to) in [(0, 1), (1, 0)] {
            self.ends[from].send_to(&payload, self.to[from]).unwrap();
            let mut buffer = [0; 64];
            let (bytes, source) = self.ends[to].recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..bytes], source), (&payload[..], self.to[to]));
        }
    }
}

fn given_namespaces() -> bool {
    given(is_root(), "root")
}

/// Lets those who echo end, also where a test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Echoes by both for as long as something else is done.
fn while_echoing(channel: &mut Channel, pair: &Pair, act: impl FnOnce()) {
    let (stop, done) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = || done.each_ref().map(|done| done.load(Ordering::SeqCst));
    let await_more = || {
        let before = counts();
        eventually("datagrams come back", || {
            (0..2).all(|at| counts()[at] >= before[at] + ECHOES).then_some(())
        });
    };
    let go_on = |done: &AtomicUsize, echo: &mut dyn FnMut(usize)| {
        while !stop.load(Ordering::SeqCst) {
            echo(done.fetch_add(1, Ordering::SeqCst));
        }
    };
    thread::scope(|scope| {
        let by_channel = scope.spawn(|| go_on(&done[0], &mut |number| channel.echo(number)));
        let by_session = scope.spawn(|| go_on(&done[1], &mut |number| pair.echo(number)));
        let stop_on_drop = StopOnDrop(&stop);
        await_more();
        act();
        await_more();
        drop(stop_on_drop);
        by_channel.join().unwrap();
        by_session.join().unwrap();
    });
}

#[test]
fn what_the_kernel_relays_goes_on_under_the_next_process_and_nothing_is_lost() {
    if !given_namespaces() {
        return;
    }
    let mut scene = Scene::start();
    let (mut channel, pair) = (scene.channel(), scene.pair());
    channel.echo(0);
    scene.await_tier("xdp", 2);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
    });
    let first = scene.program();
    while_echoing(&mut channel, &pair, || scene.upgrade());
    scene.expect_end_of_old();
    scene.await_tier("xdp", 2);
    assert_ne!(scene.program(), first);
    assert_eq!(scene.running(), [scene.program(); 2]);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(2);
        pair.echo(2);
    });
    let sessions = scene.xdp()["sessions"].clone();
    assert_eq!((&sessions["directions"], &sessions["clients"]), (&4.into(), &1.into()));
    assert!(fs::read_dir(&scene.pins).unwrap().next().is_some(), "its pins are gone");
}

#[test]
fn a_next_process_that_ends_with_the_program_leaves_it_to_the_running_one() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start();
    let (mut channel, pair) = (scene.channel(), scene.pair());
    channel.echo(0);
    scene.await_tier("xdp", 2);
    // It has put its program on by the time that it cannot make its socket.
    let in_the_way = PathBuf::from(format!("{}.new", scene.old.socket.display()));
    fs::create_dir(&in_the_way).unwrap();
    while_echoing(&mut channel, &pair, || {
        let finished = run(&mut scene.next());
        assert_ne!(finished.code(), 0);
        assert!(finished.stderr.contains("XDP program attached"), "{}", finished.stderr);
        let log = || scene.old.process.log();
        eventually("it goes on", || log().contains("nothing was handed over").then_some(()));
    });
    eventually("its program is back", || (scene.running() == [scene.program(); 2]).then_some(()));
    // What is opened from here on is told to the program that runs.
    let another = scene.pair();
    scene.await_tier("xdp", 3);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
        another.echo(1);
    });
}

#[test]
fn a_next_process_without_the_program_has_it_taken_off() {
    if !given_namespaces() {
        return;
    }
    let mut scene = Scene::start();
    let (mut channel, pair) = (scene.channel(), scene.pair());
    channel.echo(0);
    scene.await_tier("xdp", 2);
    let file = scene.old.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("mode = \"native\"", "mode = \"off\"")).unwrap();
    while_echoing(&mut channel, &pair, || {
        scene.upgrade();
        eventually("the program is gone", || {
            (!has_program("wan") && !has_program("lan")).then_some(())
        });
    });
    scene.expect_end_of_old();
    scene.await_tier("gso", 2);
    assert!(!scene.pins.exists() || fs::read_dir(&scene.pins).unwrap().count() == 0);
}
