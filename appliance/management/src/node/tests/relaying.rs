//! Who may ask in whose name, where a query goes, and what `nodes.relay` prepares.

use super::*;
use crate::node::limits::{
    FORWARD_WINDOW_NS, FORWARDS_PER_TARGET_MAX, PREPARATION_LIFETIME_NS, PREPARATIONS_MAX,
    PREPARATIONS_PER_PEER_MAX,
};
use std::collections::BTreeSet;
use waystation_relay::quota::QuotaLimits;

/// Another gateway.
const FAR: u16 = 0x44;
const TEXT: &str = "conform.relay?x=1";

fn node(trusted: &[u16], forwards: &[u16]) -> Bench {
    let relay = RelayPolicy {
        trusted: trusted.iter().map(|number| identity(*number)).collect(),
        forwards: forwards.iter().map(|number| identity(*number)).collect(),
    };
    Bench::with(NodeSettings { relay, ..NodeSettings::default() })
}

fn linked(bench: &mut Bench, who: u16, slot: u32, profile: Profile) {
    let tag = link(who, slot);
    let up = LinkUp { profile, ..bench.up(who, tag, false) };
    bench.tell(&Report::LinkUp(up));
}

/// A `relay_query` on a link of `peer`.
fn relayed(
    bench: &mut Bench,
    peer: u16,
    caller: Identity,
    target: Identity,
    text: &str,
) -> Command {
    let mut query = bench.query(peer, link_of(peer), text);
    query.relayed = Some(Relayed { caller, target });
    one(bench.ask_as(query).1)
}

fn raw(bench: &mut Bench, who: u16, slot: u32, nonce: u64, text: &str) -> Command {
    let mut query = bench.query(who, link(who, slot), text);
    (query.profile, query.nonce) = (Profile::P2, nonce);
    one(bench.ask_as(query).1)
}

fn preparation(nonce: u64, caller: Option<u16>, target: Option<u16>) -> String {
    let set = |key: &str, who: Option<u16>| {
        who.map_or_else(String::new, |who| format!("&set_{key}={}", identity(who)))
    };
    format!("nodes.relay?nonce={nonce:016x}{}{}", set("caller", caller), set("target", target))
}

/// Where the query went, and in whose name.
fn offered(command: &Command) -> (LinkTag, Option<Relayed>) {
    let Command::Offer { target, relayed, .. } = command else { panic!("{command:?}") };
    (*target, *relayed)
}

fn names(caller: u16, target: u16) -> Option<Relayed> {
    Some(Relayed { caller: identity(caller), target: identity(target) })
}

#[track_caller]
fn assert_code_1(bench: &Bench, command: &Command, reason: DropReason, events: u64) {
    assert!(matches!(command, Command::Reject { code: 1, .. }), "{command:?}");
    assert_eq!(bench.node.counts().refusals.events(reason), events);
}

#[test]
fn peer_asks_for_another_in_its_own_name() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, B, 0, Profile::P4);
    let command = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_eq!(offered(&command), (link_of(B), names(A, B)));
    let events: Vec<_> = bench.node.take_events().collect();
    let (caller, target) = (identity(A), identity(B));
    let wanted = NodeEvent::Relayed { caller, target, from: link_of(A), to: link_of(B) };
    assert_eq!(events.last(), Some(&wanted));
    assert_eq!(bench.node.query_counts().relayed_total, 1);
}

#[test]
fn only_a_trusted_peer_asks_in_the_name_of_others() {
    let mut bench = node(&[OTHER], &[]);
    for who in [A, B, OTHER] {
        linked(&mut bench, who, 0, Profile::P4);
    }
    let (caller, target) = (identity(0x55), identity(B));
    let refused = relayed(&mut bench, A, caller, target, TEXT);
    assert_code_1(&bench, &refused, DropReason::QueryUnauthorized, 1);
    let command = relayed(&mut bench, OTHER, caller, target, TEXT);
    assert_eq!(offered(&command), (link_of(B), names(0x55, B)));

    bench.node.set_settings(NodeSettings::default());
    let refused = relayed(&mut bench, OTHER, caller, target, TEXT);
    assert_code_1(&bench, &refused, DropReason::QueryUnauthorized, 2);
}

