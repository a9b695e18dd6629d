//! Faults that a box meets: a killed program, a full disk, a management core that hangs, a network
//! that goes away and comes back. Each shows its figure.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that fails says where and shows why, and it may look at the clock"
)]

mod support;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::held::{Held, thread};
use support::nodes::{Node, route};
use support::process::{binary, command, is_root};
use support::streets::{LAN, Streets, WAN, ip};
use support::turn::users_file;
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_peer::{LinkOptions, RouteForm, TurnClient, TurnClientError};

const CHANNEL: u16 = 0x4000;
/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);

/// Starts an appliance with the files of a directory, or those of an earlier one there.
fn start_in(directory: TempDir, settings: &Settings) -> Appliance {
    let file = directory.path().join("waystation.toml");
    fs::write(&file, settings.text()).unwrap();
    let state = directory.path().join("state");
    let mut command = command(&binary());
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    Appliance::spawn(&mut command, directory, &state)
}

/// Sends something to the other end of a session, and waits until it is there.
fn exchange(near: &mut impl Write, far: &mut impl Read, what: &[u8]) {
    near.write_all(what).unwrap();
    near.flush().unwrap();
    let mut heard = vec![0; what.len()];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(heard, what);
}

/// F1.
#[test]
fn a_killed_program_comes_back_as_the_same_node_and_knows_who_was_registered() {
    let settings = Settings::new(PortName::Epoll, 2);
    let mut first = Appliance::start(&settings);
    let (caller, target) = (first.node(Profile::P4), first.node(Profile::P4));
    let registration = target.link.register(Visibility::Public).unwrap();
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    exchange(&mut near, &mut far, b"before");
    let saved = first.directory.path().join("state/registrations");
    eventually("the registration is on the disk", || {
        let text = fs::read_to_string(&saved).unwrap_or_default();
        text.contains(&target.identity().to_string()).then_some(())
    });
    near.write_all(&[7; 50_000]).unwrap();
    first.process.signal(Signal::KILL);
    first.process.wait(STEP);
    let (address, identity) = (first.address, first.identity);
    let directory = std::mem::replace(&mut first.directory, TempDir::new().unwrap());
    let killed = Instant::now();
    // The address is that of its peers, so it is asked for by its number.
    let listen = format!("addresses = [\"{address}\"]");
    let text = settings.text().replace("addresses = [\"127.0.0.1:0\"]", &listen);
    let file = directory.path().join("waystation.toml");
    fs::write(&file, text).unwrap();
    let state = directory.path().join("state");
    let mut words = command(&binary());
    words.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    let second = Appliance::spawn(&mut words, directory, &state);
    let ready = killed.elapsed();
    assert_eq!((second.address, second.identity), (address, identity));
    let options = LinkOptions::with_profile(Profile::P4);
    let again = |key| Node::dial_as(&second, key, &options);
    let (caller, target) = (again(caller.key.duplicate()), again(target.key.duplicate()));
    let linked = killed.elapsed();
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    exchange(&mut near, &mut far, b"after");
    assert_eq!(second.status()["gateway"]["registrations"], 1);
    assert_eq!(target.link.register(Visibility::Public).unwrap().nonce, registration.nonce);
    println!("F1: ready {ready:?} after the kill, peers linked again after {linked:?}");
}

