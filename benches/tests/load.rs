//! The load generator against a gateway made of peers: every path, profile and style, and a gateway
//! that changes a byte.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use clap::Parser;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{self, GatewayOperation, idle, socket_object, subscription_reply};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_benches::load::options::Options;
use waystation_benches::load::report::Report;
use waystation_benches::load::run::run;
use waystation_peer::{Link, LinkOptions, Session};

const WINDOW_BYTES: u32 = 1 << 20;
const STEP: Duration = Duration::from_secs(20);

/// A gateway that does only what the generator needs, thread by thread.
struct Gateway {
    links: Mutex<HashMap<Identity, Link>>,
    idling: Mutex<HashMap<u64, TcpStream>>,
    reserved: Mutex<HashMap<u64, TcpStream>>,
    socket: SocketAddr,
    /// Changes this byte of every forwarded stream.
    corrupt_at: Option<usize>,
}

/// The nonce under which `identity` registers; its first byte is neither 00 nor 07.
fn nonce_of(identity: &Identity) -> u64 {
    u64::from_be_bytes(*identity.as_bytes().last_chunk().unwrap()) | 1 << 63
}

fn start_gateway(profile: Profile, corrupt_at: Option<usize>) -> (SocketAddr, Identity) {
    let key = SecretKey::from_bytes(&[42; 32]).unwrap();
    let identity = key.identity();
    let link_port = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket_port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = link_port.local_addr().unwrap();
    let gateway = Arc::new(Gateway {
        links: Mutex::default(),
        idling: Mutex::default(),
        reserved: Mutex::default(),
        socket: socket_port.local_addr().unwrap(),
        corrupt_at,
    });
    let accepting = Arc::clone(&gateway);
    thread::spawn(move || {
        for stream in link_port.incoming() {
            let (gateway, key) = (Arc::clone(&accepting), key.duplicate());
            thread::spawn(move || gateway.serve_link(stream.unwrap(), &key, profile));
        }
    });
    thread::spawn(move || {
        for stream in socket_port.incoming() {
            let gateway = Arc::clone(&gateway);
            thread::spawn(move || gateway.serve_socket(stream.unwrap()));
        }
    });
    (address, identity)
}

impl Gateway {
    fn serve_link(self: &Arc<Self>, stream: TcpStream, key: &SecretKey, profile: Profile) {
        let options = LinkOptions::with_profile(profile);
        let link = Link::accept_over(stream, key, &options).unwrap();
        self.links.lock().insert(link.remote(), link.clone());
        while let Ok(query) = link.accept(STEP) {
            let text = String::from_utf8(query.query().to_vec()).unwrap();
            match gateway::parse(query.query()) {
                Some(Ok(
                    GatewayOperation::Route { target } | GatewayOperation::Forward { target },
                )) => {
                    // The target's link may not be in the table yet.
                    let far = self.links.lock().get(&target).cloned();
                    let Some(far) = far.map(|far| far.query(&text).unwrap()) else {
                        query.reject(1);
                        continue;
                    };
                    self.join(query.accept(WINDOW_BYTES).unwrap(), far);
                }
                Some(Ok(GatewayOperation::Subscribe)) => {
                    let reply = subscription_reply(4_000_000_000);
                    query.accept(WINDOW_BYTES).unwrap().write_all(&reply).unwrap();
                }
                Some(Ok(GatewayOperation::Register { .. })) => {
                    self.answer_socket(query.accept(WINDOW_BYTES).unwrap(), &link.remote(), 0);
                }
                Some(Ok(GatewayOperation::Connect { target })) => {
                    // The idle connection may be dialed and not yet have said its nonce.
                    let Some(stream) = self.idling.lock().remove(&nonce_of(&target)) else {
                        let refusal = b"\x0derror_message\x00\x00\x00\x04\x00\x02no";
                        query.accept(WINDOW_BYTES).unwrap().write_all(refusal).unwrap();
                        continue;
                    };
                    self.reserved.lock().insert(nonce_of(&target) ^ 1, stream);
                    self.answer_socket(query.accept(WINDOW_BYTES).unwrap(), &target, 1);
                }
                _ => query.reject(1),
            }
        }
    }

    fn answer_socket(&self, mut session: Session, identity: &Identity, change: u64) {
        let nonce = nonce_of(identity) ^ change;
        session.write_all(&socket_object(&Endpoint::Tcp(self.socket), nonce)).unwrap();
    }

    fn serve_socket(&self, mut stream: TcpStream) {
        let mut nonce_object = [0; 20];
        stream.read_exact(&mut nonce_object).unwrap();
        let nonce = u64::from_be_bytes(*nonce_object.last_chunk().unwrap());
        let Some(mut far) = self.reserved.lock().remove(&nonce) else {
            self.idling.lock().insert(nonce, stream);
            return;
        };
        far.write_all(idle::HANDOFF).unwrap();
        let mut acknowledgement = vec![0; idle::HANDOFF_ACK.len()];
        far.read_exact(&mut acknowledgement).unwrap();
        assert_eq!(acknowledgement, idle::HANDOFF_ACK);
        let (near_back, far_back) = (stream.try_clone().unwrap(), far.try_clone().unwrap());
        let end = |stream: &TcpStream| {
            let _ = stream.shutdown(Shutdown::Both);
        };
        self.copy(stream, far, move |to| end(to));
        self.copy(far_back, near_back, move |to| end(to));
    }

