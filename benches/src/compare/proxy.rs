//! Plain TCP proxies as contenders: haproxy and nginx, one thread each, buffers of 64 KiB.

use crate::compare::contender::{Contender, Entry, Flows, Setting};
use crate::compare::process::{NOT_INSTALLED, RelayProcess, find_program, free_address};
use crate::swarm::limits::SETUP;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Where Debian puts nginx's modules.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Connections that reach the sink and are none of ours: those that looked for the listener.
const STRAYS_MAX: usize = 16;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Haproxy,
    Nginx,
}

/// What a running proxy needs.
#[derive(Debug)]
pub struct Running {
    _process: RelayProcess,
    _sink: TcpListener,
    _directory: TempDir,
}

impl Proxy {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// The program, if it is installed with everything it needs.
    pub fn program(self, peers: &Path) -> Option<PathBuf> {
        let name = self.name();
        let system = Path::new("/usr/sbin").join(name);
        let program = find_program(&[peers.join("bin").join(name), system])?;
        (self == Self::Haproxy || Path::new(STREAM_MODULE).is_file()).then_some(program)
    }

    /// Flows through it, or that it is not installed.
    ///
    /// # Errors
    ///
    /// When it is installed and does not work.
    pub fn entry(self, shape: Shape, setting: &Setting) -> Result<Entry> {
        let Some(program) = self.program(&setting.peers) else {
            return Ok((self.name(), Err(NOT_INSTALLED.to_owned())));
        };
        let flows = self.flows(&program, shape, setting).context(self.name())?;
        let contender: Box<dyn Contender> = Box::new(flows);
        Ok((self.name(), Ok(contender)))
    }

    fn flows(self, program: &Path, shape: Shape, setting: &Setting) -> Result<Flows<Running>> {
        let directory = TempDir::new().context("making a directory")?;
        let sink = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
        let listen = free_address()?;
        let file = directory.path().join("configuration");
        fs::write(&file, self.configuration(directory.path(), listen, sink.local_addr()?))?;
        let mut command = Command::new(program);
        match self {
            Self::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Self::Nginx => command.arg("-p").arg(directory.path()).arg("-c").arg(&file),
        };
        let log = directory.path().join("log");
        let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
        process.wait_listening(listen)?;
        let pairs: Result<Vec<_>> =
            (0..shape.flows).map(|number| pair(listen, &sink, number)).collect();
        let swarm = Swarm::through_streams(pairs?, &shape, setting.clock)?;
        let watched = process.watched();
        let kept = Running { _process: process, _sink: sink, _directory: directory };
        Ok(Flows { swarm, shape, watched, kept })
    }

    fn configuration(self, directory: &Path, listen: SocketAddr, sink: SocketAddr) -> String {
        match self {
            Self::Haproxy => format!(
                "global\n nbthread 1\n tune.bufsize 65536\n maxconn 8192\n\
                 defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n \
                 timeout server 1h\n\
                 listen relay\n bind {listen}\n server sink {sink}\n"
            ),
            Self::Nginx => format!(
                "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
                 load_module {STREAM_MODULE};\nevents {{ worker_connections 8192; }}\n\
                 stream {{ server {{ listen {listen}; proxy_pass {sink}; proxy_buffer_size 64k; \
                 proxy_timeout 1h; tcp_nodelay on; }} }}\n",
                directory.display()
            ),
        }
    }
}

/// Connects through a proxy and takes the connection it makes; a token tells it from strays.
fn pair(listen: SocketAddr, sink: &TcpListener, number: u32) -> Result<(TcpStream, TcpStream)> {
    let mut near = TcpStream::connect_timeout(&listen, SETUP).context("connecting to the proxy")?;
    near.write_all(&number.to_be_bytes())?;
    for _ in 0..STRAYS_MAX {
        let (mut far, _) = sink.accept().context("waiting for the proxy")?;
        far.set_read_timeout(Some(SETUP))?;
        let mut token = [0; 4];
        if far.read_exact(&mut token).is_ok() && token == number.to_be_bytes() {
            return Ok((near, far));
        }
    }
    bail!("too many connections that are not of flow {number}")
}
