//! Two pages in headless Chromium that may use relayed candidates alone: a data channel, whose every
//! byte is compared, and a call with picture and sound of Chromium's own making.

use crate::scene::{End, Family, Scene};
use crate::support::appliance::PortName;
use crate::support::given;
use crate::support::process::{Process, command};
use crate::turn::{Pauses, Tier, Turn, USER};
use crate::web::{Call, Caller};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

/// Debian's names for a Chromium without and with a window; both can do without one.
const PROGRAMS: [&str; 2] = ["chromium-headless-shell", "chromium"];
/// What each page sends to the other.
const MESSAGES: u64 = 48;

#[test]
fn pages_on_loopback_talk_through_relays_alone() {
    if let Some(scene) = Scene::loopback() {
        pages_talk(&scene, PortName::Epoll, Tier::Gso);
    }
}

#[test]
fn pages_in_namespaces_without_a_route_between_them_talk_through_the_relay() {
    if let Some(scene) = Scene::namespaces() {
        pages_talk(&scene, PortName::Epoll, Tier::Plain);
    }
}

#[test]
fn pages_in_namespaces_talk_while_the_program_is_on_their_ways() {
    if let Some(scene) = Scene::namespaces() {
        pages_talk(&scene.with_finished_checksums(), PortName::Epoll, Tier::Xdp);
    }
}

fn pages_talk(scene: &Scene, port: PortName, tier: Tier) {
    let program = PROGRAMS.iter().find_map(|name| found(name));
    if !given(program.is_some(), "chromium") {
        return;
    }
    let program = program.unwrap();
    let turn = Turn::start(scene, port, tier);
    let call = Call::new(&format!("turn:{}?transport=udp", turn.server(Family::Ipv4)), USER);
    let browsers = [End::A, End::B].map(|end| Browser::open(scene, end, &program, &call));
    let told = call.told();
    let pauses = (tier == Tier::Gso).then(|| Pauses::of(&turn));
    for _ in &browsers {
        let told = told.hear(&|| browsers.iter().map(Browser::log).collect());
        println!("a page: {told}");
        assert_eq!(told["messages"], MESSAGES, "{told}");
        assert_eq!((&told["local"], &told["remote"]), (&"relay".into(), &"relay".into()));
    }
    drop(pauses);
    // Each message goes in several packets, and there is picture and sound.
    match tier {
        Tier::Xdp => turn.expect_carried_between_clients(4 * MESSAGES),
        Tier::Plain | Tier::Gso => turn.expect_carried(4 * MESSAGES, 0),
    }
}

/// One browser with one page. Dropped, it is killed with all of its processes: what is started is a
/// script, and a browser whose script is gone goes on.
struct Browser {
    process: Process,
    _caller: Caller,
    _directory: TempDir,
}

impl Browser {
    fn open(scene: &Scene, end: End, program: &Path, call: &Call) -> Self {
        let caller = call.caller(scene, end);
        let directory = TempDir::new().unwrap();
        let mut browser = scene.command(end, program);
        // What a browser keeps at home, it keeps where the test cleans up.
        browser.env("HOME", directory.path()).stdout(Stdio::null());
        browser.arg(format!("--user-data-dir={}", directory.path().display()));
        browser.args(FLAGS).arg(&caller.url).process_group(0);
        let process = Process::spawn(&mut browser, &directory.path().join("log"));
        Self { process, _caller: caller, _directory: directory }
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.process.id().cast_signed());
        // Fails only if all of them have ended.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
}

const FLAGS: [&str; 13] = [
    "--headless",
    // The test may be root, and in a container, where its sandbox does not start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    // A page that nobody watches is not slowed down.
    "--disable-background-timer-throttling",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection",
    // A page waits for the names of its own addresses, also of those that it may not use, and has
    // none for good if no interface was ready for multicast when the browser started.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    // Without it, a browser without a window ends once its page is loaded.
    "--remote-debugging-port=0",
];

fn found(program: &str) -> Option<PathBuf> {
    let mut ask = command(Path::new(program));
    let output = ask.arg("--version").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| program.into())
}