#[test]
fn relayed_query_for_this_node_is_one_of_the_caller_it_names() {
    let mut bench = node(&[OTHER], &[]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, OTHER, 0, Profile::P4);
    let own = identity(GATEWAY);
    let register = "gateway.node_register?visibility=public";
    nonce_of(&relayed(&mut bench, A, identity(A), own, register));
    nonce_of(&relayed(&mut bench, OTHER, identity(B), own, register));
    let registered: BTreeSet<_> = bench.node.registrations().map(|row| row.identity).collect();
    assert_eq!(registered, BTreeSet::from([identity(A), identity(B)]));
    let refused = relayed(&mut bench, A, identity(B), own, register);
    assert_code_1(&bench, &refused, DropReason::QueryUnauthorized, 1);
}

#[test]
fn query_that_names_nobody_is_rejected() {
    let mut bench = node(&[A], &[B]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, B, 0, Profile::P4);
    let nobody = Identity::ANYONE;
    let refused = relayed(&mut bench, A, nobody, identity(B), TEXT);
    assert_code_1(&bench, &refused, DropReason::MalformedQuery, 1);
    let refused = relayed(&mut bench, A, identity(A), nobody, TEXT);
    assert_code_1(&bench, &refused, DropReason::MalformedQuery, 2);
}

#[test]
fn target_without_a_link_is_not_reachable() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P4);
    let refused = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 1);
}

#[test]
fn relayed_query_never_returns_on_the_asking_link_and_prefers_an_outer_one() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P4);
    let refused = relayed(&mut bench, A, identity(A), identity(A), TEXT);
    assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 1);
    bench.link(A, link(A, 1), true);
    let command = relayed(&mut bench, A, identity(A), identity(A), TEXT);
    assert_eq!(offered(&command).0, link(A, 1));
    bench.link(A, link(A, 2), false);
    let command = relayed(&mut bench, A, identity(A), identity(A), TEXT);
    assert_eq!(offered(&command).0, link(A, 2));
}

#[test]
fn unknown_target_is_asked_for_at_the_first_linked_gateway() {
    let mut bench = node(&[], &[OTHER, FAR]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, FAR, 0, Profile::P4);
    let command = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_eq!(offered(&command), (link_of(FAR), names(A, B)));
    linked(&mut bench, OTHER, 0, Profile::P4);
    let command = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_eq!(offered(&command), (link_of(OTHER), names(A, B)));
    assert_eq!(bench.node.query_counts().forwarded_total, 2);
    linked(&mut bench, B, 0, Profile::P4);
    let command = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_eq!(offered(&command), (link_of(B), names(A, B)));
    assert_eq!(bench.node.query_counts().forwarded_total, 2);
}

#[test]
fn gateway_that_cannot_be_told_the_target_is_not_asked() {
    let mut bench = node(&[], &[OTHER]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, OTHER, 0, Profile::P2);
    let refused = relayed(&mut bench, A, identity(A), identity(B), TEXT);
    assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 1);
    let text = format!("gateway.node_route?target={}", identity(B));
    assert_eq!(offered(&bench.ask(A, &text)), (link_of(OTHER), None), "its string says the target");
}

#[test]
fn query_passes_at_most_two_gateways() {
    let b = identity(B);
    for (trusted, forwards) in [(&[][..], &[FAR, OTHER][..]), (&[FAR], &[OTHER])] {
        let mut bench = node(trusted, forwards);
        linked(&mut bench, FAR, 0, Profile::P4);
        linked(&mut bench, OTHER, 0, Profile::P4);
        let refused = relayed(&mut bench, FAR, identity(FAR), b, TEXT);
        assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 1);
        let refused = bench.ask(FAR, &format!("gateway.node_route?target={b}"));
        assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 2);
    }
}

#[test]
fn pipes_to_unknown_targets_go_to_the_next_gateway_and_connect_does_not() {
    let mut bench = node(&[], &[FAR]);
    linked(&mut bench, A, 0, Profile::P0);
    linked(&mut bench, FAR, 0, Profile::P4);
    let b = identity(B);
    for text in [format!("gateway.node_route?target={b}"), format!(".gateway.{b}")] {
        let command = bench.ask(A, &text);
        assert_eq!(offered(&command), (link_of(FAR), None));
        assert!(matches!(command, Command::Offer { query, .. } if *query == *text.as_bytes()));
    }
    let refused = bench.ask(A, &format!("gateway.node_connect?target={b}"));
    assert!(bytes_of(&refused).starts_with(b"\x0derror_message"));
}

