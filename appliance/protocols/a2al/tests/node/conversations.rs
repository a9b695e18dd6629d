//! Conversations recorded with a node of the first implementation, held again with this one.
//!
//! The same key, clock, addresses and datagrams have to give the same bytes, except for what is
//! listed here with its reason.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use waystation_a2al::keys::SigningKey;
use waystation_a2al::message::{self, Body, Message, Parsed, TransactionId};
use waystation_a2al::node::{Node, NodeConfig, Outgoing};
use waystation_a2al::time::{Millis, Now, UnixSeconds};

use super::vectors::{array, read};

/// Requests after which this node does something else on purpose: what the request is, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("STORE ttl 2^32-1: accepted", "nothing is kept for more than 30 days (T6)"),
    ("STORE topic without key: lands at NodeID(address)", "a topic stands under its own key"),
    ("FIND_VALUE there", "so nothing is there"),
    ("STORE under the key of another topic: accepted", "a topic stands under its own key"),
    ("STORE in a datagram of 1323 bytes: accepted", "nobody could read it again"),
    ("unknown body key 99, signed as sent", "later versions are understood"),
    ("echo probe", "an echo service reflects for anybody (4.1)"),
    ("FIND_VALUE next to one node", "the record is answered without the node (3.5)"),
    ("FIND_VALUE", "after a STORE that was not accepted, nothing is there"),
];

fn expected_difference(meaning: &str) -> bool {
    DIFFERENT.iter().any(|(request, _)| *request == meaning)
}

struct Play {
    node: Node,
    keys: BTreeMap<String, SigningKey>,
    waiting: Vec<Outgoing>,
    unix: u64,
    /// The last push to each address: its acknowledgement has to name this node's transaction.
    pushes: BTreeMap<SocketAddr, TransactionId>,
}

impl Play {
    fn new(conversation: &Value) -> Self {
        let seed = array(&conversation["node"]["seed"]);
        let unix = conversation["clock"].as_u64().unwrap();
        let now = Now { millis: Millis(0), unix: UnixSeconds(unix) };
        // Everybody is in one network there.
        let config = NodeConfig { is_diverse: false, ..NodeConfig::default() };
        let key = SigningKey::from_seed(&seed).unwrap();
        let keys = conversation["keys"].as_object().unwrap();
        let keys = keys
            .iter()
            .map(|(name, key)| (name.clone(), SigningKey::from_seed(&array(&key["seed"])).unwrap()))
            .collect();
        let node = Node::new(key, config, [3; 32], 0, now);
        Self { node, keys, waiting: Vec::new(), unix, pushes: BTreeMap::new() }
    }

    fn now(&self, step: &Value) -> Now {
        let ms = step["ms"].as_u64().unwrap();
        Now { millis: Millis(ms), unix: UnixSeconds(self.unix + ms / 1000) }
    }

    /// Gives the node a datagram. What it then asks the peer itself is answered at once, as the
    /// recorded peers would have.
    fn give(&mut self, step: &Value, bytes: &[u8]) {
        let (name, at) = peer(step);
        let now = self.now(step);
        self.node.receive(&self.adapted(bytes, &name, at), at, now);
        while let Some(outgoing) = self.node.take_datagram() {
            let message = Parsed::parse(&outgoing.bytes).unwrap().verify().unwrap();
            match (message.body, self.keys.get(&name)) {
                (Body::Ping { .. }, Some(key)) => {
                    let observed = outgoing.to;
                    let pong = Body::Pong { address: key.address(), observed };
                    let packet = message::encode(key, message.transaction, &pong);
                    self.node.receive(&packet, outgoing.to, now);
                }
                (body, _) => {
                    if matches!(body, Body::Push { .. }) {
                        self.pushes.insert(outgoing.to, message.transaction);
                    }
                    self.waiting.push(outgoing);
                }
            }
        }
    }

    /// A recorded acknowledgement, made one of this node's push.
    fn adapted(&self, bytes: &[u8], name: &str, at: SocketAddr) -> Vec<u8> {
        let message = Parsed::parse(bytes).and_then(Parsed::verify);
        match (message, self.pushes.get(&at), self.keys.get(name)) {
            (Ok(message), Some(push), Some(key))
                if matches!(message.body, Body::PushAcknowledgement { .. }) =>
            {
                message::encode(key, *push, &message.body)
            }
            _ => bytes.to_vec(),
        }
    }

