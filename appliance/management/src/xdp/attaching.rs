//! How the program gets onto interfaces: which ones, in which mode, with which maps.
//!
//! Called as [`super::Xdp`] starts and when its configuration changes, on a thread that has the
//! privileges for it, or is refused. What goes wrong at one interface is noted with it; the program
//! is at work if it is on any.

use super::capture::Captures;
use super::entries::Entries;
use super::settings::Served;
use super::{AtWork, InterfaceStatus, Xdp, counters, remove_others, switch_off};
use crate::config::{Config, XdpMode};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use waystation_ebpf::attach::{Attachment, Mode, Wanted};
use waystation_ebpf::forwarding::SwitchedOn;
use waystation_ebpf::interfaces;
use waystation_ebpf::pins::Pins;
use waystation_ebpf::programs::{Capture, Programs};

impl Xdp {
    /// Loads the program, fills its maps and puts it on the interfaces, or says why not.
    pub(super) fn attach(&mut self, config: &Config) -> Result<AtWork, String> {
        let served = Served::of(config, &self.turn_listen, &self.dht_listen);
        let names = self.interfaces(config, &served)?;
        let pins = self.pins(config.xdp.pin_directory.as_deref());
        let at_work = self.load_and_attach(config, served, &names, pins.clone());
        if at_work.is_err()
            && let Some(pins) = pins
        {
            remove_unused(pins);
        }
        at_work
    }

    fn load_and_attach(
        &mut self,
        config: &Config,
        served: Served,
        names: &[String],
        pins: Option<Pins>,
    ) -> Result<AtWork, String> {
        let capture = capture_of(config);
        let mut programs =
            Programs::load_with(pins.as_ref(), capture).map_err(|error| error.to_string())?;
        let failed = |error: &dyn std::fmt::Display| format!("a map could not be filled: {error}");
        let before = counters(&programs).map_err(|error| failed(&error))?;
        // An earlier process's sessions are nobody's: its allocations went with it.
        if !self.is_next {
            remove_others(&mut programs, |_| false).map_err(|error| failed(&error))?;
        }
        served.fill(&mut programs.tables).map_err(|error| failed(&error))?;
        if config.xdp.steer {
            self.steer(&mut programs);
        }
        let switched_on = self.switch_forwarding_on();
        let mut entries = Entries::new(self.owners.clone());
        entries.set_adopting(self.is_next);
        self.status.hints.extend(served.hint.clone());
        entries.set_own(served.own.clone());
        let attachments = self.attach_to(&mut programs, names, config.xdp.mode, pins.as_ref());
        if attachments.is_empty() {
            switch_off(switched_on);
            let whys = self.status.interfaces.iter().filter_map(|it| it.why.as_deref());
            return Err(whys.collect::<Vec<_>>().join("; "));
        }
        entries.udp.set_uncovered(uncovered(&attachments));
        self.status.program = programs.id();
        self.status.pin_directory = pins.as_ref().and(config.xdp.pin_directory.clone());
        let captures = (capture != Capture::Never).then(Captures::default);
        Ok(AtWork {
            programs,
            attachments,
            pins,
            entries,
            served,
            overdue: None,
            before,
            switched_on,
            captures,
        })
    }

    /// The interfaces that are named, or those that the served addresses are on.
    fn interfaces(&self, config: &Config, served: &Served) -> Result<Vec<String>, String> {
        if !config.xdp.interfaces.is_empty() {
            return Ok(config.xdp.interfaces.clone());
        }
        let found = interfaces::addresses()
            .map_err(|error| format!("the kernel does not tell its interfaces: {error}"))?;
        let mut names: Vec<String> = found
            .into_iter()
            .filter(|found| served.outward.contains(&found.address))
            .map(|found| found.interface)
            .collect();
        names.dedup();
        if names.is_empty() {
            return Err(
                "no interface but loopback has an address that [turn] or [dht] listens on, that \
                        [turn] relays from, or that is in udp.addresses; name some in \
                        xdp.interfaces"
                    .to_owned(),
            );
        }
        Ok(names)
    }

    /// Where things are kept over a restart. Links of interfaces that are wanted no more go.
    fn pins(&mut self, directory: Option<&Path>) -> Option<Pins> {
        match Pins::open(directory?) {
            Ok(pins) => {
                let then = if self.is_next {
                    "its program stays on the interfaces as long as its process, and this one \
                     relays without until it is started anew"
                } else {
                    "sessions that its program relayed begin anew"
                };
                self.status.hints.extend(pins.let_go().iter().map(|directory| {
                    let directory = directory.display();
                    format!(
                        "what another version kept in {directory} has another layout and was \
                         removed: {then}"
                    )
                }));
                Some(pins)
            }
            Err(error) => {
                self.status.hints.push(format!("nothing outlives this process: {error}"));
                None
            }
        }
    }

