//! The XDP program between two processes, of which one goes on where the other ends.
//!
//! A part of the management core, on its thread. The next process puts its program into the pinned
//! links as it starts, and writes nothing into the map of sessions before it serves. Until then the
//! map is the running process's, which puts its own program back if nothing comes of it. Sessions
//! are found in the map all the while; those of ports that the program there does not know go
//! through user space.

use super::attaching::{forget_links, uncovered};
use super::limits::SWEEP_AFTER_S;
use super::{Xdp, XdpStatus, remove_others};
use waystation_ebpf::attach::Attachment;
use waystation_ebpf::forwarding::SwitchedOn;
use waystation_engine::control::Command;
use waystation_relay::ids::CoreId;

impl Xdp {
    /// Whether another process can take the program over.
    pub(crate) fn can_be_handed_over(&self) -> bool {
        self.at_work.as_ref().is_none_or(|at_work| at_work.pins.is_some())
    }

    /// What sessions have carried until now, for cores that are about to tell another process of
    /// them. It looks at every entry: a full map takes some tens of milliseconds.
    pub(crate) fn tell_all(&mut self) -> Vec<(CoreId, Command)> {
        let Some(at_work) = &mut self.at_work else { return Vec::new() };
        at_work.entries.look_at_all(&mut at_work.programs.tables.sessions);
        at_work.entries.notes()
    }

    /// Another process serves now, and is told what this one was. What it has not taken over would
    /// relay on with nobody to end it, so that is taken off.
    pub(crate) fn let_go(&mut self) {
        self.status = XdpStatus::default();
        // They are the next process's, and so is what chooses among them.
        self.shared_addresses.clear();
        let Some(mut at_work) = self.at_work.take() else { return };
        let Some(program) = at_work.programs.id() else { return };
        let all = std::mem::take(&mut at_work.attachments);
        let (left, taken): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.runs(program));
        if left.is_empty() {
            return;
        }
        let pinned = at_work.pins.as_ref().and_then(|pins| pins.interfaces().ok());
        let is_left = |name: &String| left.iter().any(|it| *it.interface == **name);
        if taken.is_empty() && pinned.is_none_or(|names| names.iter().all(is_left)) {
            at_work.attachments = left;
            // It may be the next process's by now.
            at_work.switched_on = SwitchedOn::default();
            self.at_work = Some(at_work);
            self.end(false);
            return;
        }
        // The map is the next process's.
        left.into_iter().for_each(take_off);
    }

    /// Nothing came of a hand-over: the program is this process's again wherever it was.
    pub(crate) fn put_back(&mut self) {
        let Some(at_work) = &mut self.at_work else { return };
        let Some(program) = at_work.programs.id() else { return };
        for attachment in std::mem::take(&mut at_work.attachments) {
            if attachment.runs(program) {
                at_work.attachments.push(attachment);
                continue;
            }
            let interface = attachment.interface.clone();
            match attachment.put_back(&mut at_work.programs) {
                Ok(attachment) => {
                    tracing::info!(interface, "XDP program put back");
                    at_work.attachments.push(attachment);
                }
                Err(error) => {
                    tracing::error!(interface, %error, "XDP program not put back");
                    let hint =
                        format!("{interface} has the program of a process that ended: {error}");
                    self.status.hints.push(hint);
                }
            }
        }
        let attached = at_work.attachments.iter().map(|it| it.interface.to_string());
        forget_links(at_work.pins.as_ref(), &attached.collect::<Vec<_>>());
        at_work.entries.udp.set_uncovered(uncovered(&at_work.attachments));
        self.choose_sockets();
    }

    /// Puts the program back where another one has come to be although nobody hands over: that of a
    /// process which had been given up by the time that it put its own on.
    pub(crate) fn keep_on(&mut self) {
        let Some(at_work) = &mut self.at_work else { return };
        let Some(program) = at_work.programs.id() else { return };
        if !at_work.attachments.iter().all(|it| it.runs(program)) {
            tracing::warn!("another process has put an XDP program where this one's is to be");
            self.put_back();
        }
    }

    /// This process serves now. What it is told of within a few seconds stays in the map.
    pub(crate) fn has_taken_over(&mut self) {
        self.is_next = false;
        self.sweep_in = Some(SWEEP_AFTER_S);
    }

    /// Takes out what nobody has told of, when it is time.
    pub(super) fn sweep(&mut self) {
        if self.sweep_in != Some(0) {
            return;
        }
        self.sweep_in = None;
        let Some(at_work) = &mut self.at_work else { return };
        at_work.entries.set_adopting(false);
        let entries = &at_work.entries;
        let swept = remove_others(&mut at_work.programs, |key| entries.knows(key));
        if let Err(error) = swept {
            tracing::warn!(%error, "sessions of the process before stay in the XDP program's map");
        }
    }
}

fn take_off(attachment: Attachment) {
    let interface = attachment.interface.clone();
    match attachment.detach() {
        Ok(()) => tracing::info!(interface, "XDP program taken off"),
        Err(error) => tracing::error!(interface, %error, "XDP program stays"),
    }
}
