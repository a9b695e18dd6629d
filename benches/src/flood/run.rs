//! The measurement: rounds without a flood, beside one of another socket, and beside one of the node.

use crate::aead::AeadOption;
use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Entry, Flows, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Measure, Sample};
use crate::flood::options::Options;
use crate::flood::scene::Scene;
use crate::flood::sender::Flood;
use crate::load::clock::Clock;
use crate::load::processor;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const FLOWS: u32 = 4;
const MESSAGE_BYTES: usize = 1_024;
const CASE: &str = "4 x 1 KiB, paced";
const QUIET: &str = "no flood";
const ELSEWHERE: &str = "flood of another socket";
const FLOODED: &str = "flood of the node";
const P99: Measure = Measure::LatencyP99Microseconds;
/// p99 beside the flood, of p99 without.
const RATIO_MAX: f64 = 1.5;
const RATIO_MAX_XDP: f64 = 1.1;
const NODE_PORT: u16 = 4121;

/// Runs everything, and prints what came of it.
///
/// # Errors
///
/// When something does not start, or a message was lost or changed.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(status) = Scene::entered(options)? {
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    processor::pin(options.generator_cpu)?;
    let is_first = first_in_line()?;
    let scene = Rc::new(Scene::build(options)?);
    let setting = setting(options);
    let rate = f64::from(options.messages_per_second) / f64::from(FLOWS);
    let shape = Shape::paced(FLOWS, MESSAGE_BYTES, rate);
    let appliance = start(options, &scene, &setting)?;
    let node = node(&appliance)?;
    let mut swarm = Swarm::through_links(&appliance.relay, &[shape], setting.clock)?;
    swarm.sleep_until_due()?;
    let watched = appliance.process.watched();
    let flows = Rc::new(RefCell::new(Flows { swarm, shape, watched, kept: appliance }));
    let sink = Sink::start(SocketAddr::new(scene.address(), 0))?;
    let sent = Rc::new(Cell::new(0));
    let beside = |target: Option<SocketAddr>| -> Box<dyn Contender> {
        let (flows, scene, sent) = (Rc::clone(&flows), Rc::clone(&scene), Rc::clone(&sent));
        // What goes to the other socket is not asked for later.
        let sent = if target == Some(node) { sent } else { Rc::default() };
        Box::new(Beside { flows, scene, target, options: options.clone(), sent })
    };
    let entries: Vec<Entry> = vec![
        (QUIET, Ok(beside(None))),
        (ELSEWHERE, Ok(beside(Some(sink.address)))),
        (FLOODED, Ok(beside(Some(node)))),
    ];
    let outcome = alternate(CASE, entries, &setting.schedule)?;
    drop(sink);
    let document = flows.borrow().kept.document("/v1/dht")?;
    let is_met = print(&outcome, &document, sent.get(), options)?;
    if !is_first {
        let mut out = io::stdout();
        writeln!(out, "without root the generator waits for its processor like the flood does")?;
    }
    Ok(if options.check && !is_met { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Has the calling thread run before everything else on its processor, where that is allowed; what it
/// starts does not. Otherwise its waits for the processor would be taken for the relay's.
fn first_in_line() -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let thread = processor::thread_number().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--reset-on-fork", "--pid", "1", &thread]);
    let status = command.status().context("chrt, from util-linux")?;
    ensure!(status.success(), "chrt could not raise the generator's priority");
    Ok(true)
}

fn setting(options: &Options) -> Setting {
    let measured = Duration::from_secs_f64(options.seconds);
    Setting {
        schedule: Schedule { rounds: options.rounds, warm_up: measured / 10, measured },
        clock: Clock::start(),
        relay_cpu: options.relay_cpu,
        generator_cpu: options.generator_cpu,
        aead: AeadOption::Auto,
        peers: PathBuf::new(),
    }
}

/// An appliance with a node of the DHT, and the XDP program before it if that is wanted.
fn start(options: &Options, scene: &Scene, setting: &Setting) -> Result<Appliance> {
    let engine = format!("cores = 1\ncpus = [{}]", options.relay_cpu);
    let port = if options.xdp { NODE_PORT } else { 0 };
    let listen = SocketAddr::new(scene.address(), port);
    let xdp = if options.xdp {
        format!("[xdp]\nmode = \"native\"\nstranger_rate = {}\n", options.stranger_rate)
    } else {
        String::new()
    };
    let management = format!(
        "cpu = {}\n[dht]\nenabled = true\nlisten = [\"{listen}\"]\nallow_private = true\n{xdp}",
        options.generator_cpu
    );
    Appliance::start_with(Port::IoUring, &engine, &management, setting)
}

fn node(appliance: &Appliance) -> Result<SocketAddr> {
    let document = appliance.document("/v1/dht")?;
    let listen = document["listen"][0].as_str().context("the node listens nowhere")?;
    listen.parse().context("an odd address of the node")
}

/// The same flows, with a flood beside them or without.
struct Beside {
    flows: Rc<RefCell<Flows<Appliance>>>,
    scene: Rc<Scene>,
    target: Option<SocketAddr>,
    options: Options,
    sent: Rc<Cell<u64>>,
}

impl Contender for Beside {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let mut flows = self.flows.borrow_mut();
        let Some(target) = self.target else { return flows.round(schedule) };
        let flood = Flood::start(self.scene.flood(target, &self.options)?)?;
        let sample = flows.round(schedule);
        self.sent.set(self.sent.get() + flood.stop()?);
        sample
    }

    fn messages_checked(&self) -> u64 {
        // All three share their flows; one of them counts.
        if self.target.is_none() { self.flows.borrow().messages_checked() } else { 0 }
    }
}

