//! What the pairs send: bulk, with every byte checked and digests compared at the end, and short
//! queries, many under way at a time. Each function here is the body of one thread of a pair.

use super::limits::{
    ACCEPT_TICK, BULK_BATCH_BYTES, BULK_WINDOW_BYTES, BURST_QUERIES, LATENCY_DIGITS,
    LATENCY_NS_MAX, WINDOW_BYTES,
};
use super::message::{Pattern, RECEIPT_BYTES, Receiver, Writer};
use super::nodes::{Direction, Flow, with_patience};
use super::tally::{Signals, Trouble, receive_error, stream_error};
use anyhow::Context;
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, Builder};
use waystation_peer::{InboundQuery, Link, PeerError, Session};

/// Query of bulk sessions.
const BULK_QUERY: &str = "demo.bulk";
/// Query of short sessions.
const SHORT_QUERY: &str = "demo.short";
/// Bytes of a short query's question and of its answer.
const SHORT_BYTES: usize = 16;

/// An empty histogram of latencies.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?)
}

/// One direction of a pair's bulk.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: Session,
    pub(super) receiver: Session,
    pub(super) pattern: Pattern,
}

impl Stream {
    /// Opens both directions of a pair.
    pub(super) fn open_both(flow: &Flow<'_>) -> anyhow::Result<[Self; 2]> {
        let open = |direction, flow_number: usize| {
            let (sender, receiver) = flow.session(direction, BULK_QUERY, BULK_WINDOW_BYTES)?;
            let number = u32::try_from(flow_number).unwrap_or(u32::MAX);
            anyhow::Ok(Self { sender, receiver, pattern: Pattern::new(number) })
        };
        let number = 2 * flow.pair.number;
        Ok([open(Direction::Out, number)?, open(Direction::Back, number + 1)?])
    }
}

/// Sends until told to stop, then waits for the receipt of the other side and compares it.
pub(super) fn send_bulk(
    session: Session,
    pattern: Pattern,
    signals: &Signals,
) -> anyhow::Result<()> {
    let (mut reader, mut writer) = session.split();
    let mut messages = Writer::new(pattern);
    let mut message = Vec::new();
    let (mut waiting_bytes, mut last) = (0, false);
    while !last {
        last = signals.is_stopping();
        messages.next(signals.clock.now_ns(), last, &mut message);
        signals.tally.sent.add(1);
        writer.write_all_deferred(&message).map_err(stream_error)?;
        waiting_bytes += message.len();
        if waiting_bytes >= BULK_BATCH_BYTES || last {
            writer.flush().map_err(stream_error)?;
            waiting_bytes = 0;
        }
    }
    let sent = messages.receipt();
    let mut received = [0; RECEIPT_BYTES];
    reader.read_exact(&mut received).map_err(stream_error).context("waiting for the receipt")?;
    if received == sent.to_bytes() {
        return Ok(());
    }
    let arrived = received.first_chunk().copied().map_or(0, u64::from_be_bytes);
    Err(if arrived == sent.messages {
        Trouble::Digest { messages: sent.messages }.into()
    } else {
        Trouble::Lost { sent: sent.messages, arrived }.into()
    })
}

/// Checks every byte until the last message, sends the receipt and waits for the end.
pub(super) fn receive_bulk(
    mut session: Session,
    pattern: Pattern,
    signals: &Signals,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let mut receiver = Receiver::new(pattern);
    let tally = &signals.tally;
    while !receiver.is_complete() {
        let (mut messages, mut bytes, mut now_ns) = (0, 0, None);
        let open = receiver.receive(&mut session, |message| {
            let now_ns = *now_ns.get_or_insert_with(|| signals.clock.now_ns());
            latency.saturating_record(now_ns.saturating_sub(message.stamp_ns).max(1));
            messages += 1;
            bytes += message.bytes as u64;
        });
        tally.messages.add(messages);
        tally.bulk_bytes.add(bytes);
        if !open.map_err(receive_error)? {
            return Err(Trouble::EndedEarly { arrived: receiver.arrived() }.into());
        }
    }
    session.write_all(&receiver.receipt().to_bytes()).map_err(stream_error)?;
    expect_end(&mut session)?;
    Ok(latency)
}

/// Waits for the end of a session that has nothing more to say.
fn expect_end(session: &mut Session) -> anyhow::Result<()> {
    match session.read(&mut [0]).map_err(stream_error).context("waiting for the end")? {
        0 => Ok(()),
        _ => Err(Trouble::Surplus.into()),
    }
}

