//! Conversations recorded from running nodes, replayed event by event through our machines.
//!
//! The committed ones come with the specification's vectors. More of the same format are taken
//! from the directory that `WAYSTATION_CONVERSATIONS` names: every `*.json` in it is either an
//! object with `conversations` or one conversation.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its functions too")]

mod collector;

use std::collections::BTreeMap;
use std::path::Path;

use collector::{FrameCollector, OwnedFrame, vectors};
use serde_json::Value;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::NonceDecoder;
use waystation_astral::gateway::idle::{self, IdleDecoder, IdleMessage};
use waystation_astral::negotiation::{Acceptor, Dialer, Established, Progress};

const DIRECTORY_VARIABLE: &str = "WAYSTATION_CONVERSATIONS";

#[test]
fn recorded_conversations_replay() {
    let vectors = vectors();
    let conversations = vectors["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 16);
    for conversation in conversations {
        if let Err(failure) = replay(conversation) {
            panic!("{}: {failure}", name_of(conversation));
        }
    }
}

#[test]
fn conversations_of_the_given_directory_replay() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else {
        println!("skipped: needs {DIRECTORY_VARIABLE}");
        return;
    };
    let failures = replay_directory(Path::new(&directory));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn truncated_events_do_not_replay() {
    for conversation in short_conversations() {
        for index in 0..events(&conversation).len() {
            let mut changed = conversation.clone();
            let hex = &mut changed["events"][index]["hex"];
            let text = hex.as_str().unwrap();
            *hex = text[..text.len() - 2].into();
            let failure = replay(&changed).expect_err("a truncated event");
            assert!(failure.event >= Some(index), "{} {index}: {failure}", name_of(&conversation));
        }
    }
}

#[test]
fn events_of_another_profile_do_not_replay() {
    for conversation in short_conversations() {
        for profile in ["P0", "P2", "P4"] {
            let mut changed = conversation.clone();
            changed["profile"] = profile.into();
            let same = changed["profile"] == conversation["profile"];
            assert_eq!(replay(&changed).is_ok(), same, "{} as {profile}", name_of(&conversation));
        }
    }
}

#[test]
fn changed_sockets_do_not_replay() {
    let vectors = vectors();
    let conversation = vectors["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|conversation| conversation["name"] == "prober-as-gateway")
        .unwrap();
    for (index, hex) in [
        (6, "0042000000000bb8"),
        (9, "106d6f642e676174657761792e70696e6700000002"),
        (16, "076e6f6e6365363200000008"),
        (17, "136d6f642e676174657761792e68616e646f666700000000"),
        (18, "106d6f642e676174657761792e70696e670000000101"),
        (99, "420000000000"),
    ] {
        assert_eq!(replay(conversation), Ok(()));
        let mut changed = conversation.clone();
        changed["events"][index]["hex"] = hex.into();
        let failure = replay(&changed).expect_err(hex);
        assert!(failure.event >= Some(index), "{index}: {failure}");
    }
}

#[test]
fn malformed_files_are_named_with_conversation_and_event() {
    let directory = std::env::temp_dir().join(format!("conversations-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let empty = replay_directory(&directory);
    let mut one = short_conversations().remove(0);
    let write = |name: &str, contents: &str| {
        std::fs::write(directory.join(name), contents).unwrap();
    };
    write("good.json", &one.to_string());
    write("other.txt", "not looked at");
    let good = replay_directory(&directory);
    write("no-json.json", "{");
    write("no-conversation.json", r#"{"frames": []}"#);
    one["events"][3]["kind"] = "surprise".into();
    write("bad.json", &serde_json::json!({ "conversations": [one] }).to_string());
    let failures = replay_directory(&directory);
    let missing = replay_directory(&directory.join("absent"));
    std::fs::remove_dir_all(&directory).unwrap();

    assert_eq!(empty.len(), 1, "{empty:?}");
    assert_eq!(good, Vec::<String>::new());
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(failures.len(), 3, "{failures:?}");
    let [bad, no_conversation, no_json] = &failures[..] else { unreachable!() };
    assert!(bad.contains("bad.json: P0 initiator-basic: event 3: "), "{bad}");
    assert!(no_conversation.contains("no-conversation.json: "), "{no_conversation}");
    assert!(no_json.contains("no-json.json: "), "{no_json}");
}

fn short_conversations() -> Vec<Value> {
    let mut vectors = vectors();
    let Value::Array(conversations) = vectors["conversations"].take() else { panic!() };
    conversations.into_iter().filter(|conversation| events(conversation).len() < 100).collect()
}

fn events(conversation: &Value) -> &[Value] {
    conversation["events"].as_array().unwrap()
}

fn name_of(conversation: &Value) -> String {
    let field = |name: &str| conversation[name].as_str().unwrap_or("unnamed").to_owned();
    format!("{} {}", field("profile"), field("name"))
}

/// Replays every file of a directory; gives one line per file or conversation that fails.
fn replay_directory(directory: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("{}: {error}", directory.display())],
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    let mut failures = Vec::new();
    if paths.is_empty() {
        failures.push(format!("{}: no *.json in it", directory.display()));
    }
    for path in paths {
        for failure in replay_file(&path) {
            failures.push(format!("{}: {failure}", path.display()));
        }
    }
    failures
}

fn replay_file(path: &Path) -> Vec<String> {
    let contents = match std::fs::read(path) {
        Ok(contents) => contents,
        Err(error) => return vec![error.to_string()],
    };
    let file: Value = match serde_json::from_slice(&contents) {
        Ok(file) => file,
        Err(error) => return vec![error.to_string()],
    };
    let conversations = match file.get("conversations") {
        Some(Value::Array(conversations)) => conversations.as_slice(),
        Some(_) => return vec!["conversations is not a list".to_owned()],
        None if file.get("events").is_some() => std::slice::from_ref(&file),
        None => return vec!["neither conversations nor events".to_owned()],
    };
    if conversations.is_empty() {
        return vec!["no conversation".to_owned()];
    }
    let results = conversations.iter().map(|conversation| (conversation, replay(conversation)));
    results
        .filter_map(|(conversation, result)| {
            result.err().map(|failure| format!("{}: {failure}", name_of(conversation)))
        })
        .collect()
}

/// Where and why a conversation does not replay; no event when it is the conversation as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    event: Option<usize>,
    why: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.event {
            Some(event) => write!(formatter, "event {event}: {}", self.why),
            None => formatter.write_str(&self.why),
        }
    }
}

/// Who sent an event's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Stock,
    Prober,
}

struct Event {
    index: usize,
    sender: Sender,
    kind: String,
    text: Option<String>,
    bytes: Vec<u8>,
}

/// Replays one conversation: each of its connections by itself, since every event names its own.
fn replay(conversation: &Value) -> Result<(), Failure> {
    let whole = |why: &str| Failure { event: None, why: why.to_owned() };
    let profile = conversation["profile"].as_str().ok_or_else(|| whole("no profile"))?;
    let profile: Profile =
        profile.parse().map_err(|error| whole(&format!("{profile}: {error}")))?;
    let events = conversation["events"].as_array().ok_or_else(|| whole("no events"))?;
    if events.is_empty() {
        return Err(whole("no events"));
    }
    let mut connections: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let at = |why| Failure { event: Some(index), why };
        let (connection, event) = read_event(index, event).map_err(at)?;
        connections.entry(connection).or_default().push(event);
    }
    for (name, events) in connections {
        let result = if name.starts_with("link") {
            replay_link(profile, &events)
        } else if name.starts_with("sock") {
            replay_socket(&events)
        } else {
            Err((events[0].index, format!("unknown kind of connection {name}")))
        };
        result.map_err(|(event, why)| Failure { event: Some(event), why })?;
    }
    Ok(())
}

