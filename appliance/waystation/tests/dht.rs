//! The node of the A2AL DHT in real processes on loopback: what is published is found, by everybody
//! and after everything that happens to nodes, and bad input changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where and shows why; it looks at the clock, and pauses"
)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::appliance::{Appliance, Settings};
use support::process::{binary, command, run};
use support::turn::users_file;
use support::{eventually, eventually_within};
use tempfile::TempDir;
use waystation_a2al::address::Address;
use waystation_a2al::delegation::{Delegation, Master};
use waystation_a2al::keys::{PublicKey, Signature, SigningKey};
use waystation_a2al::message::{self, Body, Parsed, TransactionId};
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned};

/// How long the network may take to settle something: look-ups of up to 20 s, one after the other,
/// while other tests have the processors.
const SETTLED: Duration = Duration::from_secs(120);
const NODES: usize = 8;

/// An appliance with a node on loopback, and a state directory that outlives it.
struct NodeProcess {
    appliance: Option<Appliance>,
    state: TempDir,
}

impl NodeProcess {
    fn start(bootstrap: Option<SocketAddr>, more: &[&str]) -> Self {
        let mut node = Self { appliance: None, state: TempDir::new().unwrap() };
        node.start_again(bootstrap, more);
        node
    }

    fn start_again(&mut self, bootstrap: Option<SocketAddr>, more: &[&str]) {
        self.start_with(bootstrap, more, &[]);
    }

    /// With lines of other sections.
    fn start_with(
        &mut self,
        bootstrap: Option<SocketAddr>,
        more: &[&str],
        others: &[(&'static str, &str)],
    ) {
        let bootstrap = bootstrap.map(|at| format!("\"{at}\"")).unwrap_or_default();
        let mut settings = Settings::new_auto(1)
            .with("engine", "port = \"epoll\"")
            .with("dht", "enabled = true")
            .with("dht", "listen = [\"127.0.0.1:0\"]")
            .with("dht", "diverse = false")
            .with("dht", "allow_private = true")
            .with("dht", &format!("bootstrap = [{bootstrap}]"));
        for line in more {
            settings = settings.with("dht", line);
        }
        for (section, lines) in others {
            settings = settings.with(section, lines);
        }
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let mut run = command(&binary());
        run.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(self.state.path());
        self.appliance = Some(Appliance::spawn(&mut run, directory, self.state.path()));
    }

    fn appliance(&self) -> &Appliance {
        self.appliance.as_ref().unwrap()
    }

    fn document(&self) -> Value {
        self.appliance().document("/v1/dht")
    }

    fn at(&self) -> SocketAddr {
        self.document()["listen"][0].as_str().unwrap().parse().unwrap()
    }

    fn address(&self) -> String {
        self.document()["address"].as_str().unwrap().to_owned()
    }

    fn nodes(&self) -> u64 {
        self.document()["stats"]["total_peers"].as_u64().unwrap()
    }

    /// Runs `waystation dht` against it.
    fn tell(&self, arguments: &[&str]) -> String {
        let mut command = command(&binary());
        command.arg("dht").args(arguments).arg("--socket").arg(&self.appliance().socket);
        let finished = run(&mut command);
        assert_eq!(finished.code(), 0, "{arguments:?}: {}", finished.stderr);
        finished.text()
    }

    /// The records that a question to the network brings.
    fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.tell(&[arguments, &["--json"]].concat());
        let document: Value = serde_json::from_str(&text).unwrap();
        document["records"].as_array().unwrap().clone()
    }

    fn finds_topic(&self, topic: &str, name: &str) -> bool {
        let records = self.records(&["get", "--topic", topic]);
        records.iter().any(|record| record["says"]["name"] == name)
    }

    fn finds_address(&self, address: &str) -> bool {
        !self.records(&["lookup", address]).is_empty()
    }

    fn kill(&mut self) {
        self.appliance().process.signal(Signal::KILL);
        self.appliance = None;
    }

    fn stop(&mut self) {
        let status = self.appliance.as_mut().unwrap().stop();
        assert!(status.success(), "{status:?}");
        self.appliance = None;
    }
}

/// Nodes that all know the first, and have met each other.
fn network(count: usize) -> Vec<NodeProcess> {
    let first = NodeProcess::start(None, &[]);
    let at = first.at();
    let mut nodes = vec![first];
    nodes.extend((1..count).map(|_| NodeProcess::start(Some(at), &[])));
    for node in &nodes {
        eventually_within("every node knows most others", SETTLED, || {
            (node.nodes() >= count as u64 / 2).then_some(())
        });
    }
    nodes
}

fn expect_found<'n>(nodes: impl Iterator<Item = &'n NodeProcess>, topic: &str, address: &str) {
    for node in nodes {
        eventually_within("the topic is found", SETTLED, || {
            node.finds_topic(topic, "a box").then_some(())
        });
        eventually_within("the address is found", SETTLED, || {
            node.finds_address(address).then_some(())
        });
    }
}

