//! Two upgrades and a drain under everything at once: links that `waystation-load` keeps busy, links
//! that are made all the while, and TURN clients, of which some send and many only are there. Nobody
//! is refused, no message and no datagram is lost; how long datagrams have waited is printed, and
//! judged but for the time in which the machine ran something else.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that measures says what"
)]

mod support;

use serde_json::Value;
use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::PortName;
use support::process::{Process, binary, command, fast_binary, is_fast, run_within};
use support::turn::{ALICE, CHANNEL, Turn};
use support::upgrading::{Echoing, Longest, StopOnDrop, Upgrade};
use support::{STEP, eventually, given};
use waystation_astral::frame::Profile;
use waystation_peer::TurnClient;

/// Pairs of peers of the load, each with two links.
const PAIRS: &str = "4";
/// How long the load's part of an upgrade lasts. If a slow machine takes longer for the upgrade, the
/// load ends before it, and the test says so.
const LOAD_SECONDS: &str = "3";
/// Allocations that are there and say nothing while the others do.
const QUIET_ALLOCATIONS: usize = 300;
const QUIET_ALLOCATIONS_LONG: usize = 1000;
/// Datagrams there and back before, and after, each upgrade.
const ECHOES: usize = 50;
/// What no machine is too slow for: each side waits as long for a single answer of the other, and then
/// gives the hand-over up.
const ECHO_MAX: Duration = Duration::from_secs(10);
/// How long nobody serves a core's datagrams at most, with a program as it is installed, on a machine
/// that has a processor for it.
const GAP_MAX: Duration = Duration::from_millis(50);
/// Upgrades where figures are judged as well, and where they are only looked at.
const UPGRADES_LONG: usize = 30;
const UPGRADES: usize = 2;
/// The load waits up to 20 s for a last message.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// Whether figures are judged as well.
fn is_long() -> bool {
    env::var_os("WAYSTATION_TEST_LONG").is_some() && is_fast()
}

/// `waystation-load`, which is built beside the program when the whole workspace is.
fn load_program() -> Option<PathBuf> {
    let beside = [fast_binary(), binary()].map(|it| it.with_file_name("waystation-load"));
    let found = beside.into_iter().find(|program| program.is_file());
    given(found.is_some(), "waystation-load beside the program").then_some(found).flatten()
}

/// The load as a process of its own.
struct Load {
    process: Process,
    said: PathBuf,
}

impl Load {
    /// Starts it, and waits until its messages pass.
    fn start(program: &Path, upgrade: &Upgrade, number: usize) -> Self {
        let directory = upgrade.old.directory.path();
        let said = directory.join(format!("load {number}"));
        let mut load = command(program);
        load.args(["--gateway", &upgrade.old.address.to_string()]);
        load.args(["--identity", &upgrade.old.identity.to_string()]);
        load.args(["--pairs", PAIRS, "--window", "16", "--rounds", "1"]);
        load.args(["--seconds", LOAD_SECONDS, "--json"]);
        load.stdin(Stdio::null()).stdout(fs::File::create(&said).unwrap());
        let before = upgrade.old.total("frames_in");
        let mut process = Process::spawn(&mut load, &directory.join(format!("load log {number}")));
        eventually("the load's messages pass", || {
            let ended = process.ended();
            assert!(ended.is_none(), "ended with {ended:?}: {}", process.log());
            (upgrade.old.total("frames_in") > before + 1000).then_some(())
        });
        Self { process, said }
    }

    /// Waits for its end. It has counted and compared every message, and ends well only if none is
    /// missing and no connection was closed. Returns how many there were.
    fn finish(mut self) -> u64 {
        let status = self.process.wait(LOAD_LIMIT);
        assert!(status.success(), "{status:?}: {}", self.process.log());
        let said = fs::read_to_string(&self.said).unwrap();
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        report["messages_checked"].as_u64().unwrap()
    }
}

/// A client that sends over a channel and whose peer sends back.
struct Busy {
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl Busy {
    fn new(server: SocketAddr) -> Self {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(STEP)).unwrap();
        let mut client = TurnClient::over_udp(server, ALICE).unwrap();
        let relayed = client.allocate().unwrap();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Self { client, peer, relayed }
    }

    fn echo(&mut self, number: usize) {
        let payload = number.to_be_bytes();
        self.client.send(CHANNEL, &payload).unwrap();
        let mut buffer = [0; 64];
        let (bytes, from) = self.peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&payload[..], self.relayed));
        self.peer.send_to(&payload, self.relayed).unwrap();
        let back = self.client.receive(STEP).unwrap();
        assert_eq!((back.channel, &back.payload[..]), (Some(CHANNEL), &payload[..]));
    }
}

