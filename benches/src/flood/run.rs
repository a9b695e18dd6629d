//! The measurement: rounds without a flood, beside one of another socket, and beside one of the node.

use crate::aead::AeadOption;
use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Flows, Schedule, Setting};
use crate::compare::figures::{Measure, Sample, summarize};
use crate::flood::options::Options;
use crate::flood::ratio::Ratio;
use crate::flood::scene::Scene;
use crate::flood::sender::Flood;
use crate::load::clock::Clock;
use crate::load::processor;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const FLOWS: u32 = 4;
const MESSAGE_BYTES: usize = 1_024;
const CASE: &str = "4 x 1 KiB, paced";
/// Before a window counts: what the one before has left in sockets is gone by then.
const WARM_UP: Duration = Duration::from_millis(100);
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
    let mut is_first = put_first_in_line(processor::thread_number())?;
    let scene = Scene::build(options)?;
    let setting = setting(options);
    let rate = f64::from(options.messages_per_second) / f64::from(FLOWS);
    let shape = Shape::paced(FLOWS, MESSAGE_BYTES, rate);
    let appliance = start(options, &scene, &setting)?;
    let node = node(&appliance)?;
    let mut swarm = Swarm::through_links(&appliance.relay, &[shape], setting.clock)?;
    swarm.sleep_until_due()?;
    let watched = appliance.process.watched();
    // The data core too: what others do on its processor would be taken for the flood's doing.
    for thread in watched.read()?.data_cores() {
        is_first &= put_first_in_line(thread)?;
    }
    let flows = Flows { swarm, shape, watched, kept: appliance };
    let sink = Sink::start(SocketAddr::new(scene.address(), 0))?;
    let windows =
        measure(flows, [None, Some(sink.address), Some(node)], &scene, options, &setting)?;
    drop(sink);
    let is_met = print(&windows, options)?;
    if !is_first {
        let mut out = io::stdout();
        writeln!(out, "without a real-time priority generator and data core wait for processors")?;
    }
    Ok(if options.check && !is_met { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is beside the flows in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// What the flood costs the machine.
    FloodElsewhere,
    FloodOfNode,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nothing, Self::FloodElsewhere, Self::FloodOfNode];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no flood",
            Self::FloodElsewhere => "flood of another socket",
            Self::FloodOfNode => "flood of the node",
        }
    }
}

/// Everything that was measured.
struct Windows {
    /// By what was beside them, in the order of the rounds.
    samples: [Vec<Sample>; Beside::ALL.len()],
    messages_checked: u64,
    /// Datagrams that were sent to the node.
    sent: u64,
    /// What the node says of itself at the end.
    document: Value,
}

impl Windows {
    fn of(&self, beside: Beside) -> &[Sample] {
        &self.samples[beside as usize]
    }

    fn p99(&self, beside: Beside) -> Vec<f64> {
        self.of(beside).iter().filter_map(|sample| sample.get(&P99).copied()).collect()
    }
}

/// A window of each kind in every round, by turns in this order and in the other, so that none always
/// comes after the same.
fn measure(
    mut flows: Flows<Appliance>,
    targets: [Option<SocketAddr>; Beside::ALL.len()],
    scene: &Scene,
    options: &Options,
    setting: &Setting,
) -> Result<Windows> {
    let mut samples: [Vec<Sample>; Beside::ALL.len()] = Default::default();
    let mut sent = 0;
    for number in 1..=options.rounds {
        let mut order = Beside::ALL;
        if number % 2 == 0 {
            order.reverse();
        }
        for beside in order {
            let target = targets[beside as usize];
            let window = window(&mut flows, target, scene, options, &setting.schedule);
            let (sample, flooded) =
                window.with_context(|| format!("round {number}, {}", beside.name()))?;
            samples[beside as usize].push(sample);
            sent += if beside == Beside::FloodOfNode { flooded } else { 0 };
        }
    }
    let document = flows.kept.document("/v1/dht")?;
    Ok(Windows { samples, messages_checked: flows.messages_checked(), sent, document })
}

/// One window, and how many datagrams were sent beside it.
fn window(
    flows: &mut Flows<Appliance>,
    target: Option<SocketAddr>,
    scene: &Scene,
    options: &Options,
    schedule: &Schedule,
) -> Result<(Sample, u64)> {
    let Some(target) = target else { return Ok((flows.round(schedule)?, 0)) };
    let flood = Flood::start(scene.flood(target, options)?)?;
    let sample = flows.round(schedule);
    let sent = flood.stop()?;
    Ok((sample?, sent))
}

/// Has a thread run before everything else on its processor, and says whether that is allowed; what it
/// starts does not. Otherwise its waits for the processor would be taken for the relay's.
fn put_first_in_line(thread: u32) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--reset-on-fork", "--pid", "1", &thread.to_string()]);
    // Root without CAP_SYS_NICE, as in many a container, may not; chrt says so.
    Ok(command.status().context("chrt, from util-linux")?.success())
}

fn setting(options: &Options) -> Setting {
    let measured = Duration::from_secs_f64(options.seconds);
    Setting {
        schedule: Schedule { rounds: options.rounds, warm_up: WARM_UP, measured },
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
fn print(windows: &Windows, options: &Options) -> Result<bool> {
    let measures = [
        Measure::MessagesPerSecond,
        Measure::LatencyP50Microseconds,
        P99,
        Measure::LatencyP999Microseconds,
        Measure::ProcessorMicrosecondsPerMessage,
    ];
    let mut out = io::stdout();
    let Options { per_second, sources, rounds, seconds, .. } = options;
    writeln!(
        out,
        "{CASE}, {per_second} datagrams/s from {sources}, {rounds} windows of {seconds} s"
    )?;
    for beside in Beside::ALL {
        write!(out, "{:<24}", beside.name())?;
        let figures = summarize(windows.of(beside));
        for measure in measures {
            let figure = figures.get(&measure);
            let cell = figure.map_or_else(|| "-".to_owned(), |it| measure.cell(it.median));
            write!(out, "  {} {cell}", measure.heading())?;
        }
        writeln!(out)?;
    }
    let flooded = windows.p99(Beside::FloodOfNode);
    let ratio = |against| Ratio::of(&flooded, &windows.p99(against)).context("no latency measured");
    let (quiet, elsewhere) = (ratio(Beside::Nothing)?, ratio(Beside::FloodElsewhere)?);
    let goal = if options.xdp { RATIO_MAX_XDP } else { RATIO_MAX };
    let is_met = quiet.median <= goal;
    let word = if is_met { "met" } else { "MISSED" };
    writeln!(
        out,
        "p99 beside the flood of the node / without any: {quiet}, at most {goal}: {word}"
    )?;
    writeln!(out, "p99 beside the flood of the node / of another socket: {elsewhere}")?;
    let (received, drops) = (&windows.document["received"], &windows.document["drops"]);
    writeln!(out, "the node was sent {}, received {received}, dropped {drops}", windows.sent)?;
    writeln!(out, "{} messages were compared", windows.messages_checked)?;
    Ok(is_met)
}
