//! Loading in a process that gets signals.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where; a thread that signals pauses in between"
)]

mod support;

use nix::sys::{
    pthread::{pthread_kill, pthread_self},
    signal::Signal,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use waystation_ebpf::programs::Programs;

const LOADS: usize = 2;
const SIGNALS_MAX: usize = 1_000_000;
/// Shorter than the verifier takes, and long enough for the thread to get on meanwhile.
const BETWEEN_SIGNALS: Duration = Duration::from_micros(100);

#[test]
fn signals_for_the_process_do_not_keep_a_program_from_being_loaded() {
    if !support::given_root() {
        return;
    }
    let taken = Arc::new(AtomicBool::new(false));
    let handler = signal_hook::flag::register(Signal::SIGUSR1 as i32, taken.clone()).unwrap();
    let loaded = AtomicBool::new(false);
    let loader = pthread_self();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..SIGNALS_MAX {
                if loaded.load(Ordering::Relaxed) {
                    break;
                }
                pthread_kill(loader, Signal::SIGUSR1).unwrap();
                thread::sleep(BETWEEN_SIGNALS);
            }
        });
        let results: Vec<_> = (0..LOADS).map(|_| Programs::load(None)).collect();
        loaded.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
    assert!(taken.load(Ordering::Relaxed), "no signal came");
    signal_hook::low_level::unregister(handler);
}
