//! Objects that peers deliver, and the address that we tell those who dial us.

use super::*;
use crate::node::limits::{
    DELIVERIES_MAX, DELIVERIES_PER_PEER_MAX, DELIVERY_TIMEOUT_NS, FIRST_REFLECTION,
    OBSERVED_ADDRESSES_MAX, REFLECTION_TIMEOUT_NS, REFLECTIONS_MAX,
};
use waystation_astral::object::{AnswerObject, AnswerWriter};
use waystation_astral::objects::{Empty, ObservedEndpoint};
use waystation_engine::control::{AskId, DialId};

const SEEN: &str = "tcp:203.0.113.77:40123";

fn node() -> Bench {
    let services = ServiceSettings { reflects: true, ..ServiceSettings::default() };
    Bench::with(NodeSettings { services, ..NodeSettings::default() })
}

/// A peer that we dialed.
fn dialed(bench: &mut Bench, who: u16) {
    let up = LinkUp { dial: Some(DialId(1)), ..bench.up(who, link_of(who), false) };
    assert!(bench.tell(&Report::LinkUp(up)).is_empty(), "nobody tells whom he dialed");
}

fn observed(endpoint: &str) -> ObservedEndpoint {
    ObservedEndpoint { endpoint: endpoint.parse().unwrap() }
}

fn c2(object: &dyn AnswerObject) -> Vec<u8> {
    let mut writer = AnswerWriter::new(Encoding::C2);
    writer.write(object).unwrap();
    writer.into_bytes()
}

fn begin(bench: &mut Bench, who: u16, profile: Profile, text: &str) -> (LegTag, Command) {
    let mut query = bench.query(who, link_of(who), text);
    query.profile = profile;
    let (leg, commands) = bench.ask_as(query);
    (leg, one(commands))
}

fn input(bench: &mut Bench, leg: LegTag, bytes: &[u8]) -> Vec<Command> {
    bench.tell(&Report::Input { leg, bytes: bytes.into() })
}

fn written(command: &Command) -> (&[u8], bool) {
    let Command::Write { bytes, end, .. } = command else { panic!("{command:?}") };
    (bytes, *end)
}

#[test]
fn address_that_a_dialed_peer_sees_us_at_is_kept() {
    let mut bench = node();
    dialed(&mut bench, A);
    let (leg, command) = begin(&mut bench, A, Profile::P4, "objects.push");
    assert!(matches!(command, Command::Accept { input_max_bytes: 32_768, .. }));
    let bytes = c2(&observed(SEEN));
    let (head, tail) = bytes.split_at(11);
    assert!(input(&mut bench, leg, head).is_empty(), "half of it");
    let answer = one(input(&mut bench, leg, tail));
    assert_eq!(written(&answer), (&*object::boolean(true), false));
    let rows = bench.node.observed_endpoints();
    assert_eq!(
        (rows.len(), rows[0].peers, rows[0].address.to_string()),
        (1, 1, "203.0.113.77".into())
    );
    let event = bench.node.take_events().last();
    let endpoint = SEEN.parse().unwrap();
    assert_eq!(event, Some(NodeEvent::Observed { identity: identity(A), endpoint }));
    bench.tell(&Report::SessionEnded { leg });
    assert_eq!((bench.node.query_counts().deliveries, bench.node.next_deadline_ns()), (0, None));
}

#[test]
fn sized_push_is_answered_with_one_byte() {
    let mut bench = node();
    dialed(&mut bench, A);
    let body = observed(SEEN).push_body().unwrap();
    let text = format!("objects.push?size={}", body.len());
    let (leg, command) = begin(&mut bench, A, Profile::P0, &text);
    let wanted = u32::try_from(body.len()).unwrap();
    assert!(
        matches!(command, Command::Accept { input_max_bytes, .. } if input_max_bytes == wanted)
    );
    assert!(input(&mut bench, leg, &body[..5]).is_empty());
    let answer = one(input(&mut bench, leg, &body[5..]));
    assert_eq!(written(&answer), (&[1][..], true));
    assert_eq!(bench.node.query_counts().deliveries, 0, "answered, so over");
    assert!(input(&mut bench, leg, &body).is_empty());
}

