//! What this node says about itself, to whom, and in which era's words.

use super::*;
use crate::node::limits::{
    LISTING_PAUSE_NS, LISTING_TIMEOUT_NS, LISTINGS_PER_PEER_MAX, LISTINGS_WAITING_MAX,
};
use std::collections::{BTreeMap, BTreeSet};
use waystation_astral::object::{ChannelForm, peek_object};
use waystation_astral::objects::{
    EndpointWithTtl, LinkInfo, ServiceUpdate, SessionInfo, StreamInfo,
};
use waystation_engine::control::{LinkRow, SessionKind, SessionRow};
use waystation_relay::limiting::HeldUp;

fn settings() -> ServiceSettings {
    ServiceSettings {
        alias: "box \"7\"".to_owned(),
        listen: vec!["0.0.0.0:1795".parse().unwrap(), "192.0.2.9:4000".parse().unwrap()],
        ..ServiceSettings::default()
    }
}

fn node(services: ServiceSettings) -> Bench {
    let mut bench = Bench::with(NodeSettings { services, ..NodeSettings::default() });
    for who in [A, B] {
        bench.link(who, link_of(who), false);
    }
    bench
}

fn ask_as(bench: &mut Bench, profile: Profile, text: &str) -> Vec<Command> {
    let mut query = bench.query(A, link_of(A), text);
    query.profile = profile;
    bench.ask_as(query).1
}

fn objects(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some(object) = peek_object(ChannelForm::C2, rest, 65_536).unwrap() {
        found.push((object.type_name.to_owned(), object.payload.to_vec()));
        rest = &rest[object.bytes..];
    }
    assert!(rest.is_empty(), "{}", hex::encode(rest));
    found
}

/// What the cores were asked to list: one listing for each.
fn asked(commands: Vec<Command>) -> Vec<Listing> {
    let listing = |command| match command {
        Command::ReportListing { listing } => *listing,
        other => panic!("{other:?}"),
    };
    let listings: Vec<_> = commands.into_iter().map(listing).collect();
    assert_eq!(listings.len(), CORES);
    listings
}

/// Answers for all cores, the last of which has these rows.
fn answer(
    bench: &mut Bench,
    mut listings: Vec<Listing>,
    links: Vec<LinkRow>,
    sessions: Vec<SessionRow>,
) -> Command {
    let mut last = listings.pop().unwrap();
    for (core, listing) in (0..).zip(listings) {
        assert!(
            bench
                .tell(&Report::Listing { core: CoreId(core), listing: Box::new(listing) })
                .is_empty()
        );
    }
    (last.links, last.sessions) = (links, sessions);
    let core = CoreId(u16::try_from(CORES - 1).unwrap());
    one(bench.tell(&Report::Listing { core, listing: Box::new(last) }))
}

fn link_row(who: u16) -> LinkRow {
    LinkRow {
        link: link_of(who),
        identity: identity(who),
        profile: Profile::P4,
        link_id: 1,
        remote: "203.0.113.7:41000".parse().unwrap(),
        local: local_of(link_of(who)),
        inner: false,
        network: Network::Tcp,
        outbound: false,
        age_ns: 5,
        idle_ns: 6,
        sessions: 2,
        bytes_in: 1000,
        bytes_out: 24,
        frames_in: 12,
        frames_out: 13,
        queued_bytes: 0,
        ping_ns: 0,
        held_up: HeldUp::default(),
    }
}

fn session_row(who: u16, nonce: u64, age_ns: u64) -> SessionRow {
    SessionRow {
        leg: LegTag { core: CoreId(0), slot: 3, generation: 1 },
        link: link_of(who),
        nonce,
        kind: SessionKind::Caller,
        outbound: false,
        query: b"conform.one".as_slice().into(),
        identity: identity(who),
        age_ns,
        bytes_in: 2,
        bytes_out: 3,
        queued_bytes: 4,
        send_credit_bytes: 5,
        held_up: HeldUp::default(),
    }
}

