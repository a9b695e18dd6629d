//! Queries for a third node: what leaves this side, and what a relay's answers come to.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::io::Read;
use std::thread;
use support::{OptionsPair, STEP, key, link_pair};
use waystation_astral::frame::Profile;
use waystation_astral::object::{ChannelForm, type_names, write_object};
use waystation_peer::{Link, LinkOptions, PeerError};

fn links(profile: Profile) -> (Link, Link) {
    link_pair(&OptionsPair::of(LinkOptions::with_profile(profile)))
}

fn object(form: ChannelForm, type_name: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_object(form, type_name, payload, &mut bytes).unwrap();
    bytes
}

#[test]
fn p4_names_caller_and_target_in_the_query_itself() {
    let options = LinkOptions { trusts_relay: true, ..LinkOptions::with_profile(Profile::P4) };
    let (node, relay) = link_pair(&OptionsPair::of(options));
    let (app, target) = (key(8).identity(), key(7).identity());
    let own = node.local();
    let asking = thread::spawn(move || {
        node.query_relayed(&target, "x.y").map(drop).unwrap();
        node.query_relayed_for(&app, &target, "x.y").map(drop)
    });
    let query = relay.accept(STEP).unwrap();
    assert_eq!((query.caller(), query.target(), query.query()), (own, target, &b"x.y"[..]));
    drop(query.accept(1024).unwrap());
    let query = relay.accept(STEP).unwrap();
    assert_eq!((query.caller(), query.target()), (app, target));
    query.reject(1);
    let refused = asking.join().unwrap();
    assert!(matches!(refused, Err(PeerError::Rejected { code: 1 })), "{refused:?}");
}

#[test]
fn nobody_speaks_for_somebody_else_unless_trusted() {
    let (node, _untrusting) = links(Profile::P4);
    let (app, target) = (key(8).identity(), key(7).identity());
    let refused = node.query_relayed_for(&app, &target, "x.y").map(drop);
    assert!(matches!(refused, Err(PeerError::Rejected { code: 1 })), "{refused:?}");
}

#[test]
fn raw_profiles_prepare_the_nonce_of_the_query() {
    for (profile, form) in [
        (Profile::P0, ChannelForm::C1),
        (Profile::P2, ChannelForm::C1),
        (Profile::P2, ChannelForm::C2),
    ] {
        let (node, relay) = links(profile);
        let target = key(7).identity();
        let asking = thread::spawn(move || {
            let mut session = node.query_relayed(&target, "x.y").unwrap();
            let mut answer = String::new();
            session.read_to_string(&mut answer).unwrap();
            (session.nonce(), answer)
        });
        let preparation = relay.accept(STEP).unwrap();
        let text = String::from_utf8(preparation.query().to_vec()).unwrap();
        preparation.answer(1024, &object(form, type_names::ACK, &[])).unwrap();
        let query = relay.accept(STEP).unwrap();
        assert_eq!(query.query(), b"x.y");
        query.answer(1024, b"here").unwrap();
        let (nonce, answer) = asking.join().unwrap();
        assert_eq!(text, format!("nodes.relay?nonce={nonce:016x}&set_target={target}"));
        assert_eq!(answer, "here", "{profile} {form:?}");
    }
}

#[test]
fn refused_preparation_carries_the_words_of_the_relay() {
    let (node, relay) = links(Profile::P0);
    let target = key(7).identity();
    let asking = thread::spawn(move || node.query_relayed(&target, "x.y").map(drop));
    let mut text = vec![0, 6];
    text.extend_from_slice(b"denied");
    let refusal = object(ChannelForm::C1, type_names::ERROR_MESSAGE_OLD, &text);
    relay.accept(STEP).unwrap().answer(1024, &refusal).unwrap();
    let refused = asking.join().unwrap();
    assert!(
        matches!(&refused, Err(PeerError::Refused { text }) if text == "denied"),
        "{refused:?}"
    );
}

#[test]
fn objects_of_an_answer_are_read_up_to_its_end() {
    let (node, service) = links(Profile::P4);
    let serving = thread::spawn(move || {
        let mut answer = object(ChannelForm::C2, "uint8", &[21]);
        answer.extend(object(ChannelForm::C2, "uint8", &[22]));
        // One answer ends with its session, the other says so before.
        service.accept(STEP).unwrap().answer(1024, &answer).unwrap();
        answer.extend(object(ChannelForm::C2, type_names::EOS, &[]));
        let mut session = service.accept(STEP).unwrap().accept(1024).unwrap();
        std::io::Write::write_all(&mut session, &answer).unwrap();
        session
    });
    for query in ["x.list", "x.list?all=true"] {
        let objects = node.ask_objects(query).unwrap();
        let payloads: Vec<_> = objects.iter().map(|object| object.payload.as_slice()).collect();
        assert_eq!(payloads, [&[21][..], &[22][..]], "{query}");
    }
    drop(serving.join().unwrap());
}
