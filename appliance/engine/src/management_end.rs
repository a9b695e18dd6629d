//! The management core's end of the rings to and from the data cores.
//!
//! Owned by the management core and used on its thread only. Nothing here blocks: a full command
//! ring gives the command back, an empty report ring gives nothing.

use crate::control::{Command, Report};
use crate::port::waker::Waker;
use crossbeam::queue::ArrayQueue;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use waystation_relay::ids::CoreId;

/// Commands that may wait for one core. A report causes one or two commands, except unregistering,
/// which closes all idle sockets of a node; what finds no room waits at the management core.
pub const COMMAND_RING_ENTRIES: usize = 8192;
/// Reports that may wait from one core: queries of one turn of 64 KiB records, and some.
pub const REPORT_RING_ENTRIES: usize = 4096;

/// What the management core holds of all data cores.
#[derive(Debug)]
pub struct ManagementEnd {
    cores: Vec<CoreRings>,
    doorbell: Arc<Doorbell>,
    hearing: Option<OwnedFd>,
}

#[derive(Debug)]
struct CoreRings {
    commands: Arc<ArrayQueue<Command>>,
    reports: Arc<ArrayQueue<Report>>,
    waker: Waker,
}

/// A data core's end of the same rings.
#[derive(Debug)]
pub struct CoreEnd {
    /// Commands to carry out, in order.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Reports to send.
    pub reports: Arc<ArrayQueue<Report>>,
    /// Rung once per turn that reported something.
    pub doorbell: Arc<Doorbell>,
}

/// Wakes the management core: one byte in a pipe, at most, until it is heard.
#[derive(Debug)]
pub struct Doorbell {
    pipe: OwnedFd,
    rung: AtomicBool,
}

impl Doorbell {
    /// Rings. A doorbell that was rung already stays rung, without a system call.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // The pipe has room for one byte, and if the other end is gone nobody has to hear.
            let _ = rustix::io::write(&self.pipe, &[1]);
        }
    }
}

impl ManagementEnd {
    /// Makes the rings for the cores with these wakers, in order of core.
    ///
    /// # Errors
    /// The kernel's refusal to make an event descriptor.
    pub fn new(wakers: Vec<Waker>) -> io::Result<(Self, Vec<CoreEnd>)> {
        let (hearing, pipe) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let doorbell = Arc::new(Doorbell { pipe, rung: AtomicBool::new(false) });
        let mut ends = Vec::with_capacity(wakers.len());
        let mut cores = Vec::with_capacity(wakers.len());
        for waker in wakers {
            let commands = Arc::new(ArrayQueue::new(COMMAND_RING_ENTRIES));
            let reports = Arc::new(ArrayQueue::new(REPORT_RING_ENTRIES));
            ends.push(CoreEnd {
                commands: Arc::clone(&commands),
                reports: Arc::clone(&reports),
                doorbell: Arc::clone(&doorbell),
            });
            cores.push(CoreRings { commands, reports, waker });
        }
        Ok((Self { cores, doorbell, hearing: Some(hearing) }, ends))
    }

    /// How many data cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Queues a command and wakes the core.
    ///
    /// # Errors
    /// Gives the command back when the core's ring is full or there is no such core.
    pub fn send(&self, core: CoreId, command: Command) -> Result<(), Command> {
        let Some(rings) = self.cores.get(core.index()) else { return Err(command) };
        rings.commands.push(command)?;
        rings.waker.wake();
        Ok(())
    }

    /// The next report of a core, if any.
    pub fn next_report(&self, core: CoreId) -> Option<Report> {
        self.cores.get(core.index())?.reports.pop()
    }

    /// The end of a pipe that becomes readable when a core has reported. It can be taken once.
    pub fn take_hearing(&mut self) -> Option<OwnedFd> {
        self.hearing.take()
    }

    /// Lets the doorbell be rung again; call after emptying the pipe and before draining the
    /// reports, so that a report that comes later rings again.
    pub fn silence_doorbell(&self) {
        self.doorbell.rung.store(false, Ordering::SeqCst);
    }
}
