//! Where the flood comes from: an address of loopback, or a network namespace beyond a veth.

use crate::flood::options::Options;
use anyhow::{Context, Result, ensure};
use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// Set in the process that is in a namespace of its own.
const INSIDE: &str = "WAYSTATION_DHT_FLOOD_INSIDE";
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The first address of the flood; the others follow.
const FIRST_SOURCE: u8 = 10;
const LOOKS_MAX: u32 = 500;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// See the module. Dropped, the namespace beyond is gone.
#[derive(Debug)]
pub struct Scene {
    beyond: Option<Child>,
    sources: u8,
}

impl Scene {
    /// Runs this program again in a namespace of its own, if that is wanted and it is not in one.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn entered(options: &Options) -> Result<Option<ExitStatus>> {
        if !options.xdp || env::var_os(INSIDE).is_some() {
            return Ok(None);
        }
        let mut again = Command::new("unshare");
        again.arg("--net").arg(env::current_exe()?).args(env::args_os().skip(1));
        let status = again.env(INSIDE, "1").status();
        status.map(Some).context("unshare, from util-linux, and root are needed for --xdp")
    }

    /// Builds what is between the flood and the node.
    ///
    /// # Errors
    ///
    /// When an interface or an address cannot be had.
    pub fn build(options: &Options) -> Result<Self> {
        let mut scene = Self { beyond: None, sources: options.sources };
        if !options.xdp {
            return Ok(scene);
        }
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let beyond = scene.beyond.insert(holder.spawn().context("a second namespace")?).id();
        await_namespace(beyond)?;
        ip(None, "link set lo up")?;
        ip(None, &format!("link add wan type veth peer name eth0 netns {beyond}"))?;
        ip(None, &format!("addr add {NODE}/24 dev wan"))?;
        ip(None, "link set wan up")?;
        for source in scene.sources() {
            ip(Some(beyond), &format!("addr add {source}/24 dev eth0"))?;
        }
        ip(Some(beyond), "link set eth0 up")?;
        Ok(scene)
    }

    /// Where the node and the other socket are to be.
    pub fn address(&self) -> IpAddr {
        if self.beyond.is_some() { NODE.into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// A command that floods an address from here.
    ///
    /// # Errors
    ///
    /// When this program's own file is not known.
    pub fn flood(&self, to: SocketAddr, options: &Options) -> Result<Command> {
        let program = env::current_exe()?;
        let mut command = match &self.beyond {
            None => Command::new(program),
            Some(beyond) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace(beyond.id()).display())).arg(program);
                command
            }
        };
        let from: Vec<_> = self.sources().map(|source| source.to_string()).collect();
        command.args(["send", "--to", &to.to_string(), "--from", &from.join(",")]);
        command.args(["--per-second", &options.per_second.to_string()]);
        command.args(["--cpu", &options.generator_cpu.to_string()]);
        Ok(command)
    }

    fn sources(&self) -> impl Iterator<Item = Ipv4Addr> {
        let [first, second, third, _] = NODE.octets();
        let is_beyond = self.beyond.is_some();
        (FIRST_SOURCE..FIRST_SOURCE + self.sources).map(move |number| match is_beyond {
            true => Ipv4Addr::new(first, second, third, number),
            // Each in a network of its own.
            false => Ipv4Addr::new(127, 8, number, 1),
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut beyond) = self.beyond.take() {
            // Both fail only for a process that has ended.
            let _ = beyond.kill();
            let _ = beyond.wait();
        }
    }
}

fn namespace(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/ns/net"))
}

/// Waits until a process is in a namespace of its own.
fn await_namespace(process: u32) -> Result<()> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    for _ in 0..LOOKS_MAX {
        if std::fs::read_link(namespace(process)).is_ok_and(|its| its != own) {
            return Ok(());
        }
        thread::park_timeout(LOOK_PAUSE);
    }
    anyhow::bail!("there is no second namespace; that needs root")
}

/// Runs `ip` here, or where a process is.
fn ip(beyond: Option<u32>, arguments: &str) -> Result<()> {
    let mut command = match beyond {
        None => Command::new("ip"),
        Some(process) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", namespace(process).display())).arg("ip");
            command
        }
    };
    let status = command.args(arguments.split(' ')).status()?;
    ensure!(status.success(), "ip {arguments}");
    Ok(())
}