fn read_event(index: usize, event: &Value) -> Result<(&str, Event), String> {
    let field = |name: &str| event[name].as_str().ok_or_else(|| format!("no {name}"));
    let sender = match field("dir")? {
        "stock->prober" => Sender::Stock,
        "prober->stock" => Sender::Prober,
        other => return Err(format!("unknown direction {other}")),
    };
    let bytes = hex::decode(field("hex")?).map_err(|error| format!("hex: {error}"))?;
    let kind = field("kind")?.to_owned();
    let text = event["text"].as_str().map(str::to_owned);
    Ok((field("conn")?, Event { index, sender, kind, text, bytes }))
}

/// An event's index and what is wrong with it.
type Mismatch = (usize, String);

fn replay_link(profile: Profile, events: &[Event]) -> Result<(), Mismatch> {
    let frames_at = events.iter().position(|event| event.kind != "negotiation");
    let (negotiation, frames) = events.split_at(frames_at.unwrap_or(events.len()));
    if !negotiation.is_empty() {
        replay_negotiation(profile, negotiation)?;
    }
    let mut from_stock = FrameCollector::new(profile);
    let mut from_prober = FrameCollector::new(profile);
    for event in frames {
        let collector = match event.sender {
            Sender::Stock => &mut from_stock,
            Sender::Prober => &mut from_prober,
        };
        replay_frames(profile, event, collector).map_err(|why| (event.index, why))?;
    }
    Ok(())
}

