//! The task that drives the node: datagrams, ticks, questions, files.
//!
//! Runs on the management thread. Each round does a bounded piece of work and then lets everything
//! else on the thread have its turn, so a flood costs the node's peers, not the rest of the program.

use super::document;
use super::figures::{DhtFigures, LookUps};
use super::kernel_drops::drops_of;
use super::limits::{
    DATAGRAMS_PER_TURN, FIGURES_PERIOD, LOOK_UP_TIMEOUT, LOOK_UPS_BY_COMMAND_MAX,
    RECEIVED_BYTES_MAX, REFRESH_PERIOD, RESTORED_PER_TURN, TICK_PAUSE, TICK_PERIOD_MAX,
};
use super::own::{self, OwnPayload};
use super::question::DhtQuestion;
use super::settings::{DhtLive, DhtSettings};
use super::snapshot_file::SnapshotFile;
use super::sockets::{SocketIndex, Sockets};
use super::{DhtError, Request};
use crate::clock::{self, Moment};
use crate::documents::SCHEMA;
use crate::hub::NodeQuestion;
use crate::stats_socket::Document;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use waystation_a2al::address::Address;
use waystation_a2al::address_text;
use waystation_a2al::keys::SigningKey;
use waystation_a2al::node::{Event, Node};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::query::{Found, QueryId};
use waystation_a2al::record::{RecordType, SignedRecord};
use waystation_a2al::snapshot::Snapshot;
use waystation_a2al::time::{Millis, Now, UnixSeconds};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Somebody who waits for a look-up.
#[derive(Debug)]
struct Waiting {
    address: Option<Address>,
    reply: oneshot::Sender<Document>,
    until: Instant,
}

/// The node with everything around it.
#[derive(Debug)]
pub(super) struct Driver {
    node: Node,
    sockets: Sockets,
    snapshot: SnapshotFile,
    snapshot_interval: Duration,
    snapshot_due: Instant,
    /// Records of the last run that are still to be verified.
    restoring: std::vec::IntoIter<(NodeId, SignedRecord)>,
    not_restored: u64,
    allows_private: bool,
    advertise: Vec<SocketAddr>,
    live: DhtLive,
    endpoints: Vec<SocketAddr>,
    /// What of the appliance is published.
    own: Vec<OwnPayload>,
    waiting: BTreeMap<QueryId, Waiting>,
    look_ups: LookUps,
    inodes: Vec<u64>,
    kernel_drops: u64,
    refresh_due: Instant,
    figures_due: Instant,
}

