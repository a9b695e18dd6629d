//! `waystation top` against a real appliance: one frame, and the live view in a terminal of its own.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and waits no longer than it may"
)]

mod support;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, connect, route};
use support::process::{Finished, Process, binary, command, exists, run};
use support::streams::Pump;
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::{IdlePool, RouteForm};

/// What a program says that gives the first screen back, with its cursor.
const GIVEN_BACK: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// Two nodes that talk through a session and a pipe all the time.
struct Busy {
    appliance: Appliance,
    nodes: [Node; 2],
    _idle: IdlePool,
    pumps: Vec<Pump>,
}

impl Busy {
    fn start() -> Self {
        let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1).calibrated());
        let nodes = [appliance.node(Profile::P4), appliance.node(Profile::P4)];
        let idle = nodes[1].idle(1, true);
        let (near, far) = route(&nodes[0], &nodes[1], RouteForm::G2);
        let session = Pump::start("session", near, far);
        let (near, far) = connect(&nodes[0], &nodes[1], &idle);
        let pipe = Pump::start("pipe", near, far);
        Pump::wait_for(&[&session, &pipe], 64 * 1024);
        Self { appliance, nodes, _idle: idle, pumps: vec![session, pipe] }
    }

    /// One frame, in the order of lines.
    fn once(&self, arguments: &[&str]) -> String {
        let finished = once(&self.appliance.socket, arguments);
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
        finished.text()
    }

    fn quiet(&mut self) {
        self.pumps.drain(..).for_each(Pump::finish);
    }
}

fn top(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = command(&binary());
    command.arg("top").arg("--socket").arg(socket).args(arguments);
    for name in ["COLUMNS", "LINES", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn once(socket: &Path, arguments: &[&str]) -> Finished {
    run(top(socket, &["--once", "--interval", "500ms"]).args(arguments))
}

/// The words of the line that begins with this one.
fn words<'f>(frame: &'f str, first: &str) -> Vec<&'f str> {
    let line = frame.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no line {first}: {frame}")).split_whitespace().collect()
}

#[test]
fn one_frame_shows_links_and_pipes_that_carry_something() {
    let mut busy = Busy::start();
    eventually("the traffic is in an interval that has ended", || {
        let residence = "/v1/histograms?core=merged&window=interval&stage=residence";
        let document = busy.appliance.document(residence);
        let entries = document["histograms"].as_array().unwrap();
        let recorded = |class| entries.iter().any(|entry| entry["class"] == class);
        (recorded("data") && recorded("pipe")).then_some(())
    });
    // An interval in which a busy machine held all of this up says nothing.
    let links = eventually("a frame with what the core knows of its traffic", || {
        let links = busy.once(&[]);
        let (heads, core) = (words(&links, "CORE"), words(&links, "0"));
        let known = ["HEADROOM", "EFFICIENCY", "SAME-CORE"].iter().all(|head| {
            let place = heads.iter().position(|found| found == head).unwrap();
            core[place] != "-"
        });
        known.then_some(links)
    });
    assert!(links.starts_with("waystation "), "{links}");
    assert!(!links.contains('\u{1b}'), "no terminal, no escapes: {links:?}");
    assert!(links.lines().all(|line| line.chars().count() <= 80), "{links}");
    assert!(links.lines().count() <= 24, "{links}");
    let heads = words(&links, "LINK");
    for node in &busy.nodes {
        let name: String = node.identity().to_string().chars().take(8).collect();
        let row = links.lines().find(|line| line.contains(&name)).unwrap();
        let row: Vec<_> = row.split_whitespace().collect();
        for head in ["IN/s", "OUT/s", "MSG/s"] {
            let place = heads.iter().position(|found| *found == head).unwrap();
            assert!(!["-", "0", "0B"].contains(&row[place]), "{head}: {links}");
        }
    }
    // Count and percentiles of residence.
    assert!(words(&links, "data")[1..].iter().all(|word| *word != "-"), "{links}");
    assert!(words(&links, "pipe")[1..].iter().all(|word| *word != "-"), "{links}");
    let pipes = busy.once(&["--view", "pipes"]);
    for kind in ["caller", "target", "socket"] {
        assert!(pipes.contains(kind), "{kind}: {pipes}");
    }
    let cores = busy.once(&["--sort", "p99"]);
    assert!(cores.contains("residence data"), "{cores}");
    let drops = busy.once(&["--view", "drops"]);
    assert!(drops.contains("dropped") || drops.contains("DROPPED"), "{drops}");
    let status = run(command(&binary()).arg("status").arg("--socket").arg(&busy.appliance.socket));
    let status = status.text();
    for words in ["HEADROOM", "EFFICIENCY", "SAME-CORE", "\nlimited    links: ", "\nfloor      "] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let listed = run(command(&binary()).arg("links").arg("--socket").arg(&busy.appliance.socket));
    assert!(listed.text().contains("LIMITED"));
    busy.quiet();
}

#[test]
fn frame_is_as_large_as_the_environment_says() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let mut sized = top(&appliance.socket, &["--once", "--interval", "100ms"]);
    let finished = run(sized.env("COLUMNS", "33").env("LINES", "7"));
    let text = finished.text();
    assert!(text.lines().count() < 7, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 33), "{text}");
    assert!(text.lines().any(|line| line.chars().count() == 33), "{text}");
}

