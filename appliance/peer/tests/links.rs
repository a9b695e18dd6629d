//! Two links back to back, over Unix socket pairs and TCP on loopback: no relay in between.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and a test may look at the clock"
)]

mod support;

use ring::digest::{Context, SHA256};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use support::{OptionsPair, STEP, link_pair, link_pair_over_tcp, matrix, open_session, sessions};
use waystation_astral::frame::Profile;
use waystation_peer::{
    CreditReturn, Link, LinkFailure, LinkOptions, PeerError, Session, SessionError, Style,
    session_error,
};

/// A reproducible stream that no off-by-one reproduces.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    context.finish().as_ref().to_vec()
}

/// Sends `bytes` and receives as many as `expected`, both at once; returns what came.
fn exchange(session: Session, bytes: Vec<u8>, expected: usize) -> Vec<u8> {
    let (mut reader, mut writer) = session.split();
    let sender = thread::spawn(move || {
        for piece in bytes.chunks(10_007) {
            writer.write_all(piece).unwrap();
        }
        writer
    });
    let mut received = vec![0; expected];
    reader.read_exact(&mut received).unwrap();
    drop(sender.join().unwrap());
    received
}

fn both_ways(caller: Session, target: Session, bytes: usize) {
    let (there, back) = (pattern(1, bytes), pattern(2, bytes));
    let (digest_there, digest_back) = (digest(&there), digest(&back));
    // Neither side may drop its session, and so reset it, before the other has everything.
    let (done_sender, done) = mpsc::channel::<()>();
    let far = thread::spawn(move || {
        let received = exchange(target, back, bytes);
        done_sender.send(()).unwrap();
        received
    });
    let (mut reader, mut writer) = caller.split();
    let sender = thread::spawn(move || {
        writer.write_all(&there).unwrap();
        writer
    });
    let mut received = vec![0; bytes];
    reader.read_exact(&mut received).unwrap();
    done.recv_timeout(STEP).unwrap();
    drop(sender.join().unwrap());
    assert_eq!(digest(&received), digest_back);
    assert_eq!(digest(&far.join().unwrap()), digest_there);
}

#[test]
fn bytes_arrive_whole_both_ways_at_once_in_every_profile_and_style() {
    for options in matrix() {
        let (dialer, acceptor) = link_pair(&options);
        assert_eq!(dialer.profile(), options.profile());
        assert_eq!(dialer.remote(), acceptor.local());
        assert_eq!(acceptor.remote(), dialer.local());
        let (caller, target) = open_session(&dialer, &acceptor, 65_536);
        both_ways(caller, target, 300_000);
        // The link is as good as before, and the acceptor may ask as well.
        let (caller, target) = open_session(&acceptor, &dialer, 4_194_304);
        both_ways(caller, target, 50_000);
    }
}

#[test]
fn link_ids_agree_where_the_profile_has_them() {
    for profile in [Profile::P0, Profile::P2, Profile::P4] {
        let (dialer, acceptor) = link_pair(&OptionsPair::of(LinkOptions::with_profile(profile)));
        assert_eq!(dialer.link_id().is_some(), profile != Profile::P0);
        if profile != Profile::P0 {
            assert_eq!(dialer.link_id(), acceptor.link_id());
        }
    }
}

#[test]
fn dialer_finds_out_what_a_fixed_acceptor_speaks() {
    for profile in [Profile::P0, Profile::P2, Profile::P4] {
        let options = OptionsPair {
            dialer: LinkOptions::default(),
            acceptor: LinkOptions::with_profile(profile),
        };
        let (dialer, acceptor) = link_pair(&options);
        assert_eq!(dialer.profile(), profile);
        let (caller, target) = open_session(&dialer, &acceptor, 65_536);
        both_ways(caller, target, 20_000);
    }
}

#[test]
fn acceptor_finds_out_what_a_fixed_dialer_speaks() {
    for profile in [Profile::P0, Profile::P2, Profile::P4] {
        let options = OptionsPair {
            dialer: LinkOptions::with_profile(profile),
            acceptor: LinkOptions::default(),
        };
        let (dialer, acceptor) = link_pair(&options);
        assert_eq!(acceptor.profile(), profile);
        let (caller, target) = open_session(&dialer, &acceptor, 65_536);
        both_ways(caller, target, 20_000);
    }
}