/// What is asked under a number, and by which thread.
fn question(number: u64, asker: usize) -> [u8; SHORT_BYTES] {
    let asker = (asker as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (u128::from(number) << 64) | u128::from(asker);
    value.to_be_bytes()
}

/// The answer to a question: another one for each, and not the question itself.
fn answer(question: [u8; SHORT_BYTES]) -> [u8; SHORT_BYTES] {
    let mut answer = question.map(|byte| byte ^ 0xa5);
    answer.reverse();
    answer
}

/// Asks bursts of short queries until told to stop.
pub(super) fn ask(link: &Link, asker: usize, signals: &Signals) -> anyhow::Result<()> {
    let mut number = 0;
    while !signals.is_stopping() {
        let mut burst = Vec::with_capacity(BURST_QUERIES);
        for _ in 0..BURST_QUERIES {
            let asked = link.query(SHORT_QUERY).with_context(|| format!("query {number}"))?;
            burst.push((number, with_patience(asked)));
            number += 1;
        }
        for (number, session) in &mut burst {
            session.write_deferred(&question(*number, asker)).map_err(stream_error)?;
        }
        if let Some((_, session)) = burst.last_mut() {
            session.flush().map_err(stream_error)?;
        }
        for (number, mut session) in burst {
            let right = answer(question(number, asker));
            read_answer(&mut session, number, right)
                .with_context(|| format!("answer of query {number}"))?;
            signals.tally.queries.add(1);
            signals.tally.query_bytes.add(2 * SHORT_BYTES as u64);
        }
    }
    Ok(())
}

fn read_answer(session: &mut Session, number: u64, right: [u8; SHORT_BYTES]) -> anyhow::Result<()> {
    let mut received = [0; SHORT_BYTES];
    let mut filled = 0;
    while let Some(room) = received.get_mut(filled..).filter(|room| !room.is_empty()) {
        match session.read(room).map_err(stream_error)? {
            0 => return Err(Trouble::ShortAnswer { number }.into()),
            bytes => filled += bytes,
        }
    }
    if received != right {
        return Err(Trouble::WrongAnswer { number }.into());
    }
    // The answering side resets; nothing may be lost before that and nothing may come after.
    expect_end(session)
}

/// Accepts and answers short queries as long as anybody asks.
///
/// Accepting never waits for an answering thread, or askers that open a burst and answerers that
/// wait for its first question would wait for each other.
pub(super) fn answer_all(link: &Link, askers: &AtomicUsize) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let (accepted, sessions) = mpsc::channel();
        let answering = Builder::new().spawn_scoped(scope, move || answer_each(&sessions))?;
        let outcome = accept_each(link, askers, &accepted);
        drop(accepted);
        let answered = answering.join().map_err(|_panic| Trouble::Panic)?;
        answered.and(outcome)
    })
}

fn accept_each(
    link: &Link,
    askers: &AtomicUsize,
    accepted: &mpsc::Sender<Session>,
) -> anyhow::Result<()> {
    loop {
        match link.accept(ACCEPT_TICK) {
            Ok(query) => {
                // Nobody takes it any more when answering has failed; that error says more.
                let _ = accepted.send(accept_short(query)?);
            }
            Err(PeerError::Timeout { .. }) if askers.load(Ordering::Acquire) > 0 => {}
            Err(PeerError::Timeout { .. }) => return Ok(()),
            Err(error) => return Err(error).context("waiting for short queries"),
        }
    }
}

fn accept_short(query: InboundQuery) -> anyhow::Result<Session> {
    if query.query() != SHORT_QUERY.as_bytes() {
        return Err(Trouble::ForeignQuery.into());
    }
    Ok(with_patience(query.accept(WINDOW_BYTES)?))
}

