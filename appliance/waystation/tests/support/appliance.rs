//! A spawned appliance and questions to its stats socket.

use super::nodes::Node;
use super::process::{Ordinary, Process, binary, command};
use super::{STEP, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::key_file;
use waystation_management::stats_socket::client::{self, ClientError};
use waystation_peer::LinkOptions;

/// How the data cores talk to the kernel, as the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortName {
    IoUring,
    Epoll,
}

impl PortName {
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// Whether this machine has it.
    pub fn is_given(self) -> bool {
        match self {
            Self::Epoll => true,
            Self::IoUring => match waystation_engine::port::probe::probe() {
                Ok(()) => true,
                Err(error) => super::given(false, &format!("io_uring, but: {error}")),
            },
        }
    }
}

/// What an appliance is configured to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lines by section.
    lines: BTreeMap<&'static str, Vec<String>>,
    /// Lines of each `[[peer]]`.
    peers: Vec<Vec<String>>,
    /// The node's key; absent: the program makes one.
    key: Option<Arc<SecretKey>>,
    program: PathBuf,
}

impl Settings {
    /// One address on loopback with a port of the kernel's choice, and memory of a small machine.
    pub fn new(port: PortName, cores: usize) -> Self {
        Self::new_auto(cores).with("engine", &format!("port = \"{}\"", port.name()))
    }

    /// As [`Settings::new`], with the port that the program prefers.
    pub fn new_auto(cores: usize) -> Self {
        let (lines, peers, key) = (BTreeMap::new(), Vec::new(), None);
        let empty = Self { lines, peers, key, program: binary() };
        empty
            .with("listen", "addresses = [\"127.0.0.1:0\"]")
            .with("engine", &format!("cores = {cores}"))
            .with("engine", "calibrate = false")
            .with("engine", "block_memory = \"16MiB\"")
            .with("engine", "queue_memory = \"64MiB\"")
            .with("management", "log = \"debug\"")
    }

    /// One more line.
    pub fn with(mut self, section: &'static str, line: &str) -> Self {
        self.lines.entry(section).or_default().push(line.to_owned());
        self
    }

    /// A node known by name, with what else is said about it.
    pub fn with_peer(mut self, identity: &Identity, lines: &[&str]) -> Self {
        let mut peer = vec![format!("identity = \"{identity}\"")];
        peer.extend(lines.iter().map(|line| (*line).to_owned()));
        self.peers.push(peer);
        self
    }

    /// With a key of the test's choice, so that others can know the node before it starts.
    pub fn with_key(mut self, key: &SecretKey) -> Self {
        self.key = Some(Arc::new(key.duplicate()));
        self
    }

    /// Without lines about every small thing, where there are thousands of those.
    pub fn quiet(self) -> Self {
        self.logging("info")
    }

    /// With the floor of the machine measured at the start.
    pub fn calibrated(mut self) -> Self {
        self.lines.get_mut("engine").unwrap().retain(|line| !line.starts_with("calibrate ="));
        self
    }

    /// With log lines of this level.
    pub fn logging(mut self, level: &str) -> Self {
        self.lines.get_mut("management").unwrap().retain(|line| !line.starts_with("log ="));
        self.with("management", &format!("log = \"{level}\""))
    }

    /// With another build of the program.
    pub fn running(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (section, lines) in &self.lines {
            writeln!(text, "[{section}]\n{}\n", lines.join("\n")).unwrap();
        }
        for lines in &self.peers {
            writeln!(text, "[[peer]]\n{}\n", lines.join("\n")).unwrap();
        }
        text
    }
}

/// A running appliance with a state directory of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Appliance {
    pub process: Process,
    pub directory: TempDir,
    pub socket: PathBuf,
    pub address: SocketAddr,
    pub identity: Identity,
}

