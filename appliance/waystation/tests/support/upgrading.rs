//! A process that takes over from another, and clients that must not notice.

use super::appliance::{Appliance, Settings};
use super::process::{Process, binary, command};
use super::starvation::{OwnWait, Starvation};
use super::{STEP, eventually};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waystation_management::stats_socket::client;

/// What a process that has taken over writes into its log.
const TOOK_OVER: &str = "took over from another process";

/// A running process, and those that have followed it.
pub struct Upgrade {
    pub old: Appliance,
    pub next: Vec<Process>,
    /// How long data cores of any of them have waited for a processor.
    pub starvation: Arc<Starvation>,
    program: PathBuf,
}

impl Upgrade {
    pub fn of(settings: &Settings) -> Self {
        Self::from(Appliance::start(settings))
    }

    /// The command that starts the next process.
    pub fn command(&self) -> Command {
        let mut command = command(&self.program);
        let directory = self.old.directory.path();
        command.arg("upgrade").arg("--config").arg(directory.join("waystation.toml"));
        command.arg("--state-dir").arg(directory.join("state"));
        command
    }

    /// With another build of the program.
    pub fn to(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Has the next process take over; returns what it says of that.
    pub fn perform(&mut self) -> Value {
        let command = self.command();
        self.perform_with(command)
    }

    /// As [`Self::perform`], with another command than [`Self::command`].
    pub fn perform_with(&mut self, mut command: Command) -> Value {
        let log = self.old.directory.path().join(format!("log of the next, {}", self.next.len()));
        let mut new = Process::spawn(&mut command, &log);
        eventually("the next process serves", || {
            let ended = new.ended();
            assert!(ended.is_none(), "ended with {ended:?}:\n{}", new.log());
            self.starvation.watch(new.id());
            new.log().contains(TOOK_OVER).then_some(())
        });
        self.next.push(new);
        // The socket is the new process's by the time that it says so.
        eventually("the event is told", || event(&self.old, "took_over"))
    }

    /// Where the process before can be asked.
    pub fn old_socket(&self) -> PathBuf {
        with_suffix(&self.old.socket, ".old")
    }

    /// Waits for the first process, which has nothing left.
    pub fn expect_end_of_old(&mut self) {
        let status = self.old.process.wait(STEP);
        assert!(status.success(), "{status:?}\n{}", self.old.process.log());
        assert!(!self.old_socket().exists(), "its socket is left");
        assert!(self.old.socket.exists(), "the next one's socket is gone");
    }

    /// Waits for all processes but the one that serves.
    pub fn expect_end_of_all_before(&mut self) {
        let before = self.next.len().saturating_sub(1);
        let before = self.next.iter_mut().take(before);
        for process in before.chain([&mut self.old.process]) {
            let status = process.wait(STEP);
            assert!(status.success(), "{status:?}\n{}", process.log());
        }
    }
}

impl From<Appliance> for Upgrade {
    fn from(old: Appliance) -> Self {
        let starvation = Arc::new(Starvation::default());
        starvation.watch(old.process.id());
        Self { old, next: Vec::new(), starvation, program: binary() }
    }
}

impl Drop for Upgrade {
    /// A test that fails shows what the next processes have to say.
    fn drop(&mut self) {
        if thread::panicking() {
            self.next.iter().for_each(|process| println!("{}", process.log()));
        }
    }
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// The last event of a kind, of the process that has the stats socket now.
pub fn event(appliance: &Appliance, kind: &str) -> Option<Value> {
    let lines = client::get(&appliance.socket, "/v1/events").ok()?;
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut events = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    events.rfind(|event| event["kind"] == kind)
}

/// The lines of the configuration that this is in, with something else instead.
pub fn reconfigure(appliance: &Appliance, from: &str, to: &str) {
    let file = appliance.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(from, to)).unwrap();
}

/// Somebody who sends a datagram and waits for it to come back before the next: so none may be
/// lost, and the longest time that one takes is the gap.
#[derive(Debug, Default)]
pub struct Echoing {
    stop: AtomicBool,
    done: AtomicUsize,
    longest_us: AtomicUsize,
    /// The same without the time in which threads that take part waited for a processor.
    longest_unstarved_us: AtomicUsize,
    cores: Arc<Starvation>,
}

/// The longest echoes.
#[derive(Clone, Copy, Debug)]
pub struct Longest {
    pub echo: Duration,
    /// The longest of what is left of each without the time in which this test's thread and data cores
    /// waited for a processor.
    pub unstarved: Duration,
}

impl Echoing {
    /// Echoes until told to stop.
    pub fn run(&self, mut echo: impl FnMut(usize)) {
        let own = OwnWait::of_this_thread();
        while !self.stop.load(Ordering::SeqCst) {
            let began = Instant::now();
            let waited_ns = || own.ns().saturating_add(self.cores.cores_ns());
            let before_ns = waited_ns();
            echo(self.done.load(Ordering::SeqCst));
            let took = began.elapsed();
            let waited = Duration::from_nanos(waited_ns().saturating_sub(before_ns));
            let us = |time: Duration| usize::try_from(time.as_micros()).unwrap();
            self.longest_us.fetch_max(us(took), Ordering::SeqCst);
            let unstarved = took.saturating_sub(waited);
            self.longest_unstarved_us.fetch_max(us(unstarved), Ordering::SeqCst);
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The longest time since this was asked last.
    pub fn longest(&self) -> Longest {
        let take = |us: &AtomicUsize| Duration::from_micros(us.swap(0, Ordering::SeqCst) as u64);
        Longest { echo: take(&self.longest_us), unstarved: take(&self.longest_unstarved_us) }
    }

    /// Waits for so many more.
    pub fn wait_for(&self, more: usize) {
        let before = self.done.load(Ordering::SeqCst);
        eventually("datagrams come back", || {
            (self.done.load(Ordering::SeqCst) >= before + more).then_some(())
        });
    }

    /// Lets it end when dropped, also where a test fails.
    pub fn stop_on_drop(&self) -> StopOnDrop<'_> {
        StopOnDrop(&self.stop)
    }

    /// Echoes by all of these while something else is done, and so many times before and after it.
    /// Returns the longest time of each: before, and from then on.
    pub fn across<const N: usize>(
        echoes: [&mut (dyn FnMut(usize) + Send); N],
        times: usize,
        act: impl FnOnce(),
    ) -> [[Duration; 2]; N] {
        let longest = Self::across_among(&Arc::default(), echoes, times, act);
        longest.map(|longest| longest.map(|it| it.echo))
    }

    /// As [`Self::across`], by these data cores.
    pub fn across_among<const N: usize>(
        cores: &Arc<Starvation>,
        echoes: [&mut (dyn FnMut(usize) + Send); N],
        times: usize,
        act: impl FnOnce(),
    ) -> [[Longest; 2]; N] {
        let echoing: [Self; N] =
            std::array::from_fn(|_| Self { cores: Arc::clone(cores), ..Self::default() });
        let usual = thread::scope(|scope| {
            let workers: Vec<_> = echoes
                .into_iter()
                .zip(&echoing)
                .map(|(echo, echoing)| scope.spawn(|| echoing.run(echo)))
                .collect();
            let stop_on_drop = echoing.each_ref().map(Self::stop_on_drop);
            echoing.iter().for_each(|echoing| echoing.wait_for(times));
            let usual = echoing.each_ref().map(Self::longest);
            act();
            echoing.iter().for_each(|echoing| echoing.wait_for(times));
            drop(stop_on_drop);
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            usual
        });
        std::array::from_fn(|at| [usual[at], echoing[at].longest()])
    }
}

/// Whoever looks at this stops when it is dropped.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
