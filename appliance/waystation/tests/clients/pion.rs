//! pion's TURN client: permissions, indications, channels, and payload that fits no packet.

use crate::echo::Echo;
use crate::scene::{End, Family, Scene};
use crate::support::appliance::PortName;
use crate::support::process::{exists, run_within};
use crate::support::{eventually, given};
use crate::talker::Talker;
use crate::turn::{Pauses, REALM, Tier, Turn, USER};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/pion");
const BUILD_LIMIT: Duration = Duration::from_secs(300);
/// What the client sends, and gets back.
const MESSAGES: u64 = 8 * 16;
/// A peer that nobody opened.
const DENIED: [&str; 2] = ["192.168.7.7:9", "[fd99::7]:9"];

/// The client, built once for all tests.
struct Client(TempDir);

impl Client {
    fn get() -> &'static Self {
        static CLIENT: OnceLock<Client> = OnceLock::new();
        CLIENT.get_or_init(|| {
            let directory = TempDir::new().unwrap();
            let mut build = Command::new("go");
            build
                .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
                .arg(directory.path().join("pion"));
            let finished = run_within(build.arg(".").current_dir(SOURCE), BUILD_LIMIT);
            assert_eq!(finished.code(), 0, "{}", finished.stderr);
            Self(directory)
        })
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("pion")
    }
}

#[test]
fn payload_of_any_length_comes_back_on_loopback_over_io_uring() {
    if PortName::IoUring.is_given()
        && let Some(scene) = Scene::loopback()
    {
        comes_back(&scene, PortName::IoUring, Tier::Plain);
    }
}

#[test]
fn payload_of_any_length_comes_back_on_loopback_in_trains() {
    if let Some(scene) = Scene::loopback() {
        comes_back(&scene, PortName::Epoll, Tier::Gso);
    }
}

#[test]
fn payload_of_any_length_comes_back_from_another_namespace_in_trains() {
    if let Some(scene) = Scene::namespaces() {
        comes_back(&scene, PortName::Epoll, Tier::Gso);
    }
}

#[test]
fn payload_of_any_length_comes_back_from_another_namespace_through_xdp() {
    if let Some(scene) = Scene::namespaces() {
        comes_back(&scene.with_finished_checksums(), PortName::Epoll, Tier::Xdp);
    }
}

fn comes_back(scene: &Scene, port: PortName, tier: Tier) {
    if !given(has_modules(), "Go, and the modules of pion, to build a client") {
        return;
    }
    let client = Client::get().path();
    let turn = Turn::start(scene, port, tier);
    let pauses = (tier == Tier::Gso).then(|| Pauses::of(&turn));
    let mut running = Vec::new();
    let families = [Family::Ipv4, Family::Ipv6];
    // The server and the relayed address of each family, in every combination.
    for (asked, relayed) in
        families.iter().flat_map(|asked| families.map(|relayed| (*asked, relayed)))
    {
        let peer = Echo::start(scene, End::B, relayed);
        let talker = start(&client, scene, &turn, asked, relayed, &peer);
        running.push((talker, peer));
    }
    for (talker, _) in &running {
        let told = talker.hear();
        assert_eq!(told["messages"], MESSAGES, "{told}");
    }
    drop(pauses);
    if tier == Tier::Xdp {
        // All may have come back before the program was told of the first channel.
        eventually("the program relays what is sent again", || {
            for (talker, _) in &mut running {
                talker.tell(&"again".into());
                talker.hear();
            }
            (turn.appliance.total("udp_datagrams_offloaded") > 0).then_some(())
        });
    }
    let rows = turn.rows();
    assert_eq!(rows.len(), running.len(), "{rows:?}");
    for row in rows {
        assert_eq!((&row["user"], &row["channels"]), (&USER.0.into(), &1.into()), "{row}");
    }
    turn.expect_carried(MESSAGES * running.len() as u64, 0);
    for (talker, _) in running {
        talker.finish();
    }
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
}

/// Whether the client can be built: its modules are here, or can be had.
fn has_modules() -> bool {
    let mut download = Command::new("go");
    download.args(["mod", "download"]).current_dir(SOURCE);
    exists("go") && run_within(&mut download, BUILD_LIMIT).status.success()
}

fn start(
    client: &Path,
    scene: &Scene,
    turn: &Turn,
    asked: Family,
    relayed: Family,
    peer: &Echo,
) -> Talker {
    let (number, denied) = match relayed {
        Family::Ipv4 => ("4", DENIED[0]),
        Family::Ipv6 => ("6", DENIED[1]),
    };
    let mut command = scene.command(End::A, client);
    command.args(["-server", &turn.server(asked).to_string(), "-peer", &peer.address.to_string()]);
    command.args(["-user", USER.0, "-password", USER.1, "-realm", REALM]);
    command.args(["-relayed", number, "-denied", denied]);
    Talker::spawn(&format!("pion from {asked:?} to {relayed:?}"), &mut command)
}