/// Decodes an event's frames in the stream of its direction, and encodes them again.
fn replay_frames(
    profile: Profile,
    event: &Event,
    collector: &mut FrameCollector,
) -> Result<(), String> {
    collector.push(&event.bytes).map_err(|error| error.to_string())?;
    if !collector.at_boundary() {
        return Err("the event ends inside a frame".to_owned());
    }
    let frames = collector.take_frames();
    let encoded: Vec<u8> = frames.iter().flat_map(|frame| frame.encoded(profile)).collect();
    if encoded != event.bytes {
        return Err(format!("encoded again it is {}", hex::encode(encoded)));
    }
    let texts: Vec<String> = frames.iter().map(OwnedFrame::text).collect();
    let kinds: Vec<&str> = texts.iter().filter_map(|text| text.split_whitespace().next()).collect();
    if kinds.join("+") != event.kind {
        return Err(format!("it is {}, not {}", kinds.join("+"), event.kind));
    }
    let (Some(recorded), [text]) = (&event.text, &texts[..]) else { return Ok(()) };
    // Strings are quoted and shortened in ways of the recorder's own.
    let unquoted = |text: &str| text.split(" \"").next().map(str::to_owned);
    if unquoted(text) != unquoted(recorded) {
        return Err(format!("it is {text}"));
    }
    Ok(())
}

/// Plays the prober's role with our machine, then the stock node's where it greeted as we do.
fn replay_negotiation(profile: Profile, events: &[Event]) -> Result<(), Mismatch> {
    let responder = events[0].sender;
    let of_responder = |event: &&Event| event.sender == responder;
    let responded: Vec<u8> =
        events.iter().filter(of_responder).flat_map(|event| event.bytes.clone()).collect();
    let link_id = match profile {
        Profile::P0 => None,
        Profile::P2 | Profile::P4 => responded.last_chunk().copied().map(u64::from_be_bytes),
    };
    let initiator = match responder {
        Sender::Stock => Sender::Prober,
        Sender::Prober => Sender::Stock,
    };
    let acceptor = Acceptor::fixed(profile, link_id.unwrap_or_default());
    let greeted_as_we_do = responded.starts_with(acceptor.greeting());
    if responder == Sender::Prober || greeted_as_we_do {
        play(events, responder, Machine::Acceptor(acceptor), profile, link_id)?;
    }
    play(events, initiator, Machine::Dialer(Dialer::fixed(profile)), profile, link_id)
}

enum Machine {
    Acceptor(Acceptor),
    Dialer(Dialer),
}

/// Feeds `machine` the other side's events; it must have said what `role` says, when it says it.
fn play(
    events: &[Event],
    role: Sender,
    mut machine: Machine,
    profile: Profile,
    link_id: Option<u64>,
) -> Result<(), Mismatch> {
    let mut said = match &machine {
        Machine::Acceptor(acceptor) => acceptor.greeting().to_vec(),
        Machine::Dialer(_) => Vec::new(),
    };
    let mut link: Option<Established> = None;
    for event in events {
        let at = |why| (event.index, why);
        if event.sender == role {
            if !said.starts_with(&event.bytes) {
                return Err(at(format!("we would have said {}", hex::encode(said))));
            }
            said.drain(..event.bytes.len());
            continue;
        }
        if link.is_some() {
            return Err(at("negotiation was over".to_owned()));
        }
        let progress = match &mut machine {
            Machine::Acceptor(acceptor) => acceptor.receive(&event.bytes, &mut said),
            Machine::Dialer(dialer) => dialer.receive(&event.bytes, &mut said),
        };
        match progress.map_err(|error| at(error.to_string()))? {
            Progress::More => {}
            Progress::Done(established) => link = Some(established),
        }
    }
    let last = events.last().map_or(0, |event| event.index);
    if !said.is_empty() {
        return Err((last, format!("we would have gone on with {}", hex::encode(said))));
    }
    let expected = Established { profile, link_id, leftover: Vec::new() };
    if link.as_ref() != Some(&expected) {
        return Err((last, format!("negotiation ended in {link:?}, not {expected:?}")));
    }
    Ok(())
}

