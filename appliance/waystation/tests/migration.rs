//! A peer that moves a running session from one of its links to another (spec §9.3), over the real
//! process: nothing is lost, and what cannot move stays.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{Got, HandLink};
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::object::{AnswerWriter, Encoding};
use waystation_astral::objects::{MigrateSignal, Migration};
use waystation_peer::secret_key;

const SESSION: u64 = 0xab;
const OPERATION: u64 = 0xcd;
const WINDOW: u32 = 1 << 20;

#[test]
fn session_moves_to_another_link_over_io_uring_and_no_byte_is_lost() {
    moves(PortName::IoUring);
}

#[test]
fn session_moves_to_another_link_over_epoll_and_no_byte_is_lost() {
    moves(PortName::Epoll);
}

fn moves(port: PortName) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, 1));
    let key = secret_key().unwrap();
    let mut old = HandLink::dial_as(&appliance, &key, Profile::P4);
    let old_id = link_ids(&appliance, &old.identity).remove(0);
    let mut new = HandLink::dial_as(&appliance, &key, Profile::P4);
    let ids = link_ids(&appliance, &old.identity);
    let new_id = ids.iter().find(|id| **id != old_id).unwrap();
    let (mut b, at_b) = session(&appliance, &key, &mut old);
    say(&mut old, SESSION, b"on the old link, ");
    say(&mut b, at_b, b"hear ");
    assert_eq!(heard(&mut old, SESSION), b"hear ");

    old.send(&query(OPERATION, &format!("link_id={new_id}&session_id={SESSION:016x}")));
    assert_eq!(next(&mut old), Got::Response { nonce: OPERATION, code: 0, window: WINDOW });
    say(&mut old, OPERATION, &signal(Migration::Ready, WINDOW));
    assert_eq!(next(&mut old), Got::Migrate { nonce: SESSION });
    assert_eq!(heard(&mut old, OPERATION), signal(Migration::Switched, WINDOW));
    // Both still have something to say: one before its marker, the other behind it.
    say(&mut old, SESSION, b"up to the marker, ");
    say(&mut b, at_b, b"the end of the old link and ");
    let mut at_the_target = heard_before_pong(&mut b, at_b);
    old.send(&Frame::Migrate { nonce: SESSION });
    say(&mut old, OPERATION, &signal(Migration::Resume, 0));
    assert_eq!(heard(&mut old, OPERATION), signal(Migration::Done, 0));
    assert_eq!(next(&mut old), Got::Reset { nonce: OPERATION });
    say(&mut new, SESSION, b"and on the new one.");
    say(&mut b, at_b, b"the new one");

    let all = b"on the old link, up to the marker, and on the new one.";
    let rest = all.len() - at_the_target.len();
    at_the_target.extend(heard_up_to(&mut b, at_b, rest));
    assert_eq!(at_the_target, all);
    let all = b"the end of the old link and the new one";
    assert_eq!(heard_up_to(&mut new, SESSION, all.len()), all);
    // The old link may go now; the session ends on the new one.
    drop(old);
    b.send(&Frame::Reset { nonce: at_b });
    assert_eq!(next(&mut new), Got::Reset { nonce: SESSION });
    drop((b, new));
    appliance.wait_until_whole();
}

#[test]
fn unknown_session_and_unknown_link_stay_where_they_are() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let key = secret_key().unwrap();
    let mut old = HandLink::dial_as(&appliance, &key, Profile::P4);
    let new = HandLink::dial_as(&appliance, &key, Profile::P4);
    let id = link_ids(&appliance, &old.identity)[0].clone();
    old.send(&query(1, "link_id=0123456789abcdef&session_id=1"));
    assert_eq!(next(&mut old), Got::Response { nonce: 1, code: 1, window: 0 });
    old.send(&query(2, &format!("link_id={id}&session_id=77")));
    assert_eq!(next(&mut old), Got::Response { nonce: 2, code: 0, window: WINDOW });
    say(&mut old, 2, &signal(Migration::Ready, WINDOW));
    let error = heard(&mut old, 2);
    assert!(error.starts_with(b"\x0derror_message"), "{error:?}");
    assert_eq!(next(&mut old), Got::Reset { nonce: 2 });
    let drops = appliance.drops();
    assert_eq!(drops.get("migration_refused"), Some(&2), "{drops:?}");
    drop((old, new));
    appliance.wait_until_whole();
}

/// A session of `SESSION` from `old` to a link of its own.
fn session(appliance: &Appliance, key: &SecretKey, old: &mut HandLink) -> (HandLink, u64) {
    let mut b = HandLink::dial(appliance, Profile::P4);
    let (caller, target) = (*key.identity().as_bytes(), *b.identity.as_bytes());
    old.send(&Frame::RelayQuery {
        caller: &caller,
        target: &target,
        nonce: SESSION,
        window: WINDOW,
        query: b"test.move",
    });
    let Got::RelayQuery { nonce, .. } = next(&mut b) else { panic!() };
    b.send(&Frame::Response { nonce, code: 0, window: WINDOW });
    assert_eq!(next(old), Got::Response { nonce: SESSION, code: 0, window: WINDOW });
    (b, nonce)
}

fn query(nonce: u64, arguments: &str) -> Frame<'static> {
    let text = format!("nodes.migrate_session?{arguments}");
    Frame::Query { nonce, window: WINDOW, query: text.leak().as_bytes() }
}

fn signal(signal: Migration, window_bytes: u32) -> Vec<u8> {
    let mut writer = AnswerWriter::new(Encoding::C2);
    writer.write(&MigrateSignal { signal, window_bytes }).unwrap();
    writer.into_bytes()
}

fn say(link: &mut HandLink, nonce: u64, payload: &[u8]) {
    link.send(&Frame::Data { nonce, payload });
}

/// The next frame but pings, credit, and queries that the node asks by itself.
fn next(link: &mut HandLink) -> Got {
    loop {
        match link.receive().unwrap() {
            Got::Read { .. } | Got::Ping { .. } => {}
            Got::Query { nonce, .. } => link.send(&Frame::Response { nonce, code: 1, window: 0 }),
            got => return got,
        }
    }
}

fn heard(link: &mut HandLink, nonce: u64) -> Vec<u8> {
    match next(link) {
        Got::Data { nonce: of, payload } if of == nonce => payload,
        got => panic!("{got:?}"),
    }
}

fn heard_up_to(link: &mut HandLink, nonce: u64, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        all.extend(heard(link, nonce));
    }
    all
}

/// What comes before the answer to a ping, which is behind everything the node has taken so far.
fn heard_before_pong(link: &mut HandLink, nonce: u64) -> Vec<u8> {
    link.send(&Frame::Ping { nonce: 2, pong: false });
    let mut all = Vec::new();
    loop {
        match link.receive().unwrap() {
            Got::Ping { nonce: 2, pong: true } => return all,
            Got::Data { nonce: of, payload } if of == nonce => all.extend(payload),
            _ => {}
        }
    }
}

/// The ids of an identity's links, as hexadecimal digits.
fn link_ids(appliance: &Appliance, identity: &Identity) -> Vec<String> {
    let document = appliance.document("/v1/links");
    let rows = document["links"].as_array().unwrap();
    let own = rows.iter().filter(|row| row["identity"] == identity.to_string());
    own.map(|row| row["link_id"].as_str().unwrap().to_owned()).collect()
}