#[test]
fn many_sessions_share_a_link_over_tcp() {
    let (dialer, acceptor) =
        link_pair_over_tcp(&OptionsPair::of(LinkOptions::with_profile(Profile::P4)));
    let pairs: Vec<_> = (0..16).map(|_| open_session(&dialer, &acceptor, 32_768)).collect();
    let threads: Vec<_> = pairs
        .into_iter()
        .map(|(caller, target)| thread::spawn(move || both_ways(caller, target, 100_000)))
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn sender_stops_exactly_where_its_credit_ends() {
    for window in [1_u32, 10, 8_191, 8_193] {
        for profile in [Profile::P0, Profile::P2, Profile::P4] {
            let (_links, mut caller, mut target) =
                sessions(&OptionsPair::of(LinkOptions::stock(profile)), window);
            caller.set_write_timeout(Some(Duration::from_millis(50)));
            let mut sent = 0;
            let error = loop {
                match caller.write(&[7; 100_000]) {
                    Ok(bytes) => sent += bytes,
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert_eq!(sent, usize::try_from(window).unwrap());

            // One consumed chunk gives exactly its bytes back.
            let taken = target.read(&mut [0; 3]).unwrap();
            assert_eq!(taken, sent.min(3));
            caller.set_write_timeout(Some(STEP));
            assert_eq!(caller.write(&[8; 100]).unwrap(), taken);
            caller.set_write_timeout(Some(Duration::from_millis(50)));
            assert_eq!(caller.write(&[8; 100]).unwrap_err().kind(), ErrorKind::TimedOut);

            // Everything that was covered by credit is there, in order.
            let mut rest = vec![0; sent];
            target.read_exact(&mut rest).unwrap();
            let eights = rest.iter().filter(|byte| **byte == 8).count();
            assert_eq!(eights, taken);
            assert!(rest[..sent - taken].iter().all(|byte| *byte == 7));
        }
    }
}

#[test]
fn window_of_one_byte_still_carries_everything() {
    for credit_return in [CreditReturn::Coalesced, CreditReturn::PerChunk] {
        let options = LinkOptions {
            window_bytes: 1,
            credit_return,
            ..LinkOptions::with_profile(Profile::P2)
        };
        let (_links, caller, target) = sessions(&OptionsPair::of(options), 1);
        both_ways(caller, target, 500);
    }
}

#[test]
fn window_of_nothing_lets_nothing_through() {
    let (_links, mut caller, _target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P0)), 0);
    caller.set_write_timeout(Some(Duration::from_millis(100)));
    assert_eq!(caller.write(b"x").unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn reset_delivers_everything_sent_before_it_and_then_ends() {
    for options in matrix() {
        let (_links, mut caller, mut target) = sessions(&options, 4_194_304);
        let bytes = pattern(3, 200_000);
        caller.write_all(&bytes).unwrap();
        caller.reset();
        let mut received = Vec::new();
        target.read_to_end(&mut received).unwrap();
        assert_eq!(digest(&received), digest(&bytes));
        let error = target.write(b"late").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(matches!(session_error(&error), Some(SessionError::ResetByPeer)));
    }
}

#[test]
fn dropping_a_session_resets_it_and_leaves_the_link_alone() {
    let (links, caller, mut target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P4)), 65_536);
    drop(caller);
    assert_eq!(target.read(&mut [0; 16]).unwrap(), 0);
    links.0.ping(STEP).unwrap();
    let (caller, target) = open_session(&links.0, &links.1, 65_536);
    both_ways(caller, target, 1_000);
}

#[test]
fn local_reset_wakes_the_own_reader() {
    let (_links, caller, _target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P2)), 65_536);
    let resetter = caller.resetter();
    let (mut reader, _writer) = caller.split();
    let waiting = thread::spawn(move || reader.read(&mut [0; 16]));
    thread::park_timeout(Duration::from_millis(50));
    resetter.reset();
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(session_error(&error), Some(SessionError::ResetHere)));
}

#[test]
fn rejection_carries_its_code() {
    for options in matrix() {
        let (dialer, acceptor) = link_pair(&options);
        let asking = thread::spawn(move || dialer.query("no.such?thing=1").map(drop));
        let query = acceptor.accept(STEP).unwrap();
        assert_eq!(query.query(), b"no.such?thing=1");
        assert_eq!(query.caller(), acceptor.remote());
        assert_eq!(query.target(), acceptor.local());
        query.reject(5);
        let answer = asking.join().unwrap();
        assert!(matches!(answer, Err(PeerError::Rejected { code: 5 })), "{answer:?}");
    }
}