/// Runs a connection to a gateway's socket port through the nonce and idle decoders.
fn replay_socket(events: &[Event]) -> Result<(), Mismatch> {
    let mut socket = Socket {
        client: events[0].sender,
        nonce: NonceDecoder::new(),
        presented: false,
        idle: is_idle_connection(events),
        from_client: Direction::default(),
        from_gateway: Direction::default(),
    };
    for event in events {
        let result = match event.kind.as_str() {
            "socket-bytes" => socket.carry(event),
            "pipe" => socket.carry(event).and_then(|pipe_bytes| {
                let whole = pipe_bytes == event.bytes.len();
                if whole { Ok(pipe_bytes) } else { Err("pipe bytes before the pipe".to_owned()) }
            }),
            "socket-end" if event.bytes.is_empty() => socket.end().map(|()| 0),
            other => Err(format!("unknown kind of event {other}")),
        };
        result.map_err(|why| (event.index, why))?;
    }
    let last = events.last().map_or(0, |event| event.index);
    socket.end().map_err(|why| (last, why))
}

/// Whether the connection is a registered node's: then either side's first object is the
/// protocol's, and on a caller's there are pipe bytes from the start.
fn is_idle_connection(events: &[Event]) -> bool {
    const PREFIX: &[u8] = b"mod.gateway.";
    let mut senders = events.iter().map(|event| event.sender);
    let client = senders.next();
    let mut from_gateway = Vec::new();
    let mut from_client = Vec::new();
    for event in events {
        let stream =
            if Some(event.sender) == client { &mut from_client } else { &mut from_gateway };
        stream.extend_from_slice(&event.bytes);
    }
    let nonce_bytes = if from_client.first() == Some(&7) { 20 } else { 8 };
    let behind_nonce = from_client.get(nonce_bytes..).unwrap_or_default();
    [&from_gateway[..], behind_nonce]
        .iter()
        .any(|stream| stream.get(1..).unwrap_or_default().starts_with(PREFIX))
}

struct Socket {
    client: Sender,
    nonce: NonceDecoder,
    presented: bool,
    idle: bool,
    from_client: Direction,
    from_gateway: Direction,
}

#[derive(Default)]
struct Direction {
    decoder: IdleDecoder,
    piped: bool,
}

impl Socket {
    /// Decodes an event's bytes and gives how many of them are the pipe's.
    fn carry(&mut self, event: &Event) -> Result<usize, String> {
        let mut cursor = 0;
        let by_client = event.sender == self.client;
        if by_client && !self.presented {
            let nonce = self.nonce.next(&event.bytes, &mut cursor);
            self.presented = nonce.map_err(|error| error.to_string())?.is_some();
            if !self.presented {
                return Ok(0);
            }
        }
        if !by_client && !self.presented {
            return Err("the gateway speaks before the nonce".to_owned());
        }
        if self.idle {
            let direction = if by_client { &mut self.from_client } else { &mut self.from_gateway };
            direction.read(by_client, &event.bytes, &mut cursor)?;
            let is_early = self.from_client.piped && !self.from_gateway.piped;
            if is_early {
                return Err("the node took a connection that was not given".to_owned());
            }
        }
        Ok(event.bytes.len() - cursor)
    }

    /// Checks that nothing is cut.
    fn end(&self) -> Result<(), String> {
        if !self.presented {
            return Err("the connection ends inside its nonce".to_owned());
        }
        if !self.from_client.decoder.at_boundary() || !self.from_gateway.decoder.at_boundary() {
            return Err("the connection ends inside an object".to_owned());
        }
        Ok(())
    }
}

impl Direction {
    /// Reads objects up to the one behind which this direction is the pipe.
    fn read(&mut self, by_client: bool, input: &[u8], cursor: &mut usize) -> Result<(), String> {
        while !self.piped {
            let found = self.decoder.next(input, cursor).map_err(|error| error.to_string())?;
            let Some(message) = found else { return Ok(()) };
            let (allowed, object): (bool, &[u8]) = match message {
                IdleMessage::Ping => (true, idle::PING),
                IdleMessage::Pong => (true, idle::PONG),
                IdleMessage::Handoff => (!by_client, idle::HANDOFF),
                IdleMessage::HandoffAck => (by_client, idle::HANDOFF_ACK),
            };
            if !allowed {
                return Err(format!("{message:?} from the wrong side"));
            }
            let consumed = input.get(..*cursor).unwrap_or_default();
            let shorter = consumed.len().min(object.len());
            if consumed[consumed.len() - shorter..] != object[object.len() - shorter..] {
                return Err(format!("{message:?} is not {}", hex::encode(object)));
            }
            self.piped = matches!(message, IdleMessage::Handoff | IdleMessage::HandoffAck);
        }
        Ok(())
    }
}
