//! Processes of the tests: they get nothing of the tester's environment, run at most so long, and
//! die with the value that holds them.

use super::{POLL_EVERY, STEP};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// User and group id of nobody in particular.
pub const ORDINARY_ID: u32 = 65_534;

/// The program under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_waystation"))
}

/// A program named by the environment, for tests whose limits of time a slow build may not hold;
/// otherwise the program under test.
pub fn fast_binary() -> PathBuf {
    std::env::var_os("WAYSTATION_BINARY").map_or_else(binary, PathBuf::from)
}

/// Whether [`fast_binary`] is a program as it is installed. One that was not optimised takes an order
/// of magnitude longer for each frame.
pub fn is_fast() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("WAYSTATION_BINARY").is_some()
}

/// A command without the variables that tell the program where to keep things.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in [
        "STATE_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "CREDENTIALS_DIRECTORY",
        "XDG_STATE_HOME",
        "HOME",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Whether the test runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// A program that an ordinary user may run: a copy in a directory that everybody may enter.
#[derive(Debug)]
pub struct Ordinary {
    pub directory: TempDir,
    program: PathBuf,
}

impl Ordinary {
    /// Copies the program under test. The directory belongs to the ordinary user.
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let program = directory.path().join("program");
        copy_program(&binary(), &program);
        give_away(directory.path());
        Self { directory, program }
    }

    /// A command that runs the program as an ordinary user, whoever the test is.
    pub fn command(&self) -> Command {
        if !is_root() {
            return command(&self.program);
        }
        self.command_with(&[])
    }

    /// The same with capabilities, given as a service manager gives them. Only root can.
    pub fn command_with(&self, capabilities: &[&str]) -> Command {
        let mut command = command(Path::new("setpriv"));
        if !capabilities.is_empty() {
            let names = capabilities.iter().map(|name| name.trim_start_matches("CAP_"));
            let given = names.map(|name| format!(",+{}", name.to_lowercase())).collect::<String>();
            command.arg(format!("--bounding-set=-all{given}"));
            command.arg(format!("--inh-caps=-all{given}"));
            command.arg(format!("--ambient-caps=-all{given}"));
        }
        command
            .arg(format!("--reuid={ORDINARY_ID}"))
            .arg(format!("--regid={ORDINARY_ID}"))
            .arg("--clear-groups")
            .arg("--")
            .arg(&self.program);
        command
    }

    /// Whether this machine can run a program as an ordinary user.
    pub fn is_possible() -> bool {
        !is_root() || exists("setpriv")
    }
}

/// Copies a program so that it can be run at once, by everybody.
///
/// The kernel runs no file that somebody has open for writing. Were it written here, a process that
/// another thread starts meanwhile would inherit it open until it becomes another program, and for
/// as long the copy could not be run. A process of its own shares it with nobody.
pub fn copy_program(program: &Path, copy: &Path) {
    let status = Command::new("cp").arg("--").args([program, copy]).stdin(Stdio::null()).status();
    assert!(status.unwrap().success(), "{} could not be copied", program.display());
    fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
}

/// Makes a path the ordinary user's, if the test is root; otherwise it is the tester's already.
pub fn give_away(path: &Path) {
    if is_root() {
        std::os::unix::fs::chown(path, Some(ORDINARY_ID), Some(ORDINARY_ID)).unwrap();
    }
}

/// Whether a program can be found and answers `--version`, or `version` as Go does.
pub fn exists(program: &str) -> bool {
    ["--version", "version"].iter().any(|question| {
        Command::new(program)
            .arg(question)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// A process that ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    /// The exit code.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("killed by a signal: {}", self.stderr))
    }

    /// What it printed, as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// The last words on standard error: one line.
    pub fn complaint(&self) -> &str {
        let last = self.stderr.trim_end().lines().next_back();
        last.unwrap_or_else(|| panic!("nothing on standard error; {:?}", self.status))
    }
}

/// Runs a command to its end, at most [`STEP`].
pub fn run(command: &mut Command) -> Finished {
    run_within(command, STEP)
}

/// As [`run`], with another bound.
pub fn run_within(command: &mut Command, limit: Duration) -> Finished {
    let directory = TempDir::new().unwrap();
    let stdout = directory.path().join("stdout");
    command.stdout(File::create(&stdout).unwrap());
    let mut process = Process::spawn(command, &directory.path().join("stderr"));
    let status = process.wait(limit);
    Finished { status, stdout: fs::read(stdout).unwrap(), stderr: process.log() }
}

/// A running process with its standard error in a file. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it.
    pub fn spawn(command: &mut Command, log: &Path) -> Self {
        command.stderr(File::create(log).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// What it has said on standard error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it has not ended yet; it is not waited for.
    pub fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}/exe", self.id())).read_link().is_ok()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Stops it, and waits until each of its threads has: a signal is only on its way when it was sent.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        super::eventually("every thread has stopped", || {
            let mut threads = std::fs::read_dir(&tasks).unwrap();
            // The state follows the name, which is in brackets and may hold anything.
            let is_stopped = |stat: &str| stat.rsplit(')').next().unwrap().starts_with(" T");
            threads
                .all(|thread| {
                    let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
                    stat.is_ok_and(|stat| is_stopped(&stat))
                })
                .then_some(())
        });
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < until, "still runs after {limit:?}:\n{}", self.log());
            std::thread::sleep(POLL_EVERY.min(Duration::from_millis(5)));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