#[test]
fn circle_of_gateways_comes_to_an_end() {
    let mut bench = node(&[], &[FAR]);
    linked(&mut bench, FAR, 0, Profile::P4);
    linked(&mut bench, OTHER, 0, Profile::P4);
    // What goes to FAR comes back by OTHER, which this node does not know as a gateway.
    let text = format!("gateway.node_route?target={}", identity(B));
    for _ in 0..FORWARDS_PER_TARGET_MAX {
        assert_eq!(offered(&bench.ask(OTHER, &text)).0, link_of(FAR));
    }
    let refused = bench.ask(OTHER, &text);
    assert_code_1(&bench, &refused, DropReason::TargetNotReachable, 1);
    let other = format!("gateway.node_route?target={}", identity(A));
    assert_eq!(offered(&bench.ask(OTHER, &other)).0, link_of(FAR), "others are not kept out");
    bench.now_ns += FORWARD_WINDOW_NS;
    assert_eq!(offered(&bench.ask(OTHER, &text)).0, link_of(FAR), "not for ever");
}

#[test]
fn prepared_query_is_relayed_once() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P2);
    linked(&mut bench, B, 0, Profile::P2);
    let ack = raw(&mut bench, A, 0, 7, &preparation(0xabc, None, Some(B)));
    assert_eq!(hex::encode(bytes_of(&ack)), "0361636b00000000");
    assert_eq!(offered(&raw(&mut bench, A, 0, 0xabc, TEXT)), (link_of(B), names(A, B)));
    let refused = raw(&mut bench, A, 0, 0xabc, TEXT);
    assert_code_1(&bench, &refused, DropReason::UnknownQuery, 1);
    assert_eq!(bench.node.query_counts().prepared, 0);
}

#[test]
fn p0_peer_gets_its_ack_as_it_was_framed_then() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P0);
    let mut query = bench.query(A, link_of(A), &preparation(1, None, Some(B)));
    query.profile = Profile::P0;
    let ack = one(bench.ask_as(query).1);
    assert_eq!(hex::encode(bytes_of(&ack)), "00040361636b");
}

#[test]
fn copies_of_a_prepared_query_on_other_links_are_forgotten() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P2);
    linked(&mut bench, A, 1, Profile::P2);
    linked(&mut bench, B, 0, Profile::P2);
    bytes_of(&raw(&mut bench, A, 0, 7, &preparation(8, None, Some(B))));
    let copy = raw(&mut bench, A, 1, 7, &preparation(8, None, Some(B)));
    assert!(matches!(copy, Command::Forget { .. }));
    assert_eq!(offered(&raw(&mut bench, A, 1, 8, TEXT)).0, link_of(B));
    assert!(matches!(raw(&mut bench, A, 0, 8, TEXT), Command::Forget { .. }));
}

#[test]
fn preparation_holds_for_its_own_peer_alone() {
    let mut bench = node(&[], &[]);
    for who in [A, B, OTHER] {
        linked(&mut bench, who, 0, Profile::P2);
    }
    bytes_of(&raw(&mut bench, A, 0, 7, &preparation(8, None, Some(B))));
    let refused = raw(&mut bench, OTHER, 0, 8, TEXT);
    assert_code_1(&bench, &refused, DropReason::UnknownQuery, 1);
    assert_eq!(offered(&raw(&mut bench, A, 0, 8, TEXT)).0, link_of(B));
}

#[test]
fn preparation_for_a_caller_needs_trust() {
    let mut bench = node(&[OTHER], &[]);
    for who in [A, B, OTHER] {
        linked(&mut bench, who, 0, Profile::P2);
    }
    let refused = raw(&mut bench, A, 0, 7, &preparation(8, Some(0x55), Some(B)));
    let text = "not allowed to speak for that caller";
    assert_eq!(bytes_of(&refused), waystation_astral::object::error_message(text));
    assert_eq!(bench.node.counts().refusals.events(DropReason::QueryUnauthorized), 1);
    bytes_of(&raw(&mut bench, OTHER, 0, 7, &preparation(8, Some(0x55), Some(B))));
    assert_eq!(offered(&raw(&mut bench, OTHER, 0, 8, TEXT)), (link_of(B), names(0x55, B)));

    bytes_of(&raw(&mut bench, OTHER, 0, 9, &preparation(10, Some(0x55), Some(B))));
    bench.node.set_settings(NodeSettings::default());
    let refused = raw(&mut bench, OTHER, 0, 10, TEXT);
    assert_code_1(&bench, &refused, DropReason::QueryUnauthorized, 2);
}

#[test]
fn preparation_without_its_query_is_forgotten_after_a_minute() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P2);
    linked(&mut bench, B, 0, Profile::P2);
    bytes_of(&raw(&mut bench, A, 0, 7, &preparation(8, None, Some(B))));
    let due_ns = bench.now_ns + PREPARATION_LIFETIME_NS;
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));
    bench.now_ns = due_ns;
    let refused = raw(&mut bench, A, 0, 8, TEXT);
    assert_code_1(&bench, &refused, DropReason::UnknownQuery, 1);
    let counts = bench.node.query_counts();
    assert_eq!((counts.prepared, counts.preparations_expired_total), (0, 1));
    assert_eq!(bench.node.next_deadline_ns(), None);
}