/// A socket that somebody empties without a look at what comes. Dropped, it is closed.
struct Sink {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(at: SocketAddr) -> Result<Self> {
        const LOOK: Duration = Duration::from_millis(50);
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        // It inherits the processor of the generator.
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { address, is_over, thread: Some(thread) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Says whether the goal is met.
fn print(outcome: &Outcome, document: &Value, sent: u64, options: &Options) -> Result<bool> {
    let measures = [
        Measure::MessagesPerSecond,
        Measure::LatencyP50Microseconds,
        P99,
        Measure::LatencyP999Microseconds,
        Measure::ProcessorMicrosecondsPerMessage,
    ];
    let mut out = io::stdout();
    writeln!(out, "{CASE}, {} datagrams/s from {}", options.per_second, options.sources)?;
    for name in [QUIET, ELSEWHERE, FLOODED] {
        write!(out, "{name:<24}")?;
        for measure in measures {
            let figure = outcome.figure(CASE, name, measure);
            let cell = figure.map_or_else(|| "-".to_owned(), |it| measure.cell(it.median));
            write!(out, "  {} {cell}", measure.heading())?;
        }
        writeln!(out)?;
    }
    let p99 = |name| outcome.figure(CASE, name, P99).map(|figure| figure.median);
    let ratio = |against| Some(p99(FLOODED)? / p99(against)?);
    let quiet = ratio(QUIET).context("no latency was measured")?;
    let elsewhere = ratio(ELSEWHERE).context("no latency was measured")?;
    let goal = if options.xdp { RATIO_MAX_XDP } else { RATIO_MAX };
    let is_met = quiet <= goal;
    let word = if is_met { "met" } else { "MISSED" };
    writeln!(out, "p99 of {FLOODED} / {QUIET}: {quiet:.3}, at most {goal}: {word}")?;
    writeln!(out, "p99 of {FLOODED} / {ELSEWHERE}: {elsewhere:.3}")?;
    let (received, drops) = (&document["received"], &document["drops"]);
    writeln!(out, "the node was sent {sent}, received {received}, dropped {drops}")?;
    writeln!(out, "{} messages were compared", outcome.messages_checked)?;
    Ok(is_met)
}
