//! Whom the core lets in, what a new snapshot changes, and when a link that nobody uses ends.

use crate::support::{Bench, Peer, ROUTE, finish, on_every_port, secret};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use waystation_astral::frame::{Frame, Profile};
use waystation_engine::control::{Command, LinkUp, Listing, Report};
use waystation_engine::port::Port;
use waystation_relay::access::Access;
use waystation_relay::drop_reason::DropReason;

fn link<P: Port>(bench: &mut Bench<P>, key: u8) -> (Peer, LinkUp) {
    let (address, gateway, up) = (bench.address, bench.identity, bench.ups.len());
    let dialing =
        std::thread::spawn(move || Peer::dial(address, gateway, &secret(key), Profile::P4));
    let peer = finish(bench, dialing);
    bench.turn_until("the link", |bench| bench.ups.len() > up);
    (peer, bench.ups[up].clone())
}

fn denies<P: Port>(bench: &mut Bench<P>) {
    let (mut linked, _) = link(bench, 0x51);
    let (other, _) = link(bench, 0x52);
    bench.adopt(|snapshot| {
        snapshot.access = Access::Denylist([secret(0x51).identity()].into());
    });
    bench.turn_until("the end of the link", |bench| bench.downs > 0);
    assert_eq!(bench.ended[0].0, Some(DropReason::IdentityDenied));
    let ending = std::thread::spawn(move || linked.read_to_the_end().1);
    assert!(finish(bench, ending).is_ok(), "an established link may end cleanly");
    let (address, gateway) = (bench.address, bench.identity);
    let knocking = std::thread::spawn(move || {
        Peer::knock(address, gateway, &secret(0x51), Profile::P4).read_to_the_end()
    });
    let (said, end) = finish(bench, knocking);
    assert_eq!(said, b"", "not a byte of negotiation");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    bench.turn_until("the report", |bench| {
        bench.others.iter().any(|report| {
            matches!(report, Report::HandshakeFailed { reason: DropReason::IdentityDenied, .. })
        })
    });
    assert_eq!((bench.ups.len(), bench.downs), (2, 1), "the other link stays");
    drop(other);
    bench.assert_everything_came_back();
}

#[test]
fn denied_identity_loses_its_link_and_is_reset_before_negotiation() {
    on_every_port(denies, denies);
}

fn takes_up_caps<P: Port>(bench: &mut Bench<P>) {
    let (mut peer, up) = link(bench, 0x51);
    bench.adopt(|snapshot| (snapshot.limits.links, snapshot.limits.sessions) = (1, 0));
    let refused = TcpStream::connect(bench.address).unwrap();
    let asking = std::thread::spawn(move || {
        peer.send_frame(&Frame::Query { nonce: 5, window: 1, query: ROUTE });
        peer.read_until(|heard, _| format!("{heard:?}").contains("nonce: 5, code: 1"));
        peer
    });
    let peer = finish(bench, asking);
    assert_eq!(bench.core.load(), (0, 1), "one link, and nothing of the second");
    drop(refused);
    bench.adopt(|_| {});
    let (other, _) = link(bench, 0x52);
    let listing = Listing { links: Vec::with_capacity(4), ..Listing::default() };
    bench.command(Command::ReportListing { listing: Box::new(listing) });
    bench.turn_until("the listing", |bench| {
        bench.others.iter().any(|report| matches!(report, Report::Listing { .. }))
    });
    let listed = bench.others.iter().find_map(|report| match report {
        Report::Listing { listing, .. } => Some(listing),
        _ => None,
    });
    let rows = &listed.unwrap().links;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().any(|row| row.link == up.link && !row.outbound && row.local == up.local));
    let reason = DropReason::SurplusLink;
    bench.command(Command::CloseLink { link: up.link, reason });
    bench.turn_until("the end of the link", |bench| bench.downs > 0);
    let (ended, totals) = bench.ended[0];
    assert_eq!(ended, Some(reason));
    assert_eq!((totals.frames_in, totals.frames_out), (1, 1), "a query and its response");
    assert!(totals.age_ns > 0);
    drop((peer, other));
    bench.assert_everything_came_back();
}

#[test]
fn new_caps_hold_from_the_snapshot_on_and_old_links_stay() {
    on_every_port(takes_up_caps, takes_up_caps);
}

fn closes_idle_links<P: Port>(bench: &mut Bench<P>) {
    let (kept, up) = link(bench, 0x51);
    bench.command(Command::Govern { link: up.link, quota: None, keep: true });
    let (mut busy, busy_up) = link(bench, 0x52);
    let (idle, _) = link(bench, 0x53);
    let asking = std::thread::spawn(move || {
        busy.send_frame(&Frame::Query { nonce: 5, window: 1, query: ROUTE });
        busy
    });
    let mut busy = finish(bench, asking);
    bench.turn_until("a query", |bench| !bench.queries.is_empty());
    let query = bench.queries.remove(0);
    bench.adopt(|snapshot| {
        snapshot.limits.link_idle_timeout = Some(Duration::from_millis(100));
    });
    bench.turn_until("the end of an idle link", |bench| bench.downs > 0);
    // As long again: whatever else could end has ended then.
    let (second, _) = link(bench, 0x54);
    bench.turn_until("the end of another", |bench| bench.downs > 1);
    assert_eq!(bench.ended.len(), 2);
    assert!(bench.ended.iter().all(|(reason, _)| *reason == Some(DropReason::LinkIdle)));
    assert_eq!(bench.core.load(), (1, 2), "the kept link, and the one with a session");
    // A ping is no use of a link.
    busy.send_frame(&Frame::Ping { nonce: 1, pong: false });
    bench.command(Command::Reject { leg: query.leg, code: 1 });
    bench.turn_until("the end of the link whose session ended", |bench| bench.downs > 2);
    assert_eq!(bench.core.load(), (0, 1), "the kept link");
    bench.command(Command::Govern { link: up.link, quota: None, keep: false });
    bench.turn_until("the end of the link kept no more", |bench| bench.downs > 3);
    // A link that has gone is no business of anybody.
    bench.command(Command::Govern { link: busy_up.link, quota: None, keep: true });
    drop((kept, busy, idle, second));
    bench.assert_everything_came_back();
}

#[test]
fn link_that_nobody_uses_is_closed_unless_it_is_kept() {
    on_every_port(closes_idle_links, closes_idle_links);
}

fn acknowledges_every_epoch<P: Port>(bench: &mut Bench<P>) {
    for epoch in [3, 4, 9] {
        let snapshot = crate::support::snapshot(epoch);
        bench.command(Command::Adopt { snapshot: Arc::new(snapshot) });
    }
    bench.turn_until("three epochs", |bench| bench.others.len() == 3);
    let epochs: Vec<u64> = bench
        .others
        .iter()
        .filter_map(|report| match report {
            Report::Adopted { epoch, .. } => Some(*epoch),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [3, 4, 9]);
}

#[test]
fn every_snapshot_is_acknowledged_in_order() {
    on_every_port(acknowledges_every_epoch, acknowledges_every_epoch);
}