#[test]
fn everything_else_is_answered_with_false() {
    let mut bench = node();
    bench.node.set_settings(NodeSettings::default());
    bench.link(B, link_of(B), false);
    dialed(&mut bench, A);
    let stranger = c2(&observed(SEEN));
    let private = c2(&observed("tcp:192.168.1.7:1791"));
    let shared = c2(&observed("tcp:100.64.1.7:1791"));
    let onion =
        c2(&observed("tor:2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:1791"));
    for (who, bytes) in [(B, stranger), (A, private), (A, shared), (A, onion), (A, c2(&Empty::Ack))]
    {
        let (leg, _) = begin(&mut bench, who, Profile::P4, "objects.push");
        let answer = one(input(&mut bench, leg, &bytes));
        assert_eq!(written(&answer), (&*object::boolean(false), false));
        bench.tell(&Report::SessionEnded { leg });
    }
    let (leg, _) = begin(&mut bench, A, Profile::P0, "objects.push?size=4");
    assert_eq!(written(&one(input(&mut bench, leg, b"ADC0"))), (&[0][..], true));
    assert!(bench.node.observed_endpoints().is_empty());
}

#[test]
fn several_objects_of_one_channel_are_answered_in_order() {
    let mut bench = node();
    dialed(&mut bench, A);
    let (leg, _) = begin(&mut bench, A, Profile::P4, "objects.push?out=json");
    let bytes = [c2(&Empty::Ack), c2(&observed(SEEN))].concat();
    let answer = one(input(&mut bench, leg, &bytes));
    let lines = b"{\"Type\":\"bool\",\"Object\":false}\n{\"Type\":\"bool\",\"Object\":true}\n";
    assert_eq!(written(&answer), (&lines[..], false));
}

#[test]
fn channel_that_cannot_be_read_is_ended() {
    let mut bench = node();
    dialed(&mut bench, A);
    let (leg, _) = begin(&mut bench, A, Profile::P4, "objects.push");
    let answer = one(input(&mut bench, leg, b"\x03ack\xff\xff\xff\xff"));
    assert_eq!(written(&answer), (&[][..], true));
    assert_eq!(bench.node.query_counts().deliveries, 0);
}

#[test]
fn delivery_that_takes_too_long_is_ended() {
    let mut bench = node();
    dialed(&mut bench, A);
    let (session, _) = begin(&mut bench, A, Profile::P4, "objects.push");
    let due_ns = bench.now_ns + DELIVERY_TIMEOUT_NS;
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));
    let mut out = Vec::new();
    bench.node.tick(due_ns, &mut out);
    assert!(
        matches!(&out[..], [(_, Command::Write { leg, end: true, .. })] if *leg == session),
        "{out:?}"
    );
    assert_eq!((bench.node.query_counts().deliveries, bench.node.next_deadline_ns()), (0, None));
}

#[test]
fn deliveries_are_bounded_for_each_peer_and_in_total() {
    let mut bench = node();
    let mut accepted = 0;
    for who in 0..DELIVERIES_MAX / DELIVERIES_PER_PEER_MAX + 2 {
        let who = 0x100 + u16::try_from(who).unwrap();
        dialed(&mut bench, who);
        for _ in 0..DELIVERIES_PER_PEER_MAX + 1 {
            let (_, command) = begin(&mut bench, who, Profile::P4, "objects.push");
            accepted += usize::from(matches!(command, Command::Accept { .. }));
        }
    }
    assert_eq!(accepted, DELIVERIES_MAX);
    assert!(bench.node.counts().refusals.events(DropReason::ManagementBusy) > 32);
}

#[test]
fn text_is_no_way_to_deliver_objects() {
    let mut bench = node();
    dialed(&mut bench, A);
    let (_, command) = begin(&mut bench, A, Profile::P4, "objects.push?in=json");
    assert!(matches!(command, Command::Reject { code: 1, .. }));
}

#[test]
fn one_peer_has_one_voice_and_the_weakest_address_gives_way() {
    let mut bench = node();
    let say = |bench: &mut Bench, who: u16, address: &str| {
        bench.now_ns += 1;
        let (leg, _) = begin(bench, who, Profile::P4, "objects.push");
        input(bench, leg, &c2(&observed(&format!("tcp:{address}:5"))));
        bench.tell(&Report::SessionEnded { leg });
    };
    for who in 1..=12 {
        dialed(&mut bench, who);
    }
    for number in 1..=20 {
        say(&mut bench, 1, &format!("8.8.8.{number}"));
    }
    assert_eq!(bench.node.observed_endpoints().len(), 1, "a peer that changes its mind");
    for who in 1..=2 {
        say(&mut bench, who, "9.9.9.9");
    }
    for who in 3..=12 {
        say(&mut bench, who, &format!("7.7.7.{who}"));
    }
    let rows = bench.node.observed_endpoints();
    assert_eq!(rows.len(), OBSERVED_ADDRESSES_MAX);
    assert_eq!((rows[0].address.to_string(), rows[0].peers), ("9.9.9.9".into(), 2));
    assert_eq!(rows[1].address.to_string(), "7.7.7.12", "the last heard of");
}