impl Driver {
    /// Reads what is kept from the last run.
    pub(super) fn new(
        settings: DhtSettings,
        sockets: Sockets,
        now: Moment,
    ) -> Result<Self, DhtError> {
        let key = SigningKey::from_seed(&settings.files.seed).map_err(|_refused| DhtError::Key)?;
        let look_ups = LookUps::new().ok_or(DhtError::Key)?;
        let snapshot = SnapshotFile::new(settings.files.snapshot);
        let last = snapshot.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the DHT begins without what it knew");
            Snapshot::default()
        });
        let now = clock_of(now);
        let allows_private = settings.node.allows_private;
        let mut node = Node::new(key, settings.node, random_seed(), last.sequence, now);
        snapshot.read_seen(node.seen_mut(), now.unix);
        node.restore_nodes(&last.nodes, now);
        let (address, known) = (address_text::format(&node.address()), last.nodes.len());
        tracing::info!(%address, nodes = known, records = last.records.len(), "the DHT has");
        let started = Instant::now();
        Ok(Self {
            inodes: sockets.inodes(),
            node,
            sockets,
            snapshot,
            snapshot_interval: settings.snapshot_interval,
            snapshot_due: started + settings.snapshot_interval,
            restoring: last.records.into_iter(),
            not_restored: 0,
            allows_private,
            advertise: settings.advertise,
            live: settings.live,
            endpoints: Vec::new(),
            own: Vec::new(),
            waiting: BTreeMap::new(),
            look_ups,
            kernel_drops: 0,
            refresh_due: started,
            figures_due: started + FIGURES_PERIOD,
        })
    }

    pub(super) fn figures(&self, now: Moment) -> DhtFigures {
        let around = [self.sockets.unsent, self.kernel_drops, self.not_restored];
        DhtFigures::of(&self.node, &self.look_ups, around, clock_of(now))
    }

    /// Runs until it is stopped.
    pub(super) async fn run(
        mut self,
        mut questions: mpsc::Receiver<Request>,
        mut hub: mpsc::Receiver<NodeQuestion>,
        mut live: watch::Receiver<DhtLive>,
        figures: watch::Sender<Arc<DhtFigures>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        loop {
            let due = self.next_due();
            let has_portions = self.has_portions();
            let mut more_to_receive = false;
            tokio::select! {
                from = self.sockets.readable() => more_to_receive = self.receive(from),
                () = sleep_until(due) => {}
                () = yield_now(), if has_portions => self.go_on(),
                Some(request) = questions.recv() => self.on_request(request),
                Some(question) = hub.recv() => self.on_hub(question),
                Ok(()) = live.changed() => {
                    let live = live.borrow_and_update().clone();
                    self.take_up(live);
                }
                _ = &mut stop => break,
            }
            self.tick();
            if Instant::now() >= self.figures_due {
                self.figures_due = Instant::now() + FIGURES_PERIOD;
                figures.send_replace(Arc::new(self.figures(clock::now())));
            }
            if more_to_receive {
                yield_now().await;
            }
        }
        self.leave();
    }

    /// Takes in so many datagrams at most, and says whether there may be more.
    fn receive(&mut self, from: SocketIndex) -> bool {
        let now = clock_of(clock::now());
        let mut buffer = [0; RECEIVED_BYTES_MAX];
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some((datagram, source)) = self.sockets.receive(from, &mut buffer) else {
                return false;
            };
            self.node.receive(datagram, source, now);
            self.send(Some((from, source)));
        }
        true
    }

    /// Sends what the node wants sent: answers from the socket that was asked, as whoever asked knows
    /// no other.
    fn send(&mut self, beside: Option<(SocketIndex, SocketAddr)>) {
        while let Some(outgoing) = self.node.take_datagram() {
            let asked = beside.filter(|(_, source)| *source == outgoing.to);
            self.sockets.send(&outgoing, asked.map(|(socket, _)| socket));
        }
    }

    fn tick(&mut self) {
        let now = clock_of(clock::now());
        if self.node.next_tick() <= now.millis {
            self.node.tick(now);
        }
        if Instant::now() >= self.refresh_due {
            self.refresh_due = Instant::now() + REFRESH_PERIOD;
            self.refresh(now);
        }
        if Instant::now() >= self.snapshot_due {
            self.snapshot_due = Instant::now() + self.snapshot_interval;
            // Before the last run's records are in, the file that has them is the better one.
            if self.restoring.len() == 0
                && let Err(error) = self.snapshot.begin(&self.node, now.unix)
            {
                tracing::warn!(%error, "the DHT's snapshot is not written");
            }
        }
        self.send(None);
        self.tell();
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let until_tick = self.node.next_tick().since(clock_of(clock::now()).millis);
        let tick = Duration::from_millis(until_tick).clamp(TICK_PAUSE, TICK_PERIOD_MAX);
        let late = self.waiting.values().map(|waiting| waiting.until).min();
        let due = [now + tick, self.figures_due, self.refresh_due, self.snapshot_due];
        due.into_iter().chain(late).min().unwrap_or(now + tick)
    }

    // Portions

    fn has_portions(&self) -> bool {
        self.restoring.len() > 0 || self.snapshot.is_under_way()
    }

    fn go_on(&mut self) {
        let now = clock_of(clock::now());
        for (key, record) in self.restoring.by_ref().take(RESTORED_PER_TURN) {
            if self.node.restore_record(key, record, now).is_err() {
                // Mostly because its time is over.
                self.not_restored += 1;
            }
        }
        if let Err(error) = self.snapshot.go_on() {
            tracing::warn!(%error, "the DHT's snapshot is not written");
        }
    }

    /// What is published of this relay ends soon, unless the next run renews it; what somebody
    /// published by command stays for its time. What is known is kept for the next run.
    fn leave(mut self) {
        let now = clock_of(clock::now());
        let own: Vec<_> = self.own.iter().map(|own| (own.key, own.record_type)).collect();
        let told = self.node.leave(&own, now);
        self.send(None);
        tracing::info!(told, "told the replicas of this node's records that it leaves");
        if self.restoring.len() > 0 {
            return tracing::info!("the DHT's snapshot stays as it was: it was not restored yet");
        }
        match self.snapshot.write_last(&self.node, now.unix) {
            Ok(()) => tracing::info!(records = self.node.store().len(), "left the DHT"),
            Err(error) => tracing::warn!(%error, "what the DHT knew is lost"),
        }
    }

    // What is published

    fn take_up(&mut self, live: DhtLive) {
        self.node.set_bootstrap(live.bootstrap.clone());
        self.live = live;
        self.publish_services(clock_of(clock::now()));
    }

    /// Finds out where the node is reached, and publishes it when that has changed.
    fn refresh(&mut self, now: Now) {
        self.kernel_drops = drops_of(&self.inodes).unwrap_or(self.kernel_drops);
        let listen = self.sockets.addresses();
        let (nat, private) = (self.node.nat(), self.allows_private);
        let endpoints = own::endpoints(&self.advertise, listen, private, nat, now.millis);
        if endpoints != self.endpoints {
            self.endpoints.clone_from(&endpoints);
            self.node.set_endpoints(endpoints, now);
            self.publish_services(now);
        }
    }

    fn publish_services(&mut self, now: Now) {
        let services = self.live.services.as_ref();
        let wanted = services
            .map_or(Ok(Vec::new()), |services| services.payloads(self.node.id(), &self.endpoints));
        let wanted = wanted.unwrap_or_else(|error| {
            tracing::warn!(%error, "the DHT's record of this relay is not published");
            Vec::new()
        });
        for old in &self.own {
            let is_kept =
                wanted.iter().any(|new| (new.key, new.record_type) == (old.key, old.record_type));
            if !is_kept {
                self.node.withdraw_own(old.key, old.record_type);
            }
        }
        for new in wanted.iter().filter(|new| !self.own.contains(new)) {
            let OwnPayload { key, record_type, payload } = new;
            if let Err(error) = self.node.publish_own(*key, *record_type, payload.clone(), now) {
                tracing::warn!(%error, %key, "a DHT record of this relay is not published");
            }
        }
        self.own = wanted;
    }

    // Questions

    /// Answers what an agent asks over the signalling hub.
    fn on_hub(&mut self, question: NodeQuestion) {
        let now = clock_of(clock::now());
        let answer = self.node.answer_over_stream(&question.request, question.source, now);
        question.answer(answer.ok());
    }

    fn on_request(&mut self, Request { question, reply }: Request) {
        let now = clock_of(clock::now());
        let document = match question {
            DhtQuestion::Status => {
                let figures = self.figures(clock::now());
                let listen: Vec<_> = self.sockets.addresses().collect();
                document::status(&self.node, &figures, &listen, &self.endpoints, now)
            }
            DhtQuestion::Peers { limit } => document::peers(&self.node, limit, now),
            DhtQuestion::Records { limit } => document::records(&self.node, limit),
            DhtQuestion::LookUp(_) | DhtQuestion::Get { .. }
                if self.waiting.len() >= LOOK_UPS_BY_COMMAND_MAX =>
            {
                // Before it is begun: it would take one of the node's own.
                return answer(reply, too_many_look_ups());
            }
            DhtQuestion::LookUp(address) => {
                let (key, kind) = (address.node_id(), RecordType::ENDPOINT);
                let query = self.node.find_records(key, kind, now);
                return self.wait_for(query, Some(address), reply);
            }
            DhtQuestion::Get { key, record_type } => {
                let query = self.node.aggregate_records(key, record_type, now);
                return self.wait_for(query, None, reply);
            }
            DhtQuestion::Publish { key, record_type, payload } => {
                return self.publish(key, record_type, payload, now, reply);
            }
            DhtQuestion::PublishAll => {
                self.node.renew_all_own(now);
                json!({ "schema": SCHEMA, "published": self.node.published().count() })
            }
            DhtQuestion::Withdraw { key, record_type } => {
                if !self.node.withdraw_own(key, record_type) {
                    let message = format!("nothing of type {} under {key}", record_type.0);
                    return answer(reply, Document::not_found("not_published", &message));
                }
                json!({ "schema": SCHEMA, "withdrawn": key.to_string() })
            }
        };
        answer(reply, Document::json(&document));
    }

    fn wait_for(
        &mut self,
        query: Option<QueryId>,
        address: Option<Address>,
        reply: oneshot::Sender<Document>,
    ) {
        match query {
            Some(query) => {
                let until = Instant::now() + LOOK_UP_TIMEOUT;
                self.waiting.insert(query, Waiting { address, reply, until });
            }
            None => answer(reply, too_many_look_ups()),
        }
    }

    fn publish(
        &mut self,
        key: NodeId,
        record_type: RecordType,
        payload: Vec<u8>,
        now: Now,
        reply: oneshot::Sender<Document>,
    ) {
        let document = match self.node.publish_own(key, record_type, payload, now) {
            Ok(_) => Document::json(&json!({
                "schema": SCHEMA,
                "published": key.to_string(),
                "type": record_type.0,
            })),
            Err(error) => Document::failed("not_published", &error.to_string()),
        };
        answer(reply, document);
    }

    /// Takes what the node has to tell, and answers whoever waits for it.
    fn tell(&mut self) {
        while let Some(event) = self.node.take_event() {
            match event {
                Event::Joined { node, at } => tracing::debug!(%node, %at, "met a node of the DHT"),
                Event::Found { query, found } => self.on_found(query, &found),
            }
        }
        let now = Instant::now();
        for (_, late) in self.waiting.extract_if(.., |_, waiting| waiting.until <= now) {
            let message = "the look-up has not ended in time";
            answer(late.reply, Document::unavailable("timeout", message));
        }
    }

    fn on_found(&mut self, query: QueryId, found: &Found) {
        self.look_ups.enter(found);
        if let Some(waiting) = self.waiting.remove(&query) {
            let document = document::found(found, waiting.address);
            answer(waiting.reply, Document::json(&document));
        }
    }
}

fn too_many_look_ups() -> Document {
    Document::unavailable("busy", "too many look-ups are under way")
}

fn answer(reply: oneshot::Sender<Document>, document: Document) {
    // Whoever asked may have gone in the meantime.
    let _ = reply.send(document);
}

fn clock_of(moment: Moment) -> Now {
    Now {
        millis: Millis(moment.monotonic_ns / NS_PER_MS),
        unix: UnixSeconds(moment.unix_ns / NS_PER_S),
    }
}

/// What the node's random values follow from.
fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // The kernel's source cannot fail once the machine has booted.
    assert!(SystemRandom::new().fill(&mut seed).is_ok(), "the system has no random numbers");
    seed
}