#[test]
fn query_dropped_unanswered_is_rejected() {
    let (dialer, acceptor) = link_pair(&OptionsPair::of(LinkOptions::with_profile(Profile::P0)));
    let asking = thread::spawn(move || dialer.query("x").map(drop));
    drop(acceptor.accept(STEP).unwrap());
    assert!(matches!(asking.join().unwrap(), Err(PeerError::Rejected { code: 1 })));
}

#[test]
fn side_that_takes_no_queries_rejects_at_once() {
    let mut options = OptionsPair::of(LinkOptions::with_profile(Profile::P4));
    options.acceptor.inbound_queries_max = 0;
    let (dialer, _acceptor) = link_pair(&options);
    let started = Instant::now();
    assert!(matches!(dialer.query("x"), Err(PeerError::Rejected { code: 1 })));
    assert!(started.elapsed() < STEP);
}

#[test]
fn unanswered_query_times_out_and_the_late_acceptor_learns_it() {
    let (dialer, acceptor) = link_pair(&OptionsPair::of(LinkOptions::with_profile(Profile::P4)));
    let answer = dialer.query_within("slow", Duration::from_millis(50)).map(drop);
    assert!(matches!(answer, Err(PeerError::Timeout { .. })), "{answer:?}");
    dialer.ping(STEP).unwrap();
    let late = acceptor.accept(STEP).unwrap().accept(65_536);
    assert!(matches!(late, Err(PeerError::ResetBeforeResponse)), "{late:?}");
}

#[test]
fn too_long_query_is_refused_here_and_the_link_stays() {
    let (dialer, _acceptor) = link_pair(&OptionsPair::of(LinkOptions::with_profile(Profile::P0)));
    let answer = dialer.query(&"q".repeat(65_536)).map(drop);
    assert!(matches!(answer, Err(PeerError::Encode(_))), "{answer:?}");
    dialer.ping(STEP).unwrap();
}

#[test]
fn pings_are_answered_beside_bulk_nobody_reads() {
    let (links, mut caller, _target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P2)), 4_194_304);
    caller.write_all(&vec![1; 4_194_304]).unwrap();
    links.0.ping(STEP).unwrap();
    links.1.ping(STEP).unwrap();
}

#[test]
fn death_of_a_link_wakes_everybody_and_keeps_delivered_bytes() {
    for options in matrix() {
        let (links, mut caller, mut target) = sessions(&options, 4);
        caller.write_all(b"four").unwrap();
        let (mut caller_reader, mut caller_writer) = caller.split();
        let reading = thread::spawn(move || caller_reader.read(&mut [0; 1]));
        let writing = thread::spawn(move || caller_writer.write(b"no credit"));
        let asking = {
            let link = links.0.clone();
            thread::spawn(move || link.query("never answered").map(drop))
        };
        // Keeping the query unanswered until the link is gone.
        let query = links.1.accept(STEP).unwrap();
        links.1.close();
        for outcome in [reading.join().unwrap(), writing.join().unwrap()] {
            let error: io::Error = outcome.unwrap_err();
            let reason = session_error(&error);
            assert!(matches!(reason, Some(SessionError::LinkDown(_))), "{error:?}");
        }
        assert!(matches!(asking.join().unwrap(), Err(PeerError::LinkDown(_))));
        assert!(matches!(links.0.accept(STEP), Err(PeerError::LinkDown(_))));
        assert!(matches!(links.0.ping(STEP), Err(PeerError::LinkDown(_))));
        assert!(matches!(query.accept(1), Err(PeerError::LinkDown(_))));
        let mut four = [0; 4];
        target.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"four");
        assert!(target.read(&mut four).is_err());
        assert!(matches!(links.1.failure().as_deref(), Some(LinkFailure::ClosedHere)));
    }
}

#[test]
fn closing_a_link_still_sends_what_was_written() {
    let (links, caller, mut target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P4)), 4_194_304);
    let (_reader, mut writer) = caller.split();
    let bytes = pattern(4, 1_000_000);
    writer.write_all_deferred(&bytes).unwrap();
    let close = thread::spawn({
        let link = links.0.clone();
        move || link.close()
    });
    let mut received = vec![0; bytes.len()];
    target.read_exact(&mut received).unwrap();
    close.join().unwrap();
    assert_eq!(digest(&received), digest(&bytes));
}

