//! Links that the core makes as initiator inside sessions, with two cores that turn in turn.

use crate::support::{Bench, ROUTE, secret};
use std::time::Duration;
use waystation_engine::control::{Command, DialId, LinkUp, Network, Query};
use waystation_engine::port::PortLimits;
use waystation_engine::port::epoll::EpollPort;
use waystation_engine::port::waker::Waker;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LinkTag;

const TURNS_MAX: usize = 100_000;

/// Two cores, the first of which dials.
struct Two {
    a: Bench<EpollPort>,
    b: Bench<EpollPort>,
}

impl Two {
    fn new() -> Self {
        let port = |waker: Waker, limits: PortLimits| EpollPort::new(waker, limits).unwrap();
        Self { a: Bench::new(port), b: Bench::with_secret(secret(0x41), port) }
    }

    fn until<T>(&mut self, what: &str, mut come: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..TURNS_MAX {
            if let Some(come) = come(self) {
                return come;
            }
            self.a.turn_at_once();
            self.b.turn_at_once();
        }
        panic!("never came: {what}");
    }

    fn links(&mut self) -> (LinkUp, LinkUp) {
        self.until("a link at both", |two| {
            let ready = !two.a.ups.is_empty() && !two.b.ups.is_empty();
            ready.then(|| (two.a.ups.remove(0), two.b.ups.remove(0)))
        })
    }

    fn outer(&mut self) -> LinkUp {
        self.a.dial(1, self.b.address, self.b.identity);
        let (at_a, at_b) = self.links();
        assert_eq!((at_a.dial, at_b.dial), (Some(DialId(1)), None));
        assert_eq!(at_a.link_id, at_b.link_id);
        at_a
    }

    fn ask_inside(&mut self, dial: u64, link: LinkTag) {
        let (dial, query, identity) = (DialId(dial), ROUTE.into(), self.b.identity);
        self.a.command(Command::InitiateInside { dial, link, query, identity });
    }

    fn query(&mut self) -> Query {
        self.until("the query at b", |two| two.b.queries.pop())
    }

    fn failure(&mut self) -> (DialId, DropReason) {
        let failed = self.until("a failed dial", |two| {
            let failed = two.a.failed_dials();
            (!failed.is_empty()).then_some(failed)
        });
        assert_eq!(failed.len(), 1);
        failed[0]
    }

    fn assert_everything_came_back(mut self, link: LinkTag) {
        let reason = DropReason::SurplusLink;
        self.a.command(Command::CloseLink { link, reason });
        self.until("the end of everything", |two| {
            let idle = (two.a.core.load(), two.b.core.load()) == ((0, 0), (0, 0));
            let blocks = two.a.core.blocks_in_use() + two.b.core.blocks_in_use();
            (idle && blocks == 0).then_some(())
        });
        assert_eq!(self.a.failed_dials(), [], "every failure is told once");
    }
}

#[test]
fn link_inside_a_session_carries_a_link_inside_a_session() {
    let mut two = Two::new();
    let outer = two.outer();
    let mut link = outer.link;
    for dial in 2..5 {
        two.ask_inside(dial, link);
        let query = two.query();
        assert_eq!(query.inner, dial > 2);
        two.b.command(Command::TerminateInside { leg: query.leg });
        let (at_a, at_b) = two.links();
        for up in [&at_a, &at_b] {
            assert_eq!((up.inner, up.network), (true, Network::Gateway));
        }
        assert_eq!((at_a.dial, at_b.dial), (Some(DialId(dial)), None));
        assert_eq!((at_a.identity, at_b.identity), (two.b.identity, two.a.identity));
        link = at_a.link;
    }
    two.assert_everything_came_back(outer.link);
}

#[test]
fn dial_inside_a_session_that_is_rejected_fails_once() {
    let mut two = Two::new();
    let outer = two.outer();
    two.ask_inside(2, outer.link);
    let query = two.query();
    two.b.command(Command::Reject { leg: query.leg, code: 1 });
    assert_eq!(two.failure(), (DialId(2), DropReason::TargetRejected));
    two.assert_everything_came_back(outer.link);
}

#[test]
fn dial_inside_a_session_that_nobody_answers_fails_once() {
    let mut two = Two::new();
    let outer = two.outer();
    two.a.adopt(|snapshot| snapshot.limits.query_timeout = Duration::from_millis(50));
    two.ask_inside(2, outer.link);
    assert_eq!(two.failure(), (DialId(2), DropReason::TargetTimeout));
    two.assert_everything_came_back(outer.link);
}

#[test]
fn dial_inside_a_session_fails_once_with_the_link_under_it() {
    let mut two = Two::new();
    let outer = two.outer();
    two.ask_inside(2, outer.link);
    let _unanswered = two.query();
    let reason = DropReason::SurplusLink;
    two.a.command(Command::CloseLink { link: outer.link, reason });
    assert_eq!(two.failure(), (DialId(2), DropReason::TargetNotReachable));
    two.ask_inside(3, outer.link);
    assert_eq!(two.failure(), (DialId(3), DropReason::TargetNotReachable));
    two.assert_everything_came_back(outer.link);
}

#[test]
fn dial_inside_a_session_whose_other_end_says_nothing_fails_in_time() {
    let mut two = Two::new();
    let outer = two.outer();
    two.a.adopt(|snapshot| snapshot.limits.handshake_timeout = Duration::from_millis(50));
    two.ask_inside(2, outer.link);
    let query = two.query();
    // Accepted, but nothing that shakes hands is in there.
    two.b.command(Command::Answer { leg: query.leg, bytes: Box::default() });
    let (dial, reason) = two.failure();
    assert_eq!(dial, DialId(2));
    let expected = [DropReason::HandshakeAbandoned, DropReason::HandshakeTimeout];
    assert!(expected.contains(&reason), "{reason:?}");
    two.assert_everything_came_back(outer.link);
}