impl Appliance {
    /// Starts one and waits until it is ready.
    pub fn start(settings: &Settings) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let state = directory.path().join("state");
        if let Some(key) = &settings.key {
            fs::create_dir(&state).unwrap();
            let file = state.join("node_key");
            fs::write(&file, key_file::write(key)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = command(&settings.program);
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        Self::spawn(&mut command, directory, &state)
    }

    /// Starts one as an ordinary user.
    pub fn start_ordinary(ordinary: &Ordinary, settings: &Settings) -> Self {
        let directory = TempDir::new_in(ordinary.directory.path()).unwrap();
        super::process::give_away(directory.path());
        let file = ordinary.directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let state = directory.path().join("state");
        let mut command = ordinary.command();
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        Self::spawn(&mut command, directory, &state)
    }

    /// Runs a command that becomes an appliance with this state directory.
    pub fn spawn(command: &mut Command, directory: TempDir, state: &Path) -> Self {
        let log = directory.path().join("log");
        let mut process = Process::spawn(command, &log);
        let socket = state.join("waystation.sock");
        eventually("the appliance is ready", || match client::get(&socket, "/ready") {
            Ok(_) => Some(()),
            Err(error) => {
                let ended = process.ended();
                assert!(ended.is_none(), "ended with {ended:?}:\n{}", process.log());
                assert!(error.is_unavailable(), "{error}:\n{}", process.log());
                None
            }
        });
        let status: Value =
            serde_json::from_slice(&client::get(&socket, "/v1/status").unwrap()).unwrap();
        let address = status["listen"][0].as_str().unwrap().parse().unwrap();
        let identity = status["identity"].as_str().unwrap().parse().unwrap();
        Self { process, directory, socket, address, identity }
    }

    /// What the stats socket answers, or how it refuses.
    pub fn ask(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        client::get_within(&self.socket, path, STEP)
    }

    /// A JSON document of the stats socket.
    pub fn document(&self, path: &str) -> Value {
        let answer = self.ask(path);
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.process.log()));
        serde_json::from_slice(&answer).unwrap()
    }

    pub fn status(&self) -> Value {
        self.document("/v1/status")
    }

    /// A counter summed over the cores.
    pub fn total(&self, counter: &str) -> u64 {
        let status = self.status();
        status["totals"]["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter}"))
    }

    /// Waits until some counters together reach what they must, and no more. A core that has no
    /// time on a busy machine answers late, and until then its counters are those of its last
    /// answer.
    pub fn expect_total(&self, counters: &[&str], expected: u64) {
        let total = eventually(&format!("{counters:?} reach {expected}"), || {
            let sum = counters.iter().map(|counter| self.total(counter)).sum::<u64>();
            (sum >= expected).then_some(sum)
        });
        assert_eq!(total, expected, "{counters:?}");
    }

    /// How often each reason has occurred so far.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let document = self.document("/v1/drops?all=true");
        let reasons = document["reasons"].as_array().unwrap().iter();
        reasons
            .map(|row| {
                (row["reason"].as_str().unwrap().to_owned(), row["events"].as_u64().unwrap())
            })
            .collect()
    }

    /// A node with a link of this profile.
    pub fn node(&self, profile: Profile) -> Node {
        Node::dial(self, &LinkOptions::with_profile(profile))
    }

    /// As [`Appliance::node`], on a chosen core: the kernel deals connections to cores, so it dials
    /// until it is dealt that one.
    pub fn node_on(&self, profile: Profile, core: usize) -> Node {
        /// With three cores, all of so many miss with a probability of 10⁻¹⁷.
        const DIALS_MAX: usize = 100;
        for _ in 0..DIALS_MAX {
            let node = self.node(profile);
            if self.core_of(&node) == core {
                return node;
            }
        }
        panic!("no link on core {core} in {DIALS_MAX} dials");
    }

    /// The core that a node's link is on.
    pub fn core_of(&self, node: &Node) -> usize {
        let row = eventually("the link is listed", || self.link_row(&node.identity()));
        let link = row["link"].as_str().unwrap();
        link.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    /// The row of an identity's link in the listing of links.
    pub fn link_row(&self, identity: &Identity) -> Option<Value> {
        let name = identity.to_string();
        let document = self.document("/v1/links");
        let rows = document["links"].as_array().unwrap();
        rows.iter().find(|row| row["identity"] == name).cloned()
    }

    /// Waits until nothing is under way any more and every piece of memory is back in its place.
    pub fn wait_until_whole(&self) {
        eventually("the appliance is whole again", || {
            let status = self.status();
            status["cores"].as_array().unwrap().iter().all(is_whole).then_some(())
        });
    }

    /// Has it read its configuration again, with some of the texts in it replaced, and waits until it
    /// has.
    pub fn reload_with(&self, replacements: &[(&str, &str)]) {
        let file = self.directory.path().join("waystation.toml");
        let mut text = fs::read_to_string(&file).unwrap();
        for (old, new) in replacements {
            assert!(text.contains(old), "{old} is not in {text}");
            text = text.replace(old, new);
        }
        fs::write(&file, text).unwrap();
        let reloads = || self.process.log().matches("reloaded the configuration").count();
        let before = reloads();
        self.process.signal(rustix::process::Signal::HUP);
        eventually("the reload is over", || (reloads() > before).then_some(()));
    }

    /// Asks it to stop and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait(STEP)
    }
}

impl Drop for Appliance {
    /// A test that fails shows what the appliance has to say.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for path in ["/v1/status", "/v1/links", "/v1/sessions", "/v1/drops"] {
            match self.ask(path) {
                Ok(answer) => println!("{path}: {}", String::from_utf8_lossy(&answer)),
                Err(error) => println!("{path}: {error}"),
            }
        }
        /// Lines of the log that are worth showing.
        const LINES: usize = 200;
        let log = self.process.log();
        let skipped = log.lines().count().saturating_sub(LINES);
        log.lines().skip(skipped).for_each(|line| println!("{line}"));
    }
}

/// Whether one core of a status document holds nothing for anybody.
fn is_whole(core: &Value) -> bool {
    let counters = &core["counters"];
    let nothing = ["links_open", "half_open", "sessions_open", "sockets_open", "pipes_open"];
    let all_free = |kind: &str| {
        let headroom = &core["headroom"][kind];
        headroom["of"].as_u64().unwrap() > 0 && headroom["free"] == headroom["of"]
    };
    nothing.iter().all(|counter| counters[counter] == 0)
        && counters["queued_bytes"] == 0
        && all_free("receive_buffers")
        && all_free("blocks")
}
