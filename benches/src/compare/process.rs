//! Relays as processes: pinned, quiet, and gone with the value that holds them.

use crate::load::processor::{self, Watched};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Looks at whether a relay is ready, and the pause between two of them.
const READY_TRIES_MAX: u32 = 500;
const READY_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a relay's log shown when it fails.
const LOG_BYTES_MAX: usize = 2_000;

/// A running relay. Dropped, it is killed.
#[derive(Debug)]
pub struct RelayProcess {
    child: Child,
    log: PathBuf,
}

impl RelayProcess {
    /// Starts a command whose threads all stay on `cpu`; without one it pins its threads itself.
    /// What it prints goes to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(mut command: Command, cpu: Option<usize>, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let name = command.get_program().to_owned();
        // A process inherits the processors of the thread that starts it, and this one may be
        // pinned elsewhere already.
        let starting = thread::spawn(move || -> Result<Child> {
            match cpu {
                Some(cpu) => processor::pin(cpu)?,
                None => processor::unpin()?,
            }
            Ok(command.spawn()?)
        });
        let child = starting.join().map_err(|_panic| anyhow!("a starting thread panicked"))?;
        let child = child.with_context(|| format!("starting {}", Path::new(&name).display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The whole process, for its processor time.
    pub fn watched(&self) -> Watched {
        Watched::Process(self.child.id())
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks `ready` again and again until it says something.
    ///
    /// # Errors
    ///
    /// When the process ends, or never gets ready; with the end of its log.
    pub fn wait_ready<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        for _ in 0..READY_TRIES_MAX {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}:\n{}", self.log());
            }
            thread::park_timeout(READY_PAUSE);
        }
        bail!("it did not get ready:\n{}", self.log())
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// As [`RelayProcess::wait_ready`].
    pub fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.wait_ready(|| TcpStream::connect(address).ok()).map(drop)
    }

    fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_BYTES_MAX);
        String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on loopback that nobody listens on just now, for relays that cannot say which one they
/// were given.
///
/// # Errors
///
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// The first of some places that has a program.
pub fn find_program(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().find(|place| place.is_file()).cloned()
}

/// A program of this build, beside the one that runs.
///
/// # Errors
///
/// When the program's own place is not known.
pub fn beside_this_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(name))
}

/// What the line of a peer says that is not there.
pub const NOT_INSTALLED: &str = "peer not installed";