#[test]
fn two_upgrades_and_a_drain_under_load_lose_nothing_and_refuse_nobody() {
    let Some(load) = &load_program() else { return };
    // `upgrade.rs` upgrades over both.
    let probed = waystation_engine::port::probe::probe();
    let port = if probed.is_ok() { PortName::IoUring } else { PortName::Epoll };
    let lines = ["allocations_per_user_max = 10000"];
    let Turn { appliance, udp, files: _files, .. } = Turn::start(port, 2, &lines);
    let mut upgrade = Upgrade::from(appliance).to(fast_binary());
    let quiet = if is_long() { QUIET_ALLOCATIONS_LONG } else { QUIET_ALLOCATIONS };
    let mut quiet: Vec<TurnClient> =
        (0..quiet).map(|_| TurnClient::over_udp(udp, ALICE).unwrap()).collect();
    quiet.iter_mut().for_each(|client| _ = client.allocate().unwrap());
    let mut busy: [Busy; 3] = std::array::from_fn(|_| Busy::new(udp));
    let (stop, dialed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (at, identity) = (upgrade.old.address, upgrade.old.identity);
    let dial = || {
        while !stop.load(Ordering::SeqCst) {
            // Connects, shakes hands and asks, or panics.
            let key = waystation_peer::secret_key().unwrap();
            let link = waystation_peer::Link::dial(at, &key, &identity, Profile::P4);
            link.unwrap().ping(STEP).unwrap();
            dialed.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let dialer = scope.spawn(dial);
        let stop_on_drop = StopOnDrop(&stop);
        for number in 0..if is_long() { UPGRADES_LONG } else { UPGRADES } {
            let loading = Load::start(load, &upgrade, number);
            let longest = upgrade_under(&mut upgrade, &mut busy);
            let took_over = support::upgrading::event(&upgrade.old, "took_over").unwrap();
            let messages = loading.finish();
            println!(
                "{}, upgrade {number}: {messages} messages of the load, none lost; {} allocations",
                port.name(),
                quiet.len() + busy.len(),
            );
            assert_eq!(took_over["allocations_left"], 0);
            judge(&took_over, &longest);
        }
        drop(stop_on_drop);
        dialer.join().unwrap();
    });
    println!("{}: {dialed:?} links were made, none refused", port.name());
    for client in &mut quiet {
        client.refresh(600).unwrap();
    }
    drain_under(load, &mut upgrade, (quiet, busy));
}

/// Prints for how long nobody served datagrams, and judges it. Where threads waited for a processor
/// meanwhile, that is the machine's time and not the program's.
fn judge(took_over: &Value, longest: &[Longest; 3]) {
    let us = |name: &str| took_over[name].as_u64().unwrap();
    let (gap_us, starved_us) = (us("udp_waited_us"), us("udp_waited_for_processor_us"));
    let unstarved_us = gap_us - starved_us;
    println!(
        "  datagrams waited {gap_us} us: {} us were told of, {} us passed on and {} us taken up; for \
         {starved_us} us of it threads waited for a processor",
        us("udp_telling_us"),
        us("udp_passing_us"),
        us("udp_taking_us"),
    );
    for Longest { echo, unstarved } in longest {
        println!("  longest echo {echo:?}, without waiting for a processor {unstarved:?}");
        assert!(*echo <= ECHO_MAX, "an echo took {echo:?}");
        // A core that stands still before or after the gap is in no figure of the program's.
        assert!(!is_fast() || *unstarved <= GAP_MAX, "an echo took {echo:?}, starved or not");
    }
    if Duration::from_micros(gap_us) > GAP_MAX {
        println!("  the machine was starved: without that it is {unstarved_us} us");
    }
    assert!(!is_fast() || Duration::from_micros(unstarved_us) <= GAP_MAX, "{took_over}");
}

/// Upgrades while everybody is busy; returns the longest echoes of each.
fn upgrade_under(upgrade: &mut Upgrade, busy: &mut [Busy; 3]) -> [Longest; 3] {
    let [a, b, c] = busy;
    let (mut a, mut b, mut c) =
        (|number| a.echo(number), |number| b.echo(number), |number| c.echo(number));
    let cores = Arc::clone(&upgrade.starvation);
    let echoes: [&mut (dyn FnMut(usize) + Send); 3] = [&mut a, &mut b, &mut c];
    let longest = Echoing::across_among(&cores, echoes, ECHOES, || _ = upgrade.perform());
    longest.map(|[_, since]| since)
}

/// Drains while the load goes on: it ends well, and so does the process.
fn drain_under(load: &Path, upgrade: &mut Upgrade, clients: (Vec<TurnClient>, [Busy; 3])) {
    let loading = Load::start(load, upgrade, 2);
    let mut drain: Command = command(&binary());
    drain.args(["drain", "--no-wait", "--deadline", "10m", "--socket"]).arg(&upgrade.old.socket);
    let finished = run_within(&mut drain, STEP);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let (mut quiet, mut busy) = clients;
    busy.iter_mut().for_each(|busy| (0..ECHOES).for_each(|number| busy.echo(number)));
    println!("drain: {} messages of the load, none lost", loading.finish());
    busy.iter_mut().for_each(|busy| busy.client.refresh(0).unwrap());
    quiet.iter_mut().for_each(|client| client.refresh(0).unwrap());
    let last = upgrade.next.last_mut().unwrap();
    let status = last.wait(STEP);
    assert!(status.success(), "{status:?}\n{}", last.log());
    upgrade.expect_end_of_all_before();
}