#[test]
fn profile_says_alias_and_endpoints_until_when() {
    let mut bench = node(settings());
    let command = one(ask_as(&mut bench, Profile::P0, ".profile"));
    let line = str::from_utf8(bytes_of(&command)).unwrap();
    assert_eq!(
        line,
        "{\"alias\":\"box \\\"7\\\"\",\"endpoints\":[\
         {\"network\":\"tcp\",\"address\":\"198.51.100.9:1795\",\
         \"expires_at\":\"2026-01-18T12:00:00Z\"},\
         {\"network\":\"tcp\",\"address\":\"192.0.2.9:4000\",\
         \"expires_at\":\"2026-01-18T12:00:00Z\"}]}\n"
    );
}

#[test]
fn own_endpoints_are_resolved_in_the_words_of_each_era() {
    let mut bench = node(settings());
    let text = format!("nodes.resolve_endpoints?id={}", identity(GATEWAY));
    let new = one(ask_as(&mut bench, Profile::P4, &text));
    let found = objects(bytes_of(&new));
    assert_eq!(found.len(), 3);
    let first = EndpointWithTtl::decode(&found[0].1).unwrap();
    assert_eq!(first.endpoint.to_string(), "tcp:198.51.100.9:1795");
    assert_eq!(first.ttl_s, Some(7_776_000));
    assert_eq!(found[2].0, "eos");
    let old = one(ask_as(&mut bench, Profile::P0, &text));
    let bare = "0018106d6f642e7463702e656e64706f696e7404c63364090703";
    assert!(hex::encode(bytes_of(&old)).starts_with(bare), "{}", hex::encode(bytes_of(&old)));
    assert_eq!(bytes_of(&old).len(), 2 * 26, "no end, which its era does not know");
}

#[test]
fn announced_endpoint_stands_for_all() {
    let announce = Some("203.0.113.1:9".parse().unwrap());
    let mut bench = node(ServiceSettings { announce, ..settings() });
    let text = format!("nodes.resolve_endpoints?id={}&out=json", identity(GATEWAY));
    let command = one(ask_as(&mut bench, Profile::P4, &text));
    assert_eq!(
        str::from_utf8(bytes_of(&command)).unwrap(),
        "{\"Type\":\"mod.nodes.endpoint_with_ttl\",\"Object\":{\"Endpoint\":\
         {\"Type\":\"mod.tcp.endpoint\",\"Object\":\"203.0.113.1:9\"},\"TTL\":7776000}}\n\
         {\"Type\":\"eos\",\"Object\":null}\n"
    );
}

#[test]
fn endpoints_of_others_are_known_when_the_operator_says_them() {
    let endpoint: Endpoint = "tcp:192.0.2.33:1791".parse().unwrap();
    let known = BTreeMap::from([(identity(B), vec![endpoint.clone()])]);
    let mut bench = node(ServiceSettings { known, ..settings() });
    let text = |who| format!("nodes.resolve_endpoints?id={}", identity(who));
    let found = objects(bytes_of(&bench.ask(A, &text(B))));
    let wanted = EndpointWithTtl { endpoint, ttl_s: None };
    assert_eq!(EndpointWithTtl::decode(&found[0].1), Ok(wanted));
    assert_rejected_for(&mut bench, &text(OTHER), DropReason::TargetNotReachable);
    assert_rejected_for(&mut bench, "nodes.resolve_endpoints", DropReason::MalformedQuery);
}

#[track_caller]
fn assert_rejected_for(bench: &mut Bench, text: &str, reason: DropReason) {
    let before = bench.node.counts().refusals.events(reason);
    let command = bench.ask(A, text);
    assert!(matches!(command, Command::Reject { code: 1, .. }), "{text}: {command:?}");
    assert_eq!(bench.node.counts().refusals.events(reason), before + 1, "{text}");
}

#[test]
fn gateway_is_discovered_while_there_is_one() {
    let mut bench = node(settings());
    let found = objects(bytes_of(&bench.ask(A, "services.discover")));
    let (name, provider) = ("gateway".to_owned(), identity(GATEWAY));
    let wanted = ServiceUpdate { available: true, name, provider };
    assert_eq!(ServiceUpdate::decode(&found[0].1), Ok(wanted));
    assert_eq!(found[1].0, "eos");
    let gateway = crate::gateway::GatewayLimits { enabled: false, ..Default::default() };
    bench.node.set_settings(NodeSettings { gateway, ..NodeSettings::default() });
    assert_eq!(bytes_of(&bench.ask(A, "services.discover")), object::eos());
}