#[test]
fn eight_processes_find_what_one_publishes_also_after_deaths_and_restarts() {
    let mut nodes = network(NODES);
    let publisher = NODES - 1;
    let address = nodes[publisher].address();
    let told = nodes[publisher].tell(&[
        "publish",
        "--topic",
        "a topic/of ours",
        "--name",
        "a box",
        "--protocol",
        "turn",
    ]);
    assert!(told.starts_with("published under "), "{told}");
    eventually_within("others keep the topic and the endpoint record", SETTLED, || {
        let document = nodes[publisher].document();
        let published = document["published"].as_array().unwrap().clone();
        let is_kept = |kind: &str| {
            let mut rows = published.iter().filter(|row| row["kind"] == kind);
            rows.any(|row| row["replicas"].as_u64().unwrap() >= 4)
        };
        (is_kept("topic") && is_kept("endpoint")).then_some(())
    });
    expect_found(nodes.iter(), "a topic/of ours", &address);

    // The first, through which all others came, is among those that die.
    for dead in [0, 2, 5] {
        nodes[dead].kill();
    }
    let alive = || nodes.iter().filter(|node| node.appliance.is_some());
    assert_eq!(alive().count(), NODES - 3);
    expect_found(alive(), "a topic/of ours", &address);

    for node in nodes.iter_mut().filter(|node| node.appliance.is_some()) {
        node.stop();
    }
    // Every port is another one now, so what was known of nodes does not help.
    nodes[0].start_again(None, &[]);
    let first = nodes[0].at();
    for node in &mut nodes[1..] {
        node.start_again(Some(first), &[]);
    }
    assert_eq!(nodes[publisher].address(), address, "the key is the same");
    expect_found(nodes.iter(), "a topic/of ours", &address);
}