#[test]
fn deferred_frames_share_records_and_stock_frames_do_not() {
    let messages = 100;
    let records = |options: LinkOptions| {
        let (links, caller, mut target) = sessions(&OptionsPair::of(options), 4_194_304);
        let (_reader, mut writer) = caller.split();
        let before = links.0.sent();
        for _ in 0..messages {
            writer.write_all_deferred(&[9; 500]).unwrap();
        }
        writer.flush().unwrap();
        target.read_exact(&mut vec![0; 500 * messages]).unwrap();
        let after = links.0.sent();
        assert_eq!(after.data_frames - before.data_frames, messages as u64);
        after.records - before.records
    };
    assert_eq!(records(LinkOptions::with_profile(Profile::P0)), 1);
    assert_eq!(records(LinkOptions::stock(Profile::P0)), 4 * messages as u64);
    assert_eq!(records(LinkOptions::stock(Profile::P4)), 4 * messages as u64);
}

#[test]
fn inner_link_runs_over_a_session_of_an_outer_link() {
    for outer in matrix() {
        for inner in [Profile::P0, Profile::P2, Profile::P4] {
            for style in [Style::Coalesced, Style::Stock] {
                let (_links, caller, target) = sessions(&outer, 65_536);
                let options = LinkOptions { style, ..LinkOptions::with_profile(inner) };
                let inner_links = support::pair_over(caller, target, &OptionsPair::of(options));
                assert_eq!(inner_links.0.profile(), inner);
                let (caller, target) = open_session(&inner_links.0, &inner_links.1, 65_536);
                both_ways(caller, target, 40_000);
                inner_links.0.ping(STEP).unwrap();
            }
        }
    }
}

#[test]
fn closing_an_inner_link_ends_the_outer_session_only() {
    let (links, caller, target) =
        sessions(&OptionsPair::of(LinkOptions::with_profile(Profile::P4)), 65_536);
    let options = OptionsPair::of(LinkOptions::with_profile(Profile::P0));
    let inner = support::pair_over(caller, target, &options);
    inner.0.close();
    let failure = wait_down(&inner.1);
    assert!(failure.contains("closed"), "{failure}");
    links.0.ping(STEP).unwrap();
    assert!(links.1.failure().is_none());
}

fn wait_down(link: &Link) -> String {
    let deadline = Instant::now() + STEP;
    while Instant::now() < deadline {
        if let Some(failure) = link.failure() {
            return failure.to_string();
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    panic!("the link is still up");
}

#[test]
fn wrong_identity_is_noticed_in_the_handshake() {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (key, other) = (waystation_peer::secret_key().unwrap(), support::key(9));
    let accepting = thread::spawn(move || {
        Link::accept_over(far, &support::key(2), &LinkOptions::with_profile(Profile::P4)).map(drop)
    });
    let options = LinkOptions::with_profile(Profile::P4);
    let dialed = Link::dial_over(near, &key, &other.identity(), &options).map(drop);
    assert!(dialed.is_err());
    let accepted = accepting.join().unwrap();
    assert!(matches!(accepted, Err(PeerError::Handshake(_))), "{accepted:?}");
}

#[test]
fn silent_responder_is_given_up_in_time() {
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let options = LinkOptions {
        establish_timeout: Duration::from_millis(100),
        ..LinkOptions::with_profile(Profile::P4)
    };
    let dialed =
        Link::dial_over(near, &support::key(1), &support::key(2).identity(), &options).map(drop);
    assert!(matches!(dialed, Err(PeerError::Timeout { .. })), "{dialed:?}");
}

#[test]
fn longest_query_crosses_whole_in_every_profile_and_style() {
    let longest = "q".repeat(65_535);
    for options in matrix() {
        let (asking, asked) = link_pair(&options);
        let query = longest.clone();
        let waiting = thread::spawn(move || asking.query(&query).map(drop));
        let arrived = asked.accept(STEP).unwrap();
        assert!(arrived.query() == longest.as_bytes(), "{options:?}");
        drop(arrived.accept(1024).unwrap());
        waiting.join().unwrap().unwrap();
    }
}