#[test]
fn operations_that_change_something_are_rejected_at_once() {
    let mut bench = node(settings());
    for text in [
        "nodes.new_link?target=x&endpoint=tcp:192.0.2.1:1",
        "nodes.new_stream",
        "nodes.close_link?id=1",
        "nodes.close_stream?id=1",
        "nodes.add_endpoint",
        "user.info",
        "nodes.linkss",
    ] {
        assert_rejected_for(&mut bench, text, DropReason::UnknownQuery);
    }
    let migrate = "nodes.migrate_session?link_id=9&session_id=2";
    assert_rejected_for(&mut bench, migrate, DropReason::MigrationRefused);
    let unknown_encoding = "services.discover?out=xml";
    assert_rejected_for(&mut bench, unknown_encoding, DropReason::MalformedQuery);
}

#[test]
fn stranger_sees_its_own_links_alone() {
    let mut bench = node(settings());
    bench.link(A, link(A, 1), true);
    let listings = asked(ask_as(&mut bench, Profile::P4, "nodes.links"));
    assert!(listings.iter().all(|listing| listing.only == Some(identity(A))));
    assert!(listings.iter().all(|listing| listing.sessions.capacity() == 0));
    let command = answer(&mut bench, listings, vec![link_row(A)], Vec::new());
    let found = objects(bytes_of(&command));
    let infos: Vec<_> =
        found[..2].iter().map(|(_, payload)| LinkInfo::decode(payload).unwrap()).collect();
    assert_eq!((found.len(), &*found[2].0), (3, "eos"));
    assert!(infos.iter().all(|info| info.remote_identity == identity(A)));
    assert_eq!(infos[0].throughput_bytes, 1024);
    assert_eq!(infos[0].remote_endpoint, Some("tcp:203.0.113.7:41000".parse().unwrap()));
    assert_eq!((&infos[1].remote_endpoint, infos[1].throughput_bytes), (&None, 0), "inner");
}

#[test]
fn identity_with_full_view_sees_the_links_of_all() {
    let full_view = BTreeSet::from([identity(A)]);
    let mut bench = node(ServiceSettings { full_view, ..settings() });
    let listings = asked(ask_as(&mut bench, Profile::P2, "nodes.streams"));
    assert!(listings.iter().all(|listing| listing.only.is_none()));
    let command = answer(&mut bench, listings, Vec::new(), Vec::new());
    let found = objects(bytes_of(&command));
    let seen: Vec<_> = found[..2]
        .iter()
        .map(|(_, payload)| LinkInfo::decode(payload).unwrap().remote_identity)
        .collect();
    assert_eq!(seen, [identity(A), identity(B)], "in the order in which they came up");
}

#[test]
fn p0_listing_has_its_own_fields_and_no_end() {
    let mut bench = node(settings());
    let listings = asked(ask_as(&mut bench, Profile::P0, "nodes.streams?out=json"));
    let command = answer(&mut bench, listings, Vec::new(), Vec::new());
    let (own, a) = (identity(GATEWAY), identity(A));
    assert_eq!(
        str::from_utf8(bytes_of(&command)).unwrap(),
        format!(
            "{{\"Type\":\"mod.nodes.stream_info\",\"Object\":{{\"ID\":1,\
             \"LocalIdentity\":\"{own}\",\"RemoteIdentity\":\"{a}\",\
             \"LocalEndpoint\":\"198.51.100.9:1795\",\"RemoteEndpoint\":\"203.0.113.7:41000\",\
             \"Outbound\":\"false\"}}}}\n"
        )
    );
}

#[test]
fn p2_peer_of_2025_is_answered_in_its_own_layout() {
    let mut bench = node(settings());
    bytes_of(&one(ask_as(&mut bench, Profile::P2, ".profile")));
    let listings = asked(ask_as(&mut bench, Profile::P2, "nodes.streams"));
    let command = answer(&mut bench, listings, Vec::new(), Vec::new());
    let bytes = bytes_of(&command);
    let object = peek_object(ChannelForm::C1, bytes, 65_536).unwrap().unwrap();
    assert_eq!((object.type_name, object.bytes), ("mod.nodes.stream_info", bytes.len()));
    let info = StreamInfo::decode_early(object.payload).unwrap();
    assert_eq!(info.link.remote_identity, identity(A));
}