#[test]
fn a_relay_is_found_by_its_topics_with_its_addresses_until_it_withdraws() {
    let first = NodeProcess::start(None, &[]);
    let relay = NodeProcess::start(Some(first.at()), &["topics = [\"relay\"]"]);
    let links = relay.appliance().address;
    let payload = eventually_within("the relay is found", SETTLED, || {
        let records = first.records(&["get", "--topic", "relay"]);
        Some(records.first()?["payload"].as_str()?.to_owned())
    });
    let tcp: String = format!("tcp:{links}").bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(payload.contains(&tcp), "{payload} names {links}");
    let status = relay.tell(&["status"]);
    for part in ["endpoint", "profile", "topic", "relay waystation"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert!(relay.tell(&["peers"]).contains("good"));
    eventually("the first has a record", || {
        first.tell(&["records"]).contains("profile").then_some(())
    });
    relay.tell(&["publish", "--topic", "passing"]);
    assert!(relay.tell(&["withdraw", "--topic", "passing"]).contains("any more"));
    assert!(!relay.tell(&["status"]).contains("passing"));
    assert!(relay.tell(&["publish"]).starts_with("publishes 3 records"));
    // Figures are taken once a second, and a look-up for nodes takes some.
    for series in ["waystation_dht_nodes 1", "waystation_dht_drops_total{reason=\"malformed\"} 0"] {
        eventually(series, || {
            let metrics = relay.appliance().ask("/metrics").unwrap();
            String::from_utf8(metrics).unwrap().contains(series).then_some(())
        });
    }
    eventually_within("look-ups are in the histograms", SETTLED, || {
        let document = relay.appliance().document("/v1/histograms");
        let entries = document["histograms"].as_array().unwrap().clone();
        entries.iter().any(|entry| entry["stage"] == "dht_lookup").then_some(())
    });
}

#[test]
fn a_relay_names_its_turn_server_and_is_taken_back_when_it_ends() {
    let first = NodeProcess::start(None, &[]);
    let mut relay = NodeProcess { appliance: None, state: TempDir::new().unwrap() };
    let users_file = users_file(relay.state.path(), &[("alice", "pw")]);
    let turn = format!("listen = [\"127.0.0.1:0\"]\n{users_file}");
    relay.start_with(Some(first.at()), &["topics = [\"relay\"]"], &[("turn", &turn)]);
    relay.tell(&["publish", "--topic", "by command"]);
    let server = relay.appliance().status()["turn_listen"][0].as_str().unwrap().to_owned();
    let named: String = format!("turn:{server}").bytes().map(|it| format!("{it:02x}")).collect();
    let address = relay.address();
    let kept = || -> Vec<(String, u64)> {
        let rows = first.appliance().document("/v1/dht/records")["records"].clone();
        let mut kept: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["address"] == address.as_str())
            .map(|row| (row["kind"].as_str().unwrap().to_owned(), row["ttl_s"].as_u64().unwrap()))
            .collect();
        kept.sort();
        kept
    };
    eventually_within("the first keeps everything that the relay publishes", SETTLED, || {
        (kept().len() == 4).then_some(())
    });
    assert!(kept().iter().all(|(_, ttl_s)| *ttl_s == 3600), "{:?}", kept());
    for arguments in [&["lookup", &address][..], &["get", "--topic", "relay"]] {
        let records = first.records(arguments);
        assert!(!records.is_empty(), "{arguments:?}");
    }
    let payload = first.records(&["get", "--topic", "relay"])[0]["payload"].clone();
    assert!(payload.as_str().unwrap().contains(&named), "{payload} names {server}");
    relay.stop();
    // What is configured ends soon; what somebody published by command stays for its time.
    let wanted = [("endpoint", 300), ("profile", 300), ("topic", 300), ("topic", 3600)];
    let wanted = wanted.map(|(kind, ttl_s)| (kind.to_owned(), ttl_s)).to_vec();
    eventually_within("the first knows that the relay has left", SETTLED, || {
        (kept() == wanted).then_some(())
    });
    relay.start_with(Some(first.at()), &["topics = [\"relay\"]"], &[("turn", &turn)]);
    eventually_within("and that it is back", SETTLED, || {
        kept().iter().all(|(_, ttl_s)| *ttl_s == 3600).then_some(())
    });
}

#[test]
fn a_beacon_says_that_it_is_one_and_has_a_large_store() {
    let beacon = NodeProcess::start(None, &["beacon = true"]);
    let mut stranger = Stranger::new(3, "127.0.0.4", beacon.at());
    assert!(stranger.store(stranger.record(7, 3600, unix_s())));
    eventually("the record is counted", || {
        (beacon.document()["stats"]["beacon_store_received"] == 1).then_some(())
    });
    let document = beacon.document();
    assert_eq!(document["stats"]["beacon_mode"], true, "{document}");
    assert_eq!(document["stats"]["beacon_findvalue_served"], 0, "{document}");
    assert_eq!(document["store"]["keys_max"], 5_000_000, "{document}");
    assert_eq!(document["store"]["bytes_max"], 5_u64 << 30, "{document}");
    let member = NodeProcess::start(Some(beacon.at()), &[]);
    assert!(member.document()["stats"]["beacon_mode"].is_null());
    eventually_within("the beacon knows who has come", SETTLED, || {
        (beacon.nodes() == 1).then_some(())
    });
}