    fn taken_for(&mut self, at: SocketAddr) -> Option<Vec<u8>> {
        let place = self.waiting.iter().position(|outgoing| outgoing.to == at)?;
        Some(self.waiting.remove(place).bytes)
    }
}

fn peer(step: &Value) -> (String, SocketAddr) {
    let words: Vec<&str> = step["peer"].as_str().unwrap().split(' ').collect();
    (words[0].to_owned(), words[words.len() - 1].parse().unwrap())
}

fn read_message(bytes: &[u8]) -> Message {
    Parsed::parse(bytes).unwrap().verify().unwrap()
}

/// Whether two answers are the same but for what chance decides, or who has proved to be where.
fn is_alike(ours: &Message, theirs: &Message) -> bool {
    let is_within = |ours: &Option<Vec<_>>, theirs: &Option<Vec<_>>| {
        let theirs: Vec<_> = theirs.iter().flatten().collect();
        ours.iter().flatten().all(|node| theirs.contains(&node))
    };
    match (&ours.body, &theirs.body) {
        (
            Body::FindNodeResponse { nodes: ours, observed: our_view },
            Body::FindNodeResponse { nodes: theirs, observed },
        ) => our_view == observed && is_within(ours, theirs),
        (
            Body::FindValueResponse { nodes: ours, observed: our_view, records, .. },
            Body::FindValueResponse { nodes: theirs, observed, records: their_records, .. },
        ) => {
            our_view == observed
                && is_within(ours, theirs)
                && records.len() == their_records.len()
                && (records == their_records || records.len() == 3)
        }
        (ours, theirs) => ours == theirs,
    }
}

/// How answers compared.
#[derive(Clone, Copy, Debug, Default)]
struct Comparison {
    same: usize,
    alike: usize,
    different: usize,
}

/// Holds every conversation of a file again.
///
/// # Panics
/// Where an answer is neither as it was nor different on purpose.
fn replay(captures: &Value) -> Comparison {
    let mut compared = Comparison::default();
    for conversation in captures["conversations"].as_array().unwrap() {
        if conversation["name"] == "bootstrap_from_us" {
            // There the node asks, with transactions of its own.
            continue;
        }
        let mut play = Play::new(conversation);
        let mut request = String::new();
        for step in conversation["steps"].as_array().unwrap() {
            let meaning = step["meaning"].as_str().unwrap();
            let (_, at) = peer(step);
            let place = format!("{}: {request} -> {meaning}", conversation["name"]);
            let hex = step["hex"].as_str().map(|hex| hex::decode(hex).unwrap());
            match (step["dir"].as_str().unwrap(), hex) {
                ("to_node", Some(bytes)) => {
                    meaning.clone_into(&mut request);
                    play.give(step, &bytes);
                }
                ("from_node", Some(theirs)) => {
                    let ours = play.taken_for(at);
                    if ours.as_ref() == Some(&theirs) {
                        compared.same += 1;
                        continue;
                    }
                    let is_alike = ours.is_some_and(|ours| {
                        Parsed::parse(&theirs).is_ok()
                            && is_alike(&read_message(&ours), &read_message(&theirs))
                    });
                    compared.alike += usize::from(is_alike);
                    compared.different += usize::from(!is_alike);
                    assert!(is_alike || expected_difference(&request), "{place}");
                }
                ("silence", _) => {
                    let is_silent = play.taken_for(at).is_none();
                    compared.different += usize::from(!is_silent);
                    assert!(is_silent || expected_difference(&request), "{place}");
                }
                other => panic!("an unknown step: {other:?}"),
            }
        }
    }
    compared
}

#[test]
fn recorded_conversations_go_as_they_went_but_for_what_is_meant_to_differ() {
    let compared = replay(&read("a2al-captures.json"));
    assert!(compared.same >= 80, "{compared:?}");
    assert!(compared.different <= 10, "{compared:?}");
}

#[test]
fn conversations_of_a_directory_that_the_environment_names_go_as_they_went() {
    let Some(directory) = std::env::var_os("WAYSTATION_CONVERSATIONS") else {
        println!("skipped: needs WAYSTATION_CONVERSATIONS, a directory of recorded conversations");
        return;
    };
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        // Other protocols' conversations may lie there as well; these are told by their form.
        let text = std::fs::read(&file).unwrap_or_default();
        let Ok(captures) = serde_json::from_slice::<Value>(&text) else { continue };
        let first = &captures["conversations"][0];
        if first["node"]["seed"].is_string() && first["steps"][0]["dir"].is_string() {
            println!("{}: {:?}", file.display(), replay(&captures));
        }
    }
}
