//! Links go on in the next process: no peer notices, every byte arrives once and in order, and the
//! process before ends at once. What cannot go stays, whole.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that measures says what"
)]

mod support;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, relay, route};
use support::process::{Process, binary, command};
use support::streams::{Ends, Pump, exchange};
use support::{STEP, eventually};
use waystation_astral::frame::Profile;
use waystation_management::stats_socket::client;
use waystation_peer::{RouteForm, Session};

/// What every stream has moved before, during and after a hand-over.
const PUMPED_BYTES: u64 = 300_000;
const EXCHANGE_BYTES: usize = 200_000;
const FRAME_BYTES: usize = 1200;
/// What every conversation has said before, during and after a hand-over.
const FRAMES: u64 = 100;
/// Processes that follow each other.
const UPGRADES: usize = 2;

/// Processes that follow each other, with one stats socket.
struct Line {
    first: Appliance,
    next: Vec<Process>,
}

impl Line {
    fn start(settings: &Settings) -> Self {
        Self { first: Appliance::start(settings), next: Vec::new() }
    }

    /// Has one more process take over; returns what it says of that.
    fn upgrade(&mut self) -> Value {
        let directory = self.first.directory.path();
        let number = self.next.len();
        let before = self.first.status()["started_unix_ms"].clone();
        let mut program = command(&binary());
        program.arg("upgrade").arg("--config").arg(directory.join("waystation.toml"));
        program.arg("--state-dir").arg(directory.join("state"));
        let mut next = Process::spawn(&mut program, &directory.join(format!("log {number}")));
        let told = eventually("the next process serves", || {
            let ended = next.ended();
            assert!(ended.is_none(), "ended with {ended:?}:\n{}", next.log());
            // Until then the socket is the other process's, which may have taken over itself.
            let status = client::get(&self.first.socket, "/v1/status").ok()?;
            let status: Value = serde_json::from_slice(&status).unwrap();
            let is_next = status["started_unix_ms"] != before;
            if is_next { self.events("took_over").pop() } else { None }
        });
        self.next.push(next);
        told
    }

    /// The events of a kind, of the process that has the stats socket now.
    fn events(&self, kind: &str) -> Vec<Value> {
        let Ok(lines) = client::get(&self.first.socket, "/v1/events") else { return Vec::new() };
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let events = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        events.filter(|event| event["kind"] == kind).collect()
    }

    /// Waits for the end of the process before the last, which has nothing left.
    fn expect_end_of_the_one_before(&mut self) {
        let before = match self.next.len() {
            0 | 1 => &mut self.first.process,
            count => &mut self.next[count - 2],
        };
        let status = before.wait(STEP);
        assert!(status.success(), "{status:?}\n{}", before.log());
    }

    fn link_of(&self, node: &Node) -> String {
        let row = self.first.link_row(&node.identity()).expect("it has a link");
        row["link"].as_str().unwrap().to_owned()
    }

    fn old_socket(&self) -> PathBuf {
        PathBuf::from(format!("{}.old", self.first.socket.display()))
    }
}

/// Two ends of a session that say numbered frames to each other, one at a time, so that what waits
/// for a peer to read never keeps its link busy.
struct Conversation {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
    near: JoinHandle<()>,
    far: JoinHandle<()>,
}

impl Conversation {
    fn start(near: Session, far: Session) -> Self {
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ((mut from_far, mut to_far), (mut from_near, mut to_near)) =
            (near.apart(), far.apart());
        let (stops, counts) = (Arc::clone(&stop), Arc::clone(&said));
        let near = thread::spawn(move || {
            let mut answer = [0; FRAME_BYTES];
            for number in 0_u64.. {
                if stops.load(Ordering::SeqCst) {
                    return;
                }
                to_far.write_all(&frame(number)).unwrap();
                to_far.flush().unwrap();
                from_far.read_exact(&mut answer).unwrap();
                assert!(answer == frame(!number), "not the answer to frame {number}");
                counts.fetch_add(1, Ordering::SeqCst);
            }
        });
        let stops = Arc::clone(&stop);
        let far = thread::spawn(move || {
            let mut question = [0; FRAME_BYTES];
            for number in 0_u64.. {
                match from_near.read_exact(&mut question) {
                    Err(_) if stops.load(Ordering::SeqCst) => return,
                    read => read.unwrap(),
                }
                assert!(question == frame(number), "not frame {number}");
                to_near.write_all(&frame(!number)).unwrap();
                to_near.flush().unwrap();
            }
        });
        Self { stop, said, near, far }
    }

    fn wait_for_more(conversations: &[Self]) {
        let said = |it: &Self| it.said.load(Ordering::SeqCst);
        let before: Vec<u64> = conversations.iter().map(said).collect();
        eventually("more frames", || {
            let lost = |it: &Self| it.near.is_finished() || it.far.is_finished();
            assert!(!conversations.iter().any(lost), "a conversation has ended");
            let more = |(it, before): (&Self, &u64)| said(it) >= before + FRAMES;
            conversations.iter().zip(&before).all(more).then_some(())
        });
    }

    fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.near.join().unwrap();
        self.far.join().unwrap();
    }
}

fn frame(number: u64) -> [u8; FRAME_BYTES] {
    let mut frame = [number as u8; FRAME_BYTES];
    frame[..8].copy_from_slice(&number.to_be_bytes());
    frame
}

#[test]
fn links_go_on_over_io_uring_and_no_peer_notices() {
    links_go_on(PortName::IoUring);
}

#[test]
fn links_go_on_over_epoll_and_no_peer_notices() {
    links_go_on(PortName::Epoll);
}

fn links_go_on(port: PortName) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, 2).with("engine", "placement = \"off\"");
    let mut line = Line::start(&settings);
    let nodes = [
        line.first.node_on(Profile::P4, 0),
        line.first.node_on(Profile::P2, 1),
        line.first.node_on(Profile::P0, 0),
        line.first.node_on(Profile::P4, 1),
    ];
    let [a, b, c, d] = &nodes;
    let conversations = [(a, b), (a, c), (c, d)].map(|(near, far)| {
        let (near, far) = route(near, far, RouteForm::G2);
        Conversation::start(near, far)
    });
    // One that says nothing meanwhile.
    let (quiet_near, quiet_far, _) = relay(a, d, "quiet");
    Conversation::wait_for_more(&conversations);
    let links = nodes.each_ref().map(|node| line.link_of(node));
    for _ in 0..UPGRADES {
        let told = line.upgrade();
        println!("{}: {told}", port.name());
        assert_eq!(told["links"], nodes.len(), "{told}");
        Conversation::wait_for_more(&conversations);
        line.expect_end_of_the_one_before();
        assert!(!line.old_socket().exists(), "its socket is left");
        assert_eq!(nodes.each_ref().map(|node| line.link_of(node)), links, "their names");
        // The next process knows who is linked, and asks them.
        let (near, far) = route(b, d, RouteForm::G2);
        exchange("a session that is new", near, far, EXCHANGE_BYTES);
        for node in &nodes {
            node.link.ping(STEP).unwrap();
        }
        assert_eq!(line.events("link_down"), Vec::<Value>::new());
        Conversation::wait_for_more(&conversations);
    }
    exchange("the quiet session", quiet_near, quiet_far, EXCHANGE_BYTES);
    conversations.into_iter().for_each(Conversation::finish);
    // Links that are there count: one more comes up beside them, and all end as they would.
    let one_more = line.first.node(Profile::P4);
    let (near, far) = route(&one_more, a, RouteForm::G2);
    exchange("with one that is new", near, far, EXCHANGE_BYTES);
    drop((nodes, one_more));
    eventually("all links have ended", || {
        (line.events("link_down").len() == links.len() + 1).then_some(())
    });
}

#[test]
fn bulk_arrives_whole_whichever_process_its_links_are_with() {
    for port in [PortName::IoUring, PortName::Epoll] {
        if !port.is_given() {
            continue;
        }
        let settings = Settings::new(port, 2).with("relay", "session_window = \"256KiB\"");
        let mut line = Line::start(&settings);
        let nodes = [Profile::P4, Profile::P2, Profile::P0].map(|it| line.first.node(it));
        let [a, b, c] = &nodes;
        // Their receivers are slow, so that windows and sockets are full.
        let pumps = [(a, b), (b, c), (c, a)].map(|(near, far)| {
            let (near, far) = route(near, far, RouteForm::G2);
            Pump::start("bulk", near, far)
        });
        let all = pumps.each_ref();
        Pump::wait_for(&all, PUMPED_BYTES);
        println!("{}: {}", port.name(), line.upgrade());
        Pump::wait_for(&all, PUMPED_BYTES);
        pumps.into_iter().for_each(Pump::finish);
        drop(nodes);
        line.expect_end_of_the_one_before();
    }
}

#[test]
fn links_that_the_next_process_has_no_room_for_finish_where_they_are() {
    let settings = Settings::new(PortName::Epoll, 2).with("engine", "placement = \"off\"");
    let mut line = Line::start(&settings);
    let (caller, target) = (line.first.node_on(Profile::P4, 0), line.first.node_on(Profile::P0, 0));
    let (near, far) = route(&caller, &target, RouteForm::G2);
    let session = Pump::start("session", near, far);
    Pump::wait_for(&[&session], PUMPED_BYTES);
    let file = line.first.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[engine]\n", "[engine]\nlinks_max = 1\n")).unwrap();
    let told = line.upgrade();
    assert_eq!(told["links"], 0, "{told}");
    Pump::wait_for(&[&session], PUMPED_BYTES);
    session.finish();
    drop((caller, target));
    line.expect_end_of_the_one_before();
}