#[test]
fn a_reload_takes_up_topics_and_bootstrap_addresses() {
    let first = NodeProcess::start(None, &[]);
    let other = NodeProcess::start(None, &[]);
    let file = other.appliance().directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap();
    let bootstrap = format!("bootstrap = [\"{}\"]\ntopics = [\"fresh\"]", first.at());
    fs::write(&file, text.replace("bootstrap = []", &bootstrap)).unwrap();
    other.appliance().process.signal(Signal::HUP);
    eventually_within("the two have met", SETTLED, || (first.nodes() == 1).then_some(()));
    eventually_within("the topic is found", SETTLED, || {
        first.finds_topic("fresh", "waystation").then_some(())
    });
}

#[test]
fn key_and_snapshot_are_for_the_owner_and_a_torn_snapshot_is_set_aside() {
    let mut node = NodeProcess::start(None, &["topics = [\"kept\"]"]);
    let address = node.address();
    eventually("its records are there", || {
        (node.document()["store"]["records"].as_u64().unwrap() == 3).then_some(())
    });
    node.stop();
    let file = |name: &str| node.state.path().join(name);
    for name in ["dht_key", "dht_snapshot", "dht_snapshot.seen"] {
        let mode = fs::metadata(file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let whole = fs::read(file("dht_snapshot")).unwrap();
    fs::write(file("dht_snapshot"), &whole[..whole.len() - 40]).unwrap();
    let (snapshot, corrupt) = (file("dht_snapshot"), file("dht_snapshot.corrupt"));
    node.start_again(None, &[]);
    assert!(!snapshot.exists() && corrupt.exists());
    assert!(node.appliance().process.log().contains("torn or changed"));
    assert_eq!(node.address(), address);
    node.stop();
    assert!(snapshot.exists());

    let key = node.state.path().join("dht_key");
    for (bytes, mode, words) in [
        ("ab".repeat(32), 0o644, "may be read by others"),
        ("ab".repeat(31), 0o600, "does not hold 64 hex digits"),
        ("no key at all".to_owned(), 0o600, "does not hold 64 hex digits"),
    ] {
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let complaint = refusal(node.state.path(), "127.0.0.1:0");
        assert!(complaint.contains(words) && complaint.contains("dht_key"), "{complaint}");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let state = TempDir::new().unwrap();
    let complaint = refusal(state.path(), &at);
    assert!(complaint.contains(&at) && complaint.contains("dht.listen"), "{complaint}");
}

#[test]
fn questions_without_a_node_say_what_to_set() {
    let appliance = Appliance::start(&Settings::new_auto(1).with("engine", "port = \"epoll\""));
    let mut asked = command(&binary());
    asked.args(["dht", "status", "--socket"]).arg(&appliance.socket);
    let finished = run(&mut asked);
    assert!(finished.complaint().contains("set dht.enabled"), "{}", finished.stderr);
}

/// How the program refuses to start.
fn refusal(state: &Path, listen: &str) -> String {
    let settings = Settings::new_auto(1)
        .with("engine", "port = \"epoll\"")
        .with("dht", "enabled = true")
        .with("dht", &format!("listen = [\"{listen}\"]"));
    let directory = TempDir::new().unwrap();
    let file: PathBuf = directory.path().join("waystation.toml");
    fs::write(&file, settings.text()).unwrap();
    let finished =
        run(command(&binary()).arg("run").arg("--config").arg(&file).arg("--state-dir").arg(state));
    assert_ne!(finished.code(), 0);
    finished.complaint().to_owned()
}

// Bad input

/// Somebody with a key who speaks to the node from an address of loopback.
struct Stranger {
    socket: UdpSocket,
    key: SigningKey,
    transactions: u64,
}

impl Stranger {
    fn new(seed: u8, from: &str, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Self { socket, key: SigningKey::from_seed(&[seed; 32]).unwrap(), transactions: 0 }
    }

    fn packet(&mut self, body: &Body) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 20];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        message::encode(&self.key, TransactionId(transaction), body)
    }

    fn ping(&self) -> Body {
        Body::Ping { address: self.key.address() }
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send(packet).unwrap();
    }

    /// Asks until the answer comes; a busy node may lose a datagram.
    fn ask(&mut self, body: &Body) -> Body {
        eventually_within("an answer", SETTLED, || {
            let packet = self.packet(body);
            self.send(&packet);
            let mut buffer = [0; 2048];
            loop {
                let length = self.socket.recv(&mut buffer).ok()?;
                let message = Parsed::parse(&buffer[..length]).unwrap().verify().unwrap();
                // The node asks in its turn who is there.
                if Some(message.body.message_type()) == body.message_type().answer() {
                    return Some(message.body);
                }
            }
        })
    }

    /// A record in somebody's name.
    fn record_for(&self, address: Address, delegation: Vec<u8>) -> SignedRecord {
        let unsigned = Unsigned {
            address,
            record_type: RecordType(5),
            payload: b"something".to_vec(),
            sequence: 9,
            timestamp: unix_s(),
            ttl_s: 3600,
            delegation,
        };
        unsigned.sign(&self.key)
    }

    fn record(&self, sequence: u64, ttl_s: u32, timestamp: u64) -> SignedRecord {
        let unsigned = Unsigned {
            address: self.key.address(),
            record_type: RecordType(5),
            payload: b"something".to_vec(),
            sequence,
            timestamp,
            ttl_s,
            delegation: Vec::new(),
        };
        unsigned.sign(&self.key)
    }

    fn store(&mut self, record: SignedRecord) -> bool {
        match self.ask(&Body::Store { record: Box::new(record), key: None }) {
            Body::StoreResponse { stored, .. } => stored,
            other => panic!("{other:?}"),
        }
    }
}

fn unix_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[test]
fn bad_input_of_every_class_is_counted_and_changes_nothing() {
    let node = NodeProcess::start(None, &[]);
    let mut stranger = Stranger::new(9, "127.0.0.1", node.at());
    let now = unix_s();
    let good = stranger.record(7, 3600, now);
    assert!(stranger.store(good.clone()));
    let before = state_of(&node);

    let ping = stranger.ping();
    let packet = stranger.packet(&ping);
    let mut wrong = packet.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let mut not_canonical = packet.clone();
    // The first number of the outer map, written with a head that is longer than it has to be.
    not_canonical.splice(1..2, [0x18, 0x01]);
    let pong = Body::Pong { address: stranger.key.address(), observed: node.at() };
    let pong = stranger.packet(&pong);
    // No signature at all: the outer map ends before it.
    let mut unsigned = packet[..packet.len() - 67].to_vec();
    unsigned[0] = 0xa3;
    let stolen = Body::Ping { address: SigningKey::from_seed(&[8; 32]).unwrap().address() };
    let stolen = stranger.packet(&stolen);
    for bad in [
        vec![0xa2; 1201],
        packet[..packet.len() / 2].to_vec(),
        not_canonical,
        unsigned,
        wrong,
        pong,
        stolen,
        vec![0x40; 60],
    ] {
        stranger.send(&bad);
    }
    for _ in 0..6 {
        stranger.send(&packet);
    }
    for (reason, least) in [
        ("oversized", 1),
        ("malformed", 3),
        ("signature", 1),
        ("unsolicited", 1),
        ("foreign_address", 1),
        ("other_protocol", 1),
        ("repeated", 1),
    ] {
        eventually(reason, || {
            let counted = node.document()["drops"][reason].as_u64().unwrap_or(0);
            (counted >= least).then_some(())
        });
    }
    let mut forged = good.clone();
    forged.payload = b"something else".to_vec();
    // In another's name: without a delegation, with one that is none, and with another one's.
    let victim = SigningKey::from_seed(&[8; 32]).unwrap();
    let another = SigningKey::from_seed(&[7; 32]).unwrap();
    let usurped = |delegation| stranger.record_for(victim.address(), delegation);
    let unauthorised = usurped(Vec::new());
    let undelegated = usurped(b"no delegation".to_vec());
    let foreign = usurped(delegation(&victim, another.public(), now));
    let rightful = usurped(delegation(&victim, stranger.key.public(), now));
    let bad = [
        (stranger.record(8, 10, now - 100), "expired"),
        (stranger.record(8, 3600, now + 4000), "from_the_future"),
        (stranger.record(8, 40 * 86_400, now), "too_long"),
        (forged, "signature"),
        (unauthorised, "no_authority"),
        (undelegated, "delegation"),
        (foreign, "no_authority"),
    ];
    for (record, reason) in bad {
        assert!(!stranger.store(record), "{reason}");
        let document = node.document();
        assert!(document["refusals"][reason].as_u64().is_some(), "{reason}: {document}");
    }
    assert_eq!(node.document()["refusals"]["no_authority"], 2);
    // An older one is answered as kept, since the newer one is; nothing changes.
    assert!(stranger.store(stranger.record(6, 3600, now)));
    assert!(node.document()["store"]["stale"].as_u64().unwrap() >= 1);
    assert_eq!(state_of(&node), before);
    assert!(stranger.store(rightful), "with its delegation it is kept");
}

/// What lets an operational key sign for a master's address.
fn delegation(master: &SigningKey, operational_key: PublicKey, issued_at: u64) -> Vec<u8> {
    let public_key = master.public();
    let signed = |signature| Delegation {
        operational_key,
        agent: master.address(),
        issued_at,
        expires_at: 0,
        scope: 1,
        master: Master::Native { public_key, signature },
    };
    let preimage = signed(Signature([0; 64])).preimage(&public_key);
    signed(master.sign(&preimage)).encode()
}

/// Everything that the node keeps for others.
fn state_of(node: &NodeProcess) -> Value {
    let rows = node.appliance().document("/v1/dht/records")["records"].as_array().unwrap().clone();
    let address = node.address();
    // Its own are renewed when they are due.
    rows.into_iter().filter(|row| row["address"] != address.as_str()).collect()
}

#[test]
fn a_flood_is_dropped_and_counted_while_others_are_served() {
    let node = NodeProcess::start(None, &[]);
    let at = node.at();
    let mut flooder = Stranger::new(1, "127.0.0.2", at);
    let ping = flooder.ping();
    let packets: Vec<_> = (0..500).map(|_| flooder.packet(&ping)).collect();
    let mut other = Stranger::new(2, "127.0.0.3", at);
    for round in 0..40 {
        for packet in &packets {
            // The kernel may have no room for more; a flood does not wait either.
            let _ = flooder.socket.send(packet);
        }
        if round % 10 == 5 {
            assert!(matches!(other.ask(&other.ping()), Body::Pong { .. }));
        }
    }
    eventually("the flood is counted", || {
        let drops = node.document()["drops"].clone();
        (drops["rate_of_address"].as_u64().unwrap_or(0) > 100).then_some(())
    });
    assert!(matches!(other.ask(&other.ping()), Body::Pong { .. }));
    assert_eq!(node.document()["store"]["refused"], 0);
    // The rest of the management core has its turn as before.
    assert_eq!(node.appliance().status()["readiness"]["state"], "ready");
}