    fn join(&self, near: Session, far: Session) {
        let (near_end, far_end) = (near.resetter(), far.resetter());
        let ((near_reader, near_writer), (far_reader, far_writer)) = (near.split(), far.split());
        self.copy(near_reader, far_writer, move |_| far_end.reset());
        self.copy(far_reader, near_writer, move |_| near_end.reset());
    }

    fn copy<R, W>(&self, mut from: R, mut to: W, end: impl FnOnce(&W) + Send + 'static)
    where
        R: Read + Send + 'static,
        W: Write + Send + 'static,
    {
        let corrupt_at = self.corrupt_at;
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            let mut total = 0;
            while let Ok(bytes) = from.read(&mut buffer) {
                if bytes == 0 {
                    break;
                }
                if let Some(at) = corrupt_at
                    && (total..total + bytes).contains(&at)
                {
                    buffer[at - total] ^= 1;
                }
                total += bytes;
                if to.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
            end(&to);
        });
    }
}

fn load(profile: Profile, corrupt_at: Option<usize>, arguments: &str) -> anyhow::Result<Report> {
    let (address, identity) = start_gateway(profile, corrupt_at);
    let line = format!(
        "waystation-load --gateway {address} --identity {identity} --profile {profile} \
         --gateway-pid {} --pairs 2 --window 16 --rounds 2 {arguments}",
        std::process::id()
    );
    let mut options = Options::try_parse_from(line.split_whitespace()).unwrap();
    // Long enough for figures of a test, unless the test says how long.
    if !arguments.contains("--seconds") {
        options.seconds = 0.2;
    }
    run(&options, line)
}

/// Runs and looks for figures that cannot be there without traffic.
fn load_works(profile: Profile, arguments: &str) -> Report {
    let report = load(profile, None, arguments).unwrap();
    let relay = report.relay.as_ref().unwrap();
    assert!(relay.messages_per_second > 10.0, "{report:?}");
    assert!(relay.processor_microseconds_per_message.unwrap() > 0.0, "{report:?}");
    assert!(relay.latency_microseconds.p50 > 0.0, "{report:?}");
    assert!(relay.latency_microseconds.max >= relay.latency_microseconds.p99, "{report:?}");
    assert!(report.messages_checked > 0, "{report:?}");
    report
}

#[test]
fn every_profile_and_style_is_routed() {
    for profile in Profile::ALL {
        for style in ["coalesced", "stock"] {
            load_works(profile, &format!("--path route --style {style} --message-bytes 1000"));
        }
    }
}

#[test]
fn first_generation_is_routed() {
    for profile in [Profile::P0, Profile::P2] {
        load_works(profile, "--path g1 --message-bytes 100");
    }
}

#[test]
fn raw_pipes_are_connected() {
    let report = load_works(Profile::P4, "--path connect --message-bytes 8192");
    assert!(report.relay.unwrap().messages_per_record.is_none());
}

#[test]
fn inner_links_run_on_every_path() {
    for path in ["route", "connect"] {
        for inner in ["p0", "p4"] {
            load_works(Profile::P4, &format!("--path {path} --inner {inner}"));
        }
    }
}

#[test]
fn messages_come_back_with_echo() {
    for path in ["route", "connect"] {
        load_works(Profile::P2, &format!("--path {path} --echo --message-bytes 3000"));
    }
}

#[test]
fn schedule_is_kept_without_a_loop() {
    let report = load_works(Profile::P4, "--path route --rate 500 --seconds 1");
    let per_second = report.relay.unwrap().messages_per_second;
    assert!((800.0..1_200.0).contains(&per_second), "{per_second}");
    load_works(Profile::P4, "--path connect --rate 200 --echo --message-bytes 64");
}

#[test]
fn floor_is_measured_beside_the_relay() {
    let report = load_works(Profile::P4, "--path route --floor");
    let floor = report.floor.unwrap();
    let aead = floor.aead_microseconds_per_message.unwrap();
    let forwarding = floor.forwarding.processor_microseconds_per_message.unwrap();
    assert!(aead > 0.0 && forwarding > 0.0);
    assert!((floor.microseconds_per_message - aead - forwarding).abs() < 1e-9);
    // This gateway's process is the generator's as well, so the floor is far below.
    assert!(floor.efficiency.unwrap() < 1.0);
}

#[test]
fn changed_byte_fails_the_run() {
    for path in ["route", "connect"] {
        // Within the pattern of some early message, far behind the set-up.
        let failed = load(Profile::P4, Some(10_000), &format!("--path {path}"));
        let error = format!("{:#}", failed.unwrap_err());
        assert!(error.contains("round 1 through the relay"), "{error}");
        assert!(error.contains("has other bytes than were sent"), "{error}");
    }
}

#[test]
fn results_are_appended_with_machine_and_command() {
    let folder = std::env::temp_dir().join(format!("waystation-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("results.md");
    let report = load_works(Profile::P0, "--path route");
    report.append_to(&file).unwrap();
    report.append_to(&file).unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(written.matches("\n    waystation-load --gateway").count(), 2);
    assert!(written.contains(&report.machine.kernel));
    let json = written.split("```json\n").nth(1).unwrap().split("\n```").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["options"]["pairs"], 2);
}