fn answer_each(sessions: &mpsc::Receiver<Session>) -> anyhow::Result<()> {
    for mut session in sessions {
        let mut question = [0; SHORT_BYTES];
        session.read_exact(&mut question).map_err(stream_error).context("reading a question")?;
        session.write_all(&answer(question)).map_err(stream_error).context("answering")?;
        session.reset();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::clock::Clock;
    use crate::demo::clock::pause;
    use crate::demo::tally::Phase;
    use std::collections::BTreeSet;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use waystation_astral::frame::Profile;
    use waystation_peer::{LinkOptions, secret_key};

    /// Two nodes linked without an appliance between them.
    fn links() -> (Link, Link) {
        let (near, far) = UnixStream::pair().unwrap();
        let (near_key, far_key) = (secret_key().unwrap(), secret_key().unwrap());
        let options = LinkOptions::with_profile(Profile::P4);
        let far_identity = far_key.identity();
        let accepting = {
            let options = options.clone();
            thread::spawn(move || Link::accept_over(far, &far_key, &options).unwrap())
        };
        let near = Link::dial_over(near, &near_key, &far_identity, &options).unwrap();
        (near, accepting.join().unwrap())
    }

    fn sessions(links: &(Link, Link)) -> (Session, Session) {
        let far = links.1.clone();
        let accepting = thread::spawn(move || {
            far.accept(Duration::from_secs(10)).unwrap().accept(BULK_WINDOW_BYTES).unwrap()
        });
        let near = links.0.query(BULK_QUERY).unwrap();
        (near, accepting.join().unwrap())
    }

    fn signals() -> Signals {
        Signals::new(Clock::start(), "test")
    }

    /// Waits until something has happened, or until whoever does it has come to an end. It never
    /// takes long, but on a busy machine a thread may not have begun for seconds.
    fn wait_until(is_so: impl Fn() -> bool, doing: &thread::ScopedJoinHandle<'_, impl Sized>) {
        while !is_so() && !doing.is_finished() {
            pause(Duration::from_millis(1));
        }
    }

    fn moved(sent_flow: u32, expected_flow: u32, signals: &Signals) -> [anyhow::Result<()>; 2] {
        let links = links();
        let (sender, receiver) = sessions(&links);
        thread::scope(|scope| {
            let sending = scope.spawn(|| send_bulk(sender, Pattern::new(sent_flow), signals));
            let receiving = scope
                .spawn(|| receive_bulk(receiver, Pattern::new(expected_flow), signals).map(drop));
            wait_until(|| signals.tally.messages.get() > 1, &receiving);
            signals.set_stopping(true);
            [sending.join().unwrap(), receiving.join().unwrap()]
        })
    }

    #[test]
    fn bulk_is_counted_once_on_both_sides() {
        let signals = signals();
        let [sent, received] = moved(5, 5, &signals);
        sent.unwrap();
        received.unwrap();
        let tally = &signals.tally;
        assert!(tally.messages.get() > 1);
        assert_eq!(tally.sent.get(), tally.messages.get());
        assert_eq!(tally.lost(), 0);
    }

    #[test]
    fn bulk_of_another_flow_fails_on_both_sides_and_counts_as_corrupt() {
        let signals = signals();
        let [sent, received] = moved(5, 6, &signals);
        assert!(sent.is_err());
        let reason = received.unwrap_err();
        assert!(matches!(reason.downcast_ref(), Some(Trouble::Corrupt(_))), "{reason:#}");
        signals.fail("pair 0".to_owned(), Phase::Bulk, reason);
        let (tally, failure) = signals.into_parts();
        assert_eq!(tally.corrupt.get(), 1);
        let said = failure.unwrap().to_string();
        assert!(said.starts_with("test, pair 0, bulk: corrupt: "), "{said}");
    }

    #[test]
    fn short_queries_are_answered_until_nobody_asks() {
        let (near, far) = links();
        let (signals, askers) = (signals(), AtomicUsize::new(1));
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let asked = ask(&near, 0, &signals);
                askers.fetch_sub(1, Ordering::Release);
                asked
            });
            let answering = scope.spawn(|| answer_all(&far, &askers));
            wait_until(|| signals.tally.queries.get() >= BURST_QUERIES as u64, &asking);
            signals.set_stopping(true);
            asking.join().unwrap().unwrap();
            answering.join().unwrap().unwrap();
        });
        let queries = signals.tally.queries.get();
        assert!(queries >= BURST_QUERIES as u64);
        assert_eq!(signals.tally.query_bytes.get(), queries * 2 * SHORT_BYTES as u64);
    }

    #[test]
    fn wrong_short_and_long_answers_are_noticed() {
        let right = answer(question(7, 1));
        let longer = [&right[..], b"!"].concat();
        let mut wrong = right;
        wrong[3] ^= 1;
        for (said, expected) in [
            (&wrong[..], "query 7 was answered with other bytes than it should be"),
            (&right[..9], "query 7 ended without its whole answer"),
            (&longer[..], "there was more in the session than was sent"),
        ] {
            let links = links();
            let (mut asker, mut answerer) = sessions(&links);
            answerer.write_all(said).unwrap();
            answerer.reset();
            let outcome = read_answer(&mut asker, 7, right).unwrap_err();
            assert_eq!(outcome.to_string(), expected);
        }
    }

    #[test]
    fn questions_and_answers_are_all_different() {
        let questions = (0..4).flat_map(|asker| (0..100).map(move |n| question(n, asker)));
        let all: BTreeSet<_> = questions.flat_map(|asked| [asked, answer(asked)]).collect();
        assert_eq!(all.len(), 4 * 100 * 2);
    }
}