/// The question that a new link of this peer causes.
fn reflected(bench: &mut Bench, profile: Profile) -> (AskId, String) {
    let up = LinkUp { profile, ..bench.up(A, link_of(A), false) };
    let Command::Ask { ask, link, query, .. } = one(bench.tell(&Report::LinkUp(up))) else {
        panic!()
    };
    assert_eq!(link, link_of(A));
    assert!(ask.0 >= FIRST_REFLECTION);
    (ask, String::from_utf8(query.into()).unwrap())
}

const LEG: LegTag = LegTag { core: CoreId(A), slot: 900, generation: 0 };

#[test]
fn dialer_is_told_the_address_it_is_seen_at() {
    let seen = observed("tcp:203.0.113.7:41000");
    let sized = seen.push_body().unwrap();
    let sized_query = format!("objects.push?size={}", sized.len());
    for (profile, query, body, answer) in [
        (Profile::P4, "objects.push", c2(&seen), object::boolean(true)),
        (Profile::P2, "objects.push", c2(&seen), object::boolean(false)),
        (Profile::P0, &*sized_query, sized, vec![0]),
    ] {
        let mut bench = node();
        let (ask, asked) = reflected(&mut bench, profile);
        assert_eq!(asked, query);
        let said = one(bench.tell(&Report::Asked { ask, leg: LEG, code: 0 }));
        assert_eq!(written(&said), (&*body, false));
        let end = one(input(&mut bench, LEG, &answer));
        assert_eq!(written(&end), (&[][..], true));
        assert!(bench.tell(&Report::SessionEnded { leg: LEG }).is_empty());
        assert_eq!(
            (bench.node.query_counts().reflections, bench.node.next_deadline_ns()),
            (0, None)
        );
    }
}

#[test]
fn old_p2_dialer_is_told_in_its_own_way_once_it_has_shown_its_age() {
    let mut bench = node();
    reflected(&mut bench, Profile::P2);
    begin(&mut bench, A, Profile::P2, ".profile");
    let up = LinkUp { profile: Profile::P2, ..bench.up(A, link(A, 1), false) };
    let Command::Ask { query, .. } = one(bench.tell(&Report::LinkUp(up))) else { panic!() };
    assert!(query.starts_with(b"objects.push?size="));
}

#[test]
fn refused_or_unanswered_reflection_leaves_nothing_behind() {
    let mut bench = node();
    let (ask, _) = reflected(&mut bench, Profile::P4);
    assert!(bench.tell(&Report::Asked { ask, leg: LEG, code: 1 }).is_empty());
    assert_eq!((bench.node.query_counts().reflections, bench.node.next_deadline_ns()), (0, None));

    let mut bench = node();
    let (ask, _) = reflected(&mut bench, Profile::P4);
    bench.tell(&Report::Asked { ask, leg: LEG, code: 0 });
    let mut out = Vec::new();
    bench.now_ns += REFLECTION_TIMEOUT_NS;
    bench.node.tick(bench.now_ns, &mut out);
    assert!(matches!(&out[..], [(_, Command::Write { leg: LEG, end: true, .. })]), "{out:?}");

    let mut bench = node();
    let (ask, _) = reflected(&mut bench, Profile::P4);
    bench.now_ns += REFLECTION_TIMEOUT_NS;
    let late = one(bench.tell(&Report::Asked { ask, leg: LEG, code: 0 }));
    assert_eq!(written(&late), (&[][..], true));
    assert_eq!((bench.node.query_counts().reflections, bench.node.next_deadline_ns()), (0, None));
    let (ask, leg) = (AskId(3), LEG);
    assert!(bench.tell(&Report::Asked { ask, leg, code: 0 }).is_empty(), "somebody else's");
}

#[test]
fn only_public_addresses_of_direct_dialers_are_reflected() {
    let mut bench = node();
    for remote in ["127.0.0.1:5", "10.1.2.3:5", "[fe80::1]:5", "[::ffff:192.168.0.1]:5"] {
        let up = bench.up(A, link_of(A), false);
        let up = LinkUp { remote: remote.parse().unwrap(), ..up };
        assert!(bench.tell(&Report::LinkUp(up)).is_empty(), "{remote}");
        bench.unlink(A, link_of(A));
    }
    bench.link(A, link_of(A), true);
    bench.unlink(A, link_of(A));
    bench.node.set_settings(NodeSettings::default());
    bench.link(A, link_of(A), false);
}

#[test]
fn reflections_under_way_are_bounded() {
    let mut bench = node();
    for slot in 0..u32::try_from(REFLECTIONS_MAX).unwrap() + 5 {
        let up = bench.up(A, link(A, slot), false);
        bench.tell(&Report::LinkUp(up));
    }
    assert_eq!(bench.node.query_counts().reflections, REFLECTIONS_MAX);
}
