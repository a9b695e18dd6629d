//! What the data cores report: logged, decided upon by the node and the dialer, entered in accounts
//! and in the journal.

use super::{ManagementCore, RuntimeError, draw};
use crate::clock::{self, Moment};
use crate::dialing::{Around, Dialer};
use crate::documents::CoreListing;
use crate::limits::REPORTS_PER_ROUND;
use crate::node::Context;
use crate::node::limits::OPERATOR_ROUND;
use std::sync::Arc;
use waystation_engine::control::{Command, Report};
use waystation_relay::drop_reason::DropReason;

/// What a file of registrations that cannot be written is called where it is told of.
const REGISTRATIONS: &str = "registrations";

impl ManagementCore {
    /// Takes what the cores have reported. Whoever asks for a node may have been told by it that it
    /// is linked, on another core: that core's report lies in its ring by the time the query is
    /// taken, though perhaps not when that ring was looked at. So all rings are looked at twice,
    /// and links that have come up are entered before anything else.
    pub(super) fn drain_reports(&mut self) {
        let now = clock::now();
        self.more_reports = false;
        let mut reports = self.take_reports(now);
        reports.append(&mut self.take_reports(now));
        for report in reports {
            self.on_report(now, report);
        }
        self.note_node_events(now);
        self.count();
    }

    /// What lies in the rings, in the order of each, but for links that have come up.
    fn take_reports(&mut self, now: Moment) -> Vec<Report> {
        let mut taken = Vec::new();
        for core in self.cores() {
            let mut left = REPORTS_PER_ROUND;
            while let Some(report) = self.end.next_report(core) {
                match report {
                    Report::LinkUp(_) | Report::LinkMoved { .. } => self.on_report(now, report),
                    _ => taken.push(report),
                }
                left -= 1;
                if left == 0 {
                    self.more_reports = true;
                    break;
                }
            }
        }
        taken
    }

    fn on_report(&mut self, now: Moment, report: Report) {
        log_report(&report);
        self.on_move_report(now, &report);
        if !self.refuse_registration(now, &report) {
            self.decide(now, &report);
        }
        self.enter(now, &report);
        match report {
            Report::Statistics(block) => self.on_statistics(block),
            Report::LinkTraffic { core, links } => self.on_traffic(now, core, &links),
            // Others are the node's, which has seen them.
            Report::Listing { core, listing } if listing.round == OPERATOR_ROUND => {
                self.on_listing(CoreListing { core, listing: Some(listing) });
            }
            Report::Adopted { core, epoch } => self.on_adopted(core, epoch),
            Report::Paths { core, changes } => self.on_paths(core, &changes),
            Report::UdpPaths { paths } => self.on_udp_paths(&paths),
            Report::JoinFailed { idle } => {
                let reason = DropReason::HandoffTimeout;
                self.command(idle.core, Command::CloseSocket { socket: idle, reason });
            }
            Report::Stopped { core, error } => {
                self.stopped_cores += 1;
                if let Some(error) = error {
                    self.failure = Some(RuntimeError::CoreStopped { core, error });
                }
            }
            Report::LinkDown { link, .. } => self.shares.link_down(link),
            Report::UdpOpened { request, result, .. } => self.on_udp_opened(request, result),
            Report::UdpMoved(moved) => self.on_udp_moved(now, &moved),
            Report::UdpEnded(ended) => self.on_udp_ended(now, &ended),
            Report::UdpTold { core, result } => self.on_udp_told(core, result),
            Report::LinksFrozen(frozen) => self.on_links_frozen(*frozen),
            Report::LinksTold { core, result } => self.on_links_told(core, result),
            Report::LinksTaken { core, result } => self.on_links_taken(core, result),
            Report::UdpTaken { core, taken } => self.on_udp_taken(core, *taken),
            Report::LinkUp(_)
            | Report::HandshakeFailed { .. }
            | Report::Query(_)
            | Report::QueryCancelled { .. }
            | Report::SocketPresented { .. }
            | Report::SocketClosed { .. }
            | Report::Asked { .. }
            | Report::Input { .. }
            | Report::SessionEnded { .. }
            | Report::Migration { .. }
            | Report::DialFailed { .. }
            | Report::LinkMoved { .. }
            | Report::LinkStayed { .. }
            | Report::Listing { .. }
            | Report::Incident { .. } => {}
        }
    }

