//! The A2AL signalling hub: its WebSockets, and the task that serves them.
//!
//! The hub itself is sans-IO (`waystation_a2al::hub`). One task of the management thread's runtime
//! owns it and does what it wants done; each connection is a task of its own ([`connection`]) that
//! decides nothing. The rest of the management core talks to it through a [`SignalHub`]. It never
//! waits for a data core, and it never waits for a connection: what one does not take is bounded,
//! and then it is cut.

mod connection;
mod document;
pub mod limits;
#[cfg(test)]
mod tests;

pub use document::{closed, document, ignored, refused, text};

use crate::clock;
use connection::Line;
use limits::{
    ACCEPT_PAUSE, EVENTS_PER_TURN_MAX, EVENTS_WAITING_MAX, FIGURES_PERIOD, OUTGOING_BYTES_ALL_MAX,
    OUTGOING_BYTES_MAX, OUTGOING_MESSAGES_MAX, QUESTIONS_WAITING_MAX, STOP_TIMEOUT,
};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use waystation_a2al::hub::{
    Action, CloseReason, ConnectionId, Hub, HubGauges, HubLimits, HubMessage, HubStatistics,
    RequestRefusal,
};
use waystation_a2al::time::Millis;

const NS_PER_MS: u64 = 1_000_000;
/// What a connection beyond the limits is sent before it is closed.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// A question of a connected agent to the DHT, for whoever drives its node.
#[derive(Debug)]
pub struct NodeQuestion {
    /// The signed message.
    pub request: Vec<u8>,
    /// The TCP address that it came from, which the answer names.
    pub source: SocketAddr,
    from: ConnectionId,
    /// Room for the answer, so that none is lost however much else the hub is told.
    room: mpsc::OwnedPermit<Answer>,
}

/// What the node says to a question of a connection; none if it does not answer it.
type Answer = (ConnectionId, Option<Vec<u8>>);

impl NodeQuestion {
    /// Answers it. Whoever asked is told nothing if that is what the node says.
    pub fn answer(self, answer: Option<Vec<u8>>) {
        self.room.send((self.from, answer));
    }
}

/// What the stats socket is told.
#[derive(Clone, Debug)]
pub struct HubFigures {
    /// Addresses listened on, with the ports that the kernel gave.
    pub listen: Vec<SocketAddr>,
    /// What may be.
    pub limits: HubLimits,
    /// What is.
    pub gauges: HubGauges,
    /// What was.
    pub statistics: HubStatistics,
    /// Bytes that wait to be sent.
    pub outgoing_bytes: usize,
}

/// The rest of the management core's hold on the hub.
#[derive(Debug)]
pub struct SignalHub {
    limits: watch::Sender<HubLimits>,
    figures: watch::Receiver<Arc<HubFigures>>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl SignalHub {
    /// Starts the tasks. Called on the management thread, within its runtime. Without anybody to
    /// ask, questions to the DHT are not answered.
    ///
    /// # Errors
    /// Those of the runtime, which may refuse to watch a socket.
    pub fn start(
        listeners: Vec<std::net::TcpListener>,
        limits: HubLimits,
        node: Option<mpsc::Sender<NodeQuestion>>,
    ) -> io::Result<Self> {
        let listeners = listeners.into_iter().map(TcpListener::from_std);
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        let listen: Vec<_> =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        for address in &listen {
            tracing::info!(%address, "A2AL signalling hub");
        }
        let mut server = Server::new(listen, limits, node);
        for listener in listeners {
            server.tasks.spawn(accept(listener, server.event_sender.clone()));
        }
        let (limits, new_limits) = watch::channel(limits);
        let (figures, seen) = watch::channel(Arc::new(server.figures()));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(new_limits, figures, stopped));
        Ok(Self { limits, figures: seen, stop: Some(stop), task: Some(task) })
    }

    /// Takes up what a reload may change.
    pub fn reload(&self, limits: HubLimits) {
        self.limits.send_replace(limits);
    }

    /// The latest figures, at most [`FIGURES_PERIOD`] old.
    pub fn figures(&self) -> Arc<HubFigures> {
        Arc::clone(&self.figures.borrow())
    }