#[test]
fn without_appliance_or_terminal_it_ends_with_69() {
    let directory = TempDir::new().unwrap();
    let nowhere = directory.path().join("nothing.sock");
    for mut asked in [top(&nowhere, &["--once"]), top(&nowhere, &[])] {
        let finished = run(&mut asked);
        assert_eq!(finished.code(), 69);
        assert!(finished.complaint().contains("there is no socket"), "{}", finished.stderr);
    }
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let finished = run(&mut top(&appliance.socket, &[]));
    assert_eq!(finished.code(), 69);
    assert!(finished.complaint().contains("--once"), "{}", finished.stderr);
    let finished = run(&mut top(&appliance.socket, &["--interval", "1ms"]));
    assert_eq!(finished.code(), 64);
    assert!(finished.stderr.contains("between 100ms and 1h"), "{}", finished.stderr);
}

/// The live view in a pseudo-terminal. The test is the terminal: it sees what is drawn, and sends
/// keys.
struct Screen {
    process: Process,
    terminal: File,
    /// The program's side, to see how its modes are set.
    line: File,
    before: Termios,
    drawn: Receiver<Vec<u8>>,
    seen: String,
    _directory: TempDir,
}

impl Screen {
    /// Starts it in a session of its own, whose terminal this is, as a shell does.
    fn start(socket: &Path, columns: u16, lines: u16) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let line = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        set_size(&line, columns, lines);
        let (terminal, line) = (File::from(terminal), File::from(line));
        let before = tcgetattr(&line).unwrap();
        let plain = top(socket, &["--interval", "100ms"]);
        let mut setsid = command(Path::new("setsid"));
        setsid.arg("--ctty").arg(plain.get_program()).args(plain.get_args());
        setsid.env("TERM", "xterm").env_remove("NO_COLOR");
        setsid.stdin(Stdio::from(line.try_clone().unwrap()));
        setsid.stdout(Stdio::from(line.try_clone().unwrap()));
        let directory = TempDir::new().unwrap();
        let process = Process::spawn(&mut setsid, &directory.path().join("stderr"));
        let (draw, drawn) = channel();
        let mut reading = terminal.try_clone().unwrap();
        // Ends with the last descriptor of the other side.
        thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(count @ 1..) = reading.read(&mut bytes) {
                if draw.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let (seen, _directory) = (String::new(), directory);
        Self { process, terminal, line, before, drawn, seen, _directory }
    }

    fn press(&mut self, keys: &str) {
        self.seen.clear();
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this has been drawn since the last key.
    fn wait_for(&mut self, words: &str) {
        let until = Instant::now() + STEP;
        while !self.seen.contains(words) {
            // Frames go on coming, so each has what is left of the time.
            match self.drawn.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(drawn) => self.seen.push_str(&String::from_utf8_lossy(&drawn)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{words:?} is never drawn: {:?}\n{}", self.seen, self.process.log());
                }
            }
        }
    }

    /// Waits for its end, and holds that it left the terminal as it was.
    fn end(mut self) {
        let status = self.process.wait(STEP);
        assert_eq!(status.code(), Some(0), "{}", self.process.log());
        self.wait_for(GIVEN_BACK);
        let after = tcgetattr(&self.line).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ICANON)
    }
}

fn set_size(line: impl std::os::fd::AsFd, columns: u16, lines: u16) {
    let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(line, size).unwrap();
}

fn can_have_screens() -> bool {
    given(exists("setsid"), "setsid")
}

#[test]
fn keys_change_the_view_and_q_gives_the_terminal_back() {
    if !can_have_screens() {
        return;
    }
    let mut busy = Busy::start();
    let mut screen = Screen::start(&busy.appliance.socket, 80, 24);
    screen.wait_for("LIMITED BY");
    assert!(screen.is_raw());
    screen.press("c");
    screen.wait_for("reap_to_open data");
    screen.press("p");
    screen.wait_for("socket");
    screen.press("h");
    screen.wait_for("Ctrl-C");
    screen.press(" ");
    screen.wait_for("paused");
    screen.press(" l");
    screen.wait_for("sort: mbps");
    screen.press("s");
    screen.wait_for("sort: messages");
    screen.press("q");
    screen.end();
    busy.quiet();
}

#[test]
fn interrupt_and_termination_give_the_terminal_back() {
    if !can_have_screens() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let mut screen = Screen::start(&appliance.socket, 80, 24);
    screen.wait_for("no links");
    screen.press("\u{3}");
    screen.end();
    let mut screen = Screen::start(&appliance.socket, 80, 24);
    screen.wait_for("no links");
    screen.process.signal(Signal::TERM);
    screen.end();
}

#[test]
fn window_that_grows_is_filled() {
    if !can_have_screens() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let mut screen = Screen::start(&appliance.socket, 40, 10);
    screen.wait_for("no links");
    assert!(!screen.seen.contains("q quit"), "40 columns have no room for all keys");
    set_size(&screen.line, 100, 30);
    screen.wait_for("q quit");
    screen.press("q");
    screen.end();
}

#[test]
fn appliance_that_goes_away_is_said_and_one_that_comes_back_is_shown() {
    if !can_have_screens() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("stats.sock");
    let settings = Settings::new(PortName::Epoll, 1);
    let mut appliance = Appliance::start(&settings);
    symlink(&appliance.socket, &socket).unwrap();
    let mut screen = Screen::start(&socket, 80, 24);
    screen.wait_for("no links");
    appliance.stop();
    screen.wait_for("trying again");
    let again = Appliance::start(&settings);
    fs::remove_file(&socket).unwrap();
    symlink(&again.socket, &socket).unwrap();
    let name: String = again.identity.to_string().chars().take(8).collect();
    screen.wait_for(&name);
    screen.press("q");
    screen.end();
}
