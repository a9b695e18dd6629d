//! Row 13: what it costs the data core that somebody looks. The histograms themselves are always
//! on, so what is compared is asking for them against leaving them alone, on one and the same
//! process.

use crate::compare::appliance::{Appliance, Port, flows};
use crate::compare::contender::{Contender, Flows, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::Sample;
use crate::compare::goals::{SCRAPED, WAYSTATION};
use crate::compare::rows::own::KIB_1;
use anyhow::{Context, Result, anyhow};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use waystation_management::stats_socket::client;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn scraped(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_1;
    let flows = Rc::new(RefCell::new(flows(Port::IoUring, shape, setting)?));
    let quiet: Box<dyn Contender> = Box::new(Looked { flows: Rc::clone(&flows), scraping: false });
    let scraped: Box<dyn Contender> = Box::new(Looked { flows, scraping: true });
    let entries = vec![(WAYSTATION, Ok(quiet)), (SCRAPED, Ok(scraped))];
    alternate(case, entries, &setting.schedule)
}

/// The same flows, with or without somebody who asks for histograms.
struct Looked {
    flows: Rc<RefCell<Flows<Appliance>>>,
    scraping: bool,
}

impl Contender for Looked {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let mut flows = self.flows.borrow_mut();
        if !self.scraping {
            return flows.round(schedule);
        }
        let socket = flows.kept.socket.clone();
        let (stop, stopped) = mpsc::channel::<()>();
        let asking = thread::spawn(move || -> Result<()> {
            loop {
                client::get(&socket, "/v1/histograms").context("asking for histograms")?;
                match stopped.recv_timeout(PAUSE) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        });
        let sample = flows.round(schedule);
        drop(stop);
        asking.join().map_err(|_panic| anyhow!("the asking thread panicked"))??;
        sample
    }

    fn messages_checked(&self) -> u64 {
        // Both sides share their flows; one of them counts.
        if self.scraping { 0 } else { self.flows.borrow().messages_checked() }
    }
}