    /// Ends all connections, and waits for that.
    pub async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A task that has ended has nothing to stop.
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take()
            && timeout(STOP_TIMEOUT, task).await.is_err()
        {
            tracing::warn!("the signalling hub did not end in time");
        }
    }
}

/// What the hub's task is told.
#[derive(Debug)]
enum Event {
    Accepted {
        stream: TcpStream,
        peer: SocketAddr,
    },
    /// A request for something else than a WebSocket.
    Refused {
        id: ConnectionId,
    },
    Requested {
        id: ConnectionId,
        path: String,
        query: String,
        reply: oneshot::Sender<Result<(), RequestRefusal>>,
    },
    Heard {
        id: ConnectionId,
        message: HubMessage,
    },
    /// A ping, or the answer to one.
    Control {
        id: ConnectionId,
    },
    Slow {
        id: ConnectionId,
    },
    Ended {
        id: ConnectionId,
    },
}

/// What a connection's task is to send.
#[derive(Debug)]
enum Outgoing {
    Say { message: HubMessage, _share: Share },
    Ping,
    End(CloseReason),
}

/// Bytes that wait on a connection and on all of them, until the message is gone.
#[derive(Debug)]
struct Share {
    bytes: usize,
    own: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Share {
    fn take(bytes: usize, own: &Arc<AtomicUsize>, all: &Arc<AtomicUsize>) -> Option<Self> {
        let fits = own.load(Ordering::Relaxed) + bytes <= OUTGOING_BYTES_MAX
            && all.load(Ordering::Relaxed) + bytes <= OUTGOING_BYTES_ALL_MAX;
        fits.then(|| {
            own.fetch_add(bytes, Ordering::Relaxed);
            all.fetch_add(bytes, Ordering::Relaxed);
            Self { bytes, own: Arc::clone(own), all: Arc::clone(all) }
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.own.fetch_sub(self.bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The hub's end of a connection.
#[derive(Debug)]
struct Link {
    outgoing: mpsc::Sender<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Server {
    hub: Hub,
    limits: HubLimits,
    listen: Vec<SocketAddr>,
    links: HashMap<ConnectionId, Link>,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    event_sender: mpsc::Sender<Event>,
    node: Option<mpsc::Sender<NodeQuestion>>,
    answers: mpsc::Receiver<Answer>,
    answer_sender: mpsc::Sender<Answer>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Server {
    fn new(
        listen: Vec<SocketAddr>,
        limits: HubLimits,
        node: Option<mpsc::Sender<NodeQuestion>>,
    ) -> Self {
        let (event_sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let (answer_sender, answers) = mpsc::channel(QUESTIONS_WAITING_MAX);
        Self {
            hub: Hub::new(limits),
            limits,
            listen,
            links: HashMap::new(),
            tasks: JoinSet::new(),
            events,
            event_sender,
            node,
            answers,
            answer_sender,
            waiting_bytes: Arc::default(),
        }
    }

    fn figures(&self) -> HubFigures {
        HubFigures {
            listen: self.listen.clone(),
            limits: self.limits,
            gauges: self.hub.gauges(),
            statistics: self.hub.statistics().clone(),
            outgoing_bytes: self.waiting_bytes.load(Ordering::Relaxed),
        }
    }

    async fn run(
        mut self,
        mut limits: watch::Receiver<HubLimits>,
        figures: watch::Sender<Arc<HubFigures>>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut period = interval(FIGURES_PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wait = self.until_next_tick();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_events(event),
                Some((id, answer)) = self.answers.recv() => self.hub.answer(id, answer),
                () = sleep(wait) => {}
                _ = period.tick() => {
                    figures.send_replace(Arc::new(self.figures()));
                }
                Ok(()) = limits.changed() => {
                    self.limits = *limits.borrow_and_update();
                    self.hub.set_limits(self.limits);
                }
                Some(_ended) = self.tasks.join_next() => {}
                _ = &mut stopped => return,
            }
            self.hub.tick(now());
            self.act();
            // Messages may come faster than they are copied; others have their turn first.
            tokio::task::yield_now().await;
        }
    }

    /// How long there is nothing to do but what events bring; long if nobody is there.
    fn until_next_tick(&self) -> Duration {
        let next = self.hub.next_tick().map(|at| at.since(now()));
        // At least a millisecond, as that is how finely the hub counts.
        Duration::from_millis(next.unwrap_or(3_600_000).max(1))
    }

    fn on_events(&mut self, first: Event) {
        let mut event = Some(first);
        for _ in 0..EVENTS_PER_TURN_MAX {
            let Some(taken) = event else { return };
            self.on_event(taken);
            self.act();
            event = self.events.try_recv().ok();
        }
        if let Some(last) = event {
            self.on_event(last);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { stream, peer } => self.on_accepted(stream, peer),
            Event::Refused { id } => self.hub.refuse(id),
            Event::Requested { id, path, query, reply } => {
                // Whoever asked may have gone in the meantime.
                let _ = reply.send(self.hub.request(id, &path, &query, now()));
            }
            Event::Heard { id, message } => self.hub.receive(id, message, now()),
            Event::Control { id } => self.hub.hear_control(id, now()),
            Event::Slow { id } => self.hub.is_slow(id),
            Event::Ended { id } => self.forget(id),
        }
    }

    fn on_accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Frames are small, and their senders wait for what comes back.
        let _ = stream.set_nodelay(true);
        if let Err(stream) = self.take_in(stream, peer) {
            // What fits into the socket's buffer, which is empty.
            let _ = stream.try_write(TURNED_AWAY);
        }
    }

    /// Serves a connection, or gives it back if there may be no more.
    fn take_in<S>(&mut self, stream: S, peer: SocketAddr) -> Result<(), S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(id) = self.hub.connect(peer, now()) else { return Err(stream) };
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let line = Line { id, events: self.event_sender.clone(), outgoing: receiver };
        let task = self.tasks.spawn(connection::serve(stream, line));
        let waiting_bytes = Arc::default();
        self.links.insert(id, Link { outgoing, waiting_bytes, task });
        Ok(())
    }

    /// Does what the hub wants done.
    fn act(&mut self) {
        while let Some(action) = self.hub.take_action() {
            match action {
                Action::Send { to, message } => self.say(to, message),
                Action::Ping { to } => {
                    let link = self.links.get(&to);
                    if link.is_some_and(|link| link.outgoing.try_send(Outgoing::Ping).is_err()) {
                        self.hub.is_slow(to);
                    }
                }
                Action::Ask { from, source, request } => self.ask(from, source, request),
                Action::Close { connection, why, is_open } => {
                    let link = self.links.get(&connection).filter(|_| is_open);
                    let is_told =
                        link.is_some_and(|link| link.outgoing.try_send(Outgoing::End(why)).is_ok());
                    if !is_told {
                        self.forget(connection);
                    }
                }
            }
        }
    }

    fn say(&mut self, to: ConnectionId, message: HubMessage) {
        let Some(link) = self.links.get(&to) else { return };
        let share = Share::take(message.bytes(), &link.waiting_bytes, &self.waiting_bytes);
        let is_taken = share.is_some_and(|share| {
            link.outgoing.try_send(Outgoing::Say { message, _share: share }).is_ok()
        });
        if !is_taken {
            self.hub.is_slow(to);
        }
    }

    /// Asks the node, if there is one and room for its answer.
    fn ask(&mut self, from: ConnectionId, source: SocketAddr, request: Vec<u8>) {
        let Some(node) = &self.node else { return self.hub.answer(from, None) };
        let room = self.answer_sender.clone().try_reserve_owned().ok();
        let question = room.map(|room| NodeQuestion { request, source, from, room });
        if question.is_none_or(|question| node.try_send(question).is_err()) {
            self.hub.too_many_questions();
        }
    }

    /// Lets go of a connection, and ends its task if that has not ended by itself.
    fn forget(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.remove(&id) {
            link.task.abort();
        }
        self.hub.closed(id);
    }
}

/// Takes connections in, one after the other, for as long as there is a hub.
async fn accept(listener: TcpListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if events.send(Event::Accepted { stream, peer }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the signalling hub");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn now() -> Millis {
    Millis(clock::now().monotonic_ns / NS_PER_MS)
}