#[test]
fn preparations_are_bounded_for_each_peer_and_in_total() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P2);
    let mut nonce = 0;
    let mut ask = |bench: &mut Bench, who: u16| {
        nonce += 2;
        raw(bench, who, 0, nonce, &preparation(nonce + 1, None, Some(B)))
    };
    for _ in 0..PREPARATIONS_PER_PEER_MAX {
        assert_eq!(hex::encode(bytes_of(&ask(&mut bench, A))), "0361636b00000000");
    }
    let full = waystation_astral::object::error_message("too many prepared queries");
    assert_eq!(bytes_of(&ask(&mut bench, A)), full);
    let again = raw(&mut bench, A, 0, 1, &preparation(3, None, Some(B)));
    assert_eq!(hex::encode(bytes_of(&again)), "0361636b00000000", "one that replaces its like");
    let peers = PREPARATIONS_MAX / PREPARATIONS_PER_PEER_MAX;
    for who in 1..peers {
        let who = 0x100 + u16::try_from(who).unwrap();
        linked(&mut bench, who, 0, Profile::P2);
        for _ in 0..PREPARATIONS_PER_PEER_MAX {
            bytes_of(&ask(&mut bench, who));
        }
    }
    assert_eq!(bench.node.query_counts().prepared, PREPARATIONS_MAX);
    linked(&mut bench, B, 0, Profile::P2);
    assert_eq!(bytes_of(&ask(&mut bench, B)), full);
    assert_eq!(bench.node.counts().refusals.events(DropReason::ManagementBusy), 2);
}

#[test]
fn p4_peer_prepares_nothing() {
    let mut bench = node(&[], &[]);
    linked(&mut bench, A, 0, Profile::P4);
    let refused = bench.ask(A, &preparation(8, None, Some(B)));
    assert_code_1(&bench, &refused, DropReason::UnknownQuery, 1);
}

#[test]
fn relayed_session_passes_no_faster_than_both_quotas() {
    let mut bench = node(&[], &[]);
    let limits = QuotaLimits { sessions: 1, bytes_per_s: Some(1), burst_bytes: 1 };
    let (of_a, of_b) = (Quota::new(limits), Quota::new(limits));
    bench.quotas.extend([(identity(A), of_a.clone()), (identity(B), of_b.clone())]);
    linked(&mut bench, A, 0, Profile::P4);
    linked(&mut bench, B, 0, Profile::P4);
    let mut query = bench.query(A, link_of(A), TEXT);
    query.relayed = names(A, B);
    let (asked, commands) = bench.ask_as(query);
    let [Command::Pace { leg, pace }, Command::Offer { caller, pace: Some(offered), .. }] =
        &commands[..]
    else {
        panic!("{commands:?}");
    };
    assert_eq!((*leg, *caller), (asked, asked));
    assert!(Arc::ptr_eq(pace, &of_b) && Arc::ptr_eq(offered, &of_a));
}

#[test]
fn first_and_last_link_of_an_identity_are_told() {
    let mut bench = node(&[], &[]);
    let told = |bench: &mut Bench| -> Vec<_> {
        let is_change = |event: &NodeEvent| {
            matches!(event, NodeEvent::Linked { .. } | NodeEvent::Unlinked { .. })
        };
        bench.node.take_events().filter(is_change).collect()
    };
    let a = identity(A);
    bench.link(A, link(A, 0), false);
    assert_eq!(told(&mut bench), [NodeEvent::Linked { identity: a }]);
    bench.link(A, link(A, 1), true);
    bench.unlink(A, link(A, 0));
    assert_eq!(told(&mut bench), []);
    bench.unlink(A, link(A, 1));
    assert_eq!(told(&mut bench), [NodeEvent::Unlinked { identity: a }]);
}

#[test]
fn events_that_nobody_takes_are_counted_and_gone() {
    let mut bench = node(&[], &[]);
    for _ in 0..crate::node::limits::EVENTS_MAX {
        bench.link(A, link(A, 0), false);
        bench.unlink(A, link(A, 0));
    }
    assert_eq!(bench.node.take_events().count(), crate::node::limits::EVENTS_MAX);
    let all = 4 * crate::node::limits::EVENTS_MAX as u64;
    assert_eq!(bench.node.events_lost(), all - crate::node::limits::EVENTS_MAX as u64);
}