#[test]
fn sessions_are_listed_from_the_oldest_without_raw_pipes() {
    let mut bench = node(settings());
    let listings = asked(ask_as(&mut bench, Profile::P4, "nodes.sessions"));
    let pipe = SessionRow { kind: SessionKind::Socket, ..session_row(A, 0, 99) };
    let rows = vec![session_row(A, 7, 10), pipe, session_row(A, 8, 20)];
    let command = answer(&mut bench, listings, Vec::new(), rows);
    let found = objects(bytes_of(&command));
    let infos: Vec<_> =
        found[..2].iter().map(|(_, payload)| SessionInfo::decode(payload).unwrap()).collect();
    assert_eq!((found.len(), &*found[2].0), (3, "eos"));
    assert_eq!(infos.iter().map(|info| info.id).collect::<Vec<_>>(), [8, 7]);
    assert_eq!((infos[0].link_id, infos[0].bytes, infos[0].age_ns), (1, 5, 20));
    assert_eq!(infos[0].query, b"conform.one");
}

#[test]
fn listings_follow_each_other_with_pauses() {
    let mut bench = node(settings());
    let first = asked(ask_as(&mut bench, Profile::P4, "nodes.links"));
    assert!(ask_as(&mut bench, Profile::P4, "nodes.sessions").is_empty(), "one at a time");
    bytes_of(&answer(&mut bench, first, Vec::new(), Vec::new()));
    let due_ns = bench.now_ns + LISTING_PAUSE_NS;
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));
    bench.now_ns = due_ns;
    let mut out = Vec::new();
    bench.node.tick(due_ns, &mut out);
    let second = asked(out.into_iter().map(|(_, command)| command).collect());
    bytes_of(&answer(&mut bench, second, Vec::new(), Vec::new()));
    assert_eq!(
        (bench.node.query_counts().listings_waiting, bench.node.next_deadline_ns()),
        (0, None)
    );
}

#[test]
fn listing_that_a_core_does_not_answer_is_rejected_and_its_late_answer_ignored() {
    let mut bench = node(settings());
    let mut listings = asked(ask_as(&mut bench, Profile::P4, "nodes.links"));
    let late = Box::new(listings.pop().unwrap());
    for listing in listings {
        bench.tell(&Report::Listing { core: CoreId(0), listing: Box::new(listing) });
    }
    bench.now_ns += LISTING_TIMEOUT_NS;
    let mut out = Vec::new();
    bench.node.tick(bench.now_ns, &mut out);
    assert!(matches!(&out[..], [(_, Command::Reject { code: 1, .. })]), "{out:?}");
    assert!(bench.tell(&Report::Listing { core: CoreId(1), listing: late }).is_empty());
    assert_eq!(bench.node.counts().refusals.events(DropReason::ManagementBusy), 1);
}

#[test]
fn listings_that_wait_are_bounded_and_end_with_their_callers() {
    let mut bench = node(settings());
    let first = asked(ask_as(&mut bench, Profile::P4, "nodes.links"));
    let mut legs = Vec::new();
    for who in 0..20 {
        let who = 0x100 + who;
        bench.link(who, link_of(who), false);
        for _ in 0..LISTINGS_PER_PEER_MAX + 1 {
            let query = bench.query(who, link_of(who), "nodes.links");
            let (leg, commands) = bench.ask_as(query);
            match &commands[..] {
                [] => legs.push(leg),
                [Command::Reject { code: 1, .. }] => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(legs.len(), LISTINGS_WAITING_MAX);
    assert_eq!(bench.node.query_counts().listings_waiting, LISTINGS_WAITING_MAX + 1);
    for leg in legs {
        assert!(bench.tell(&Report::QueryCancelled { leg }).is_empty());
    }
    bytes_of(&answer(&mut bench, first, Vec::new(), Vec::new()));
    assert_eq!(bench.node.next_deadline_ns(), None);
}

#[test]
fn caller_that_has_gone_is_not_answered() {
    let mut bench = node(settings());
    let query = bench.query(A, link_of(A), "nodes.links");
    let (leg, commands) = bench.ask_as(query);
    let listings = asked(commands);
    bench.tell(&Report::QueryCancelled { leg });
    for (core, listing) in (0..).zip(listings) {
        assert!(
            bench
                .tell(&Report::Listing { core: CoreId(core), listing: Box::new(listing) })
                .is_empty()
        );
    }
}