    /// Lets the node and the dialer decide, and sends what they command.
    fn decide(&mut self, now: Moment, report: &Report) {
        let random = &self.random;
        let accounts = &mut self.accounts;
        // The quotas that were asked for tell whose sockets a command joins.
        let mut asked = Vec::new();
        let mut context = Context {
            now_ns: now.monotonic_ns,
            unix_now_s: now.unix_ns / 1_000_000_000,
            random: &mut || draw(random),
            quota_of: &mut |identity| {
                let quota = accounts.quota_of(now, identity);
                asked.push((*identity, Arc::clone(&quota)));
                Some(quota)
            },
        };
        self.node.report(&mut context, report, &mut self.decided);
        for (_, command) in &self.decided {
            if let Command::JoinSockets { idle, caller_quota, idle_quota, .. } = command {
                let owner = |wanted: &Option<Arc<_>>| {
                    let wanted = wanted.as_ref()?;
                    let found = asked.iter().find(|(_, quota)| Arc::ptr_eq(quota, wanted));
                    found.map(|(identity, _)| *identity)
                };
                if let (Some(caller), Some(target)) = (owner(caller_quota), owner(idle_quota)) {
                    self.accounts.joined(*idle, caller, target);
                }
            }
        }
        self.send_decided();
        self.dial(|dialer, around| dialer.report(around, report));
    }

    pub(super) fn tick_node(&mut self) {
        self.node.tick(clock::now().monotonic_ns, &mut self.decided);
        self.send_decided();
    }

    /// Calls the dialer, which looks at the node's links.
    pub(super) fn dial<T>(&mut self, call: impl FnOnce(&mut Dialer, &mut Around<'_>) -> T) -> T {
        let random = &self.random;
        let mut around = Around {
            now_ns: clock::now().monotonic_ns,
            directory: self.node.directory(),
            random: &mut || draw(random),
            commands: &mut self.decided,
        };
        let result = call(&mut self.dialer, &mut around);
        self.send_decided();
        result
    }

    fn send_decided(&mut self) {
        let mut decided = std::mem::take(&mut self.decided);
        for (core, command) in decided.drain(..) {
            self.command(core, command);
        }
        self.decided = decided;
    }

    pub(super) fn save_registrations(&mut self) {
        // Before and after that it is another process's file.
        let Some(file) = self.registrations.as_mut().filter(|_| *self.ours.borrow()) else {
            return;
        };
        let degraded = &mut self.extra.operations.degraded;
        match file.write(self.node.saved_registrations().collect()) {
            Ok(()) => {
                if degraded.remove(REGISTRATIONS).is_some() {
                    tracing::info!("registrations are kept again");
                }
            }
            // Told once: it is tried again every second.
            Err(error) => {
                let is_new = degraded.insert(REGISTRATIONS, error.to_string()).is_none();
                if is_new {
                    tracing::warn!(%error, "registrations will be lost on a restart");
                }
            }
        }
    }
}

/// Data cores do not log; what they report is logged here, without peers above debug.
fn log_report(report: &Report) {
    match report {
        Report::LinkUp(up) => {
            let (link, identity, profile) = (up.link, up.identity, up.profile);
            tracing::debug!(%link, %identity, %profile, remote = %up.remote, "link up");
        }
        Report::LinkDown { link, identity, reason, .. } => {
            let reason = reason.map_or("ended by the peer", DropReason::name);
            tracing::debug!(%link, %identity, reason, "link down");
        }
        Report::LinkMoved { from, up, .. } => {
            tracing::debug!(%from, link = %up.link, "link moved");
        }
        Report::HandshakeFailed { core, remote, reason } => {
            tracing::debug!(%core, %remote, reason = reason.name(), "no link");
        }
        Report::Incident { link, reason, nonce } => {
            let session = format_args!("{nonce:016x}");
            tracing::debug!(%link, reason = reason.name(), %session, "not carried on");
        }
        Report::SocketClosed { socket, reason, .. } => {
            let reason = reason.map_or("ended", DropReason::name);
            tracing::debug!(%socket, reason, "raw socket closed");
        }
        Report::JoinFailed { idle } => {
            tracing::debug!(socket = %idle, "caller gone before the handoff")
        }
        Report::Stopped { core, error: Some(error) } => {
            tracing::error!(%core, error, "data core failed")
        }
        Report::Query(_)
        | Report::QueryCancelled { .. }
        | Report::SocketPresented { .. }
        | Report::Asked { .. }
        | Report::Input { .. }
        | Report::SessionEnded { .. }
        | Report::Migration { .. }
        | Report::Adopted { .. }
        | Report::DialFailed { .. }
        | Report::LinkStayed { .. }
        | Report::LinkTraffic { .. }
        | Report::UdpOpened { .. }
        | Report::UdpMoved(_)
        | Report::UdpEnded(_)
        | Report::UdpTold { .. }
        | Report::UdpTaken { .. }
        | Report::Statistics(_)
        | Report::Listing { .. }
        | Report::Paths { .. }
        | Report::UdpPaths { .. }
        | Report::LinksFrozen(_)
        | Report::LinksTold { .. }
        | Report::LinksTaken { .. }
        | Report::Stopped { error: None, .. } => {}
    }
}