    fn steer(&mut self, programs: &mut Programs) {
        // Cores that cannot be told apart by their processors are not steered to.
        for owner in self.owners.iter().filter(|owner| **owner != u32::MAX) {
            if let Err(error) = programs.tables.processors.insert(*owner) {
                let hint = format!("packets are not steered to processor {owner}: {error}");
                self.status.hints.push(hint);
            }
        }
    }

    fn attach_to(
        &mut self,
        programs: &mut Programs,
        names: &[String],
        mode: XdpMode,
        pins: Option<&Pins>,
    ) -> Vec<Attachment> {
        let wanted = match mode {
            XdpMode::Native => Wanted::Native,
            XdpMode::Generic => Wanted::Generic,
            XdpMode::Off | XdpMode::Auto => Wanted::NativeOrGeneric,
        };
        forget_links(pins, names);
        let mut attachments = Vec::new();
        for name in names {
            let mut status = InterfaceStatus { name: name.clone(), mode: None, why: None };
            match Attachment::new(programs, name, wanted, pins) {
                Ok(attachment) => {
                    let mode = mode_name(attachment.mode);
                    status.mode = Some(mode);
                    status.why = attachment.native_refusal.as_ref().map(ToString::to_string);
                    self.leave_by(programs, name);
                    tracing::info!(interface = name, mode, "XDP program attached");
                    attachments.push(attachment);
                }
                Err(error) => {
                    tracing::warn!(interface = name, %error, "XDP program not attached");
                    status.why = Some(error.to_string());
                }
            }
            self.status.interfaces.push(status);
        }
        attachments
    }

    fn leave_by(&mut self, programs: &mut Programs, name: &str) {
        let Some(index) = interfaces::index_of(name) else { return };
        if let Err(error) = programs.tables.egress.insert(index) {
            self.status.hints.push(format!("nothing is relayed out of {name}: {error}"));
        }
    }

    /// The kernel looks routes up for the program only where forwarding is on; for loopback that
    /// forwards nothing.
    fn switch_forwarding_on(&mut self) -> SwitchedOn {
        SwitchedOn::now().unwrap_or_else(|error| {
            let hint = format!(
                "the program cannot look routes up, so nothing is relayed by it: forwarding is off \
                 for loopback and cannot be switched on ({error}); set it before the start, for \
                 example with `sysctl -w net.ipv4.conf.lo.forwarding=1 \
                 net.ipv6.conf.lo.forwarding=1`",
            );
            self.status.hints.push(hint);
            SwitchedOn::default()
        })
    }
}

/// Addresses of this machine on interfaces that the program is not on. The kernel's silence is none
/// of them: what does not come through the program goes to user space in any case.
pub(super) fn uncovered(attachments: &[Attachment]) -> BTreeSet<IpAddr> {
    let found = interfaces::addresses().unwrap_or_default();
    let is_covered = |name: &str| attachments.iter().any(|it| &*it.interface == name);
    let covered: BTreeSet<IpAddr> = found
        .iter()
        .filter(|found| is_covered(&found.interface))
        .map(|found| found.address)
        .collect();
    let all = found.into_iter().map(|found| found.address);
    all.filter(|address| !covered.contains(address)).collect()
}

/// The program goes off interfaces that it was kept on and that are wanted no more.
pub(super) fn forget_links(pins: Option<&Pins>, wanted: &[String]) {
    let Some(pins) = pins else { return };
    for interface in pins.interfaces().unwrap_or_default() {
        if !wanted.contains(&interface) {
            match std::fs::remove_file(pins.link(&interface)) {
                Ok(()) => tracing::info!(interface, "XDP program taken off"),
                Err(error) => tracing::warn!(interface, %error, "XDP program stays"),
            }
        }
    }
}

/// Keeps no maps for the next process if the program is on no interface. Where an earlier process's
/// is, it stays as it is.
fn remove_unused(pins: Pins) {
    if pins.interfaces().is_ok_and(|interfaces| interfaces.is_empty())
        && let Err(error) = pins.remove()
    {
        tracing::warn!(%error, "pins of the XDP program stay");
    }
}

/// Room for samples, as the configuration has it.
fn capture_of(config: &Config) -> Capture {
    match u32::try_from(config.xdp.capture_memory.as_u64()) {
        Ok(0) => Capture::Never,
        Ok(bytes) => Capture::Ring { bytes },
        Err(_too_much) => Capture::Ring { bytes: u32::MAX },
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
        Mode::TakenOver => "taken_over",
    }
}