/// A directory of the test's own that holds so little.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let directory = TempDir::new().unwrap();
        let options = format!("size={size},mode=0700");
        let kind = Some("tmpfs");
        mount(kind, directory.path(), kind, MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills what is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("filling")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn remount(&self, flags: MsFlags) {
        let none = None::<&str>;
        mount(none, self.path(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The namespace goes with the thread, and the mount with it.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// F16.
#[test]
fn a_full_or_read_only_disk_is_told_of_and_relaying_goes_on() {
    if !given(is_root(), "root") {
        return;
    }
    let disk = SmallDisk::mount("256k");
    let state = disk.path().join("state");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("waystation.toml");
    fs::write(&file, Settings::new(PortName::Epoll, 1).text()).unwrap();
    let mut words = command(&binary());
    words.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    let appliance = Appliance::spawn(&mut words, directory, &state);
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    assert!(appliance.status()["degraded"].as_object().unwrap().is_empty());

    for (round, spoil) in [true, false].into_iter().enumerate() {
        if spoil {
            disk.fill();
        } else {
            disk.remount(MsFlags::MS_RDONLY);
        }
        let node = if spoil { &caller } else { &target };
        node.link.register(Visibility::Public).unwrap();
        let why = eventually("it is degraded", || {
            appliance.status()["degraded"]["registrations"].as_str().map(str::to_owned)
        });
        assert!(why.contains("registrations.new") || why.contains("registrations"), "{why}");
        exchange(&mut near, &mut far, b"all the same");
        let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
        assert!(metrics.contains("waystation_degraded 1\n"), "{metrics}");
        let told = appliance.process.log().matches("will be lost on a restart").count();
        assert_eq!(told, round + 1, "it is told once, however often it is tried");
        if spoil {
            fs::remove_file(disk.path().join("filling")).unwrap();
        } else {
            disk.remount(MsFlags::empty());
        }
        eventually("it is well again", || {
            appliance.status()["degraded"].as_object().unwrap().is_empty().then_some(())
        });
    }
    let saved = fs::read_to_string(state.join("registrations")).unwrap();
    assert!(saved.contains(&target.identity().to_string()), "{saved}");
}

/// F18.
#[test]
fn data_cores_relay_on_while_the_management_core_hangs() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 2));
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    exchange(&mut near, &mut far, b"before");
    let held = Held::hold(thread(appliance.process.id(), "management"));
    if !given(held.is_some(), "ptrace") {
        return;
    }
    // Sixty seconds of it are for a long run; the cores are told nothing new in either.
    let long = std::env::var_os("WAYSTATION_TEST_LONG").is_some();
    let until = Instant::now() + Duration::from_secs(if long { 60 } else { 3 });
    let mut bytes = 0;
    while Instant::now() < until {
        exchange(&mut near, &mut far, &[5; 10_000]);
        exchange(&mut far, &mut near, &[6; 10_000]);
        bytes += 20_000;
    }
    assert!(caller.link.ping(STEP).is_ok());
    drop(held);
    eventually("it answers again", || appliance.ask("/v1/status").ok().map(drop));
    exchange(&mut near, &mut far, b"after");
    println!("F18: {bytes} bytes relayed while the management core hung");
}

/// A client with a channel to a peer.
struct Pair {
    client: TurnClient,
    peer: UdpSocket,
}

impl Pair {
    fn new(streets: &Streets, server: SocketAddr) -> Self {
        let mut client =
            streets.at_client(|| TurnClient::over_udp(server, ("alice", "pw"))).unwrap();
        client.allocate().unwrap();
        let peer = streets.peer();
        peer.set_read_timeout(Some(LOOK)).unwrap();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Self { client, peer }
    }

    /// Sends until the other end hears, both ways; a network that is away may refuse to send.
    fn resume(&mut self, what: &str) -> Duration {
        let began = Instant::now();
        let mut buffer = [0; 64];
        let from = eventually(&format!("the peer hears {what}"), || {
            let _ = self.client.send(CHANNEL, what.as_bytes());
            loop {
                let (bytes, from) = self.peer.recv_from(&mut buffer).ok()?;
                if buffer[..bytes] == *what.as_bytes() {
                    return Some(from);
                }
            }
        });
        eventually(&format!("the client hears {what}"), || {
            let _ = self.peer.send_to(what.as_bytes(), from);
            loop {
                match self.client.receive(LOOK) {
                    Ok(heard) if heard.payload == what.as_bytes() => return Some(()),
                    Ok(_older) => {}
                    Err(TurnClientError::NothingCame(_)) => return None,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        began.elapsed()
    }
}

/// F12.
#[test]
fn a_network_that_goes_away_and_comes_back_is_served_again_with_the_program_and_without() {
    if !given(is_root(), "root") {
        return;
    }
    for mode in ["off", "native"] {
        let streets = Streets::new();
        let files = TempDir::new().unwrap();
        let users_file = users_file(files.path(), &[("alice", "pw")]);
        let settings = Settings::new(PortName::Epoll, 1)
            .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
            .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
            .with("turn", "allow_peers = [\"203.0.113.0/24\"]")
            .with("turn", &users_file)
            .with("xdp", &format!("mode = \"{mode}\""));
        let appliance = start_in(TempDir::new().unwrap(), &settings);
        let mut pair = Pair::new(&streets, format!("{WAN}:3478").parse().unwrap());
        pair.resume("before");

        ip("link set wan down");
        let _ = pair.client.send(CHANNEL, b"into the void");
        ip("link set wan up");
        let link = pair.resume("after the link was down");

        ip(&format!("addr del {LAN}/24 dev lan"));
        let _ = pair.client.send(CHANNEL, b"from nowhere");
        ip(&format!("addr add {LAN}/24 dev lan"));
        let address = pair.resume("after the address was away");

        ip("link set wan mtu 1280");
        ip("link set lan mtu 1280");
        let mtu = pair.resume("with a smaller MTU");
        println!("F12, XDP {mode}: link {link:?}, address {address:?}, MTU {mtu:?}");
        assert_eq!(appliance.status()["ready"], true);
    }
}
