//! Which interfaces the operator's own connection goes through, so that nobody cuts it by tuning.
//!
//! Called before a plan is made. Errs on the side of caution: the session's environment, that of
//! the processes it was started by (since `sudo` takes it away), and every connection to this
//! machine's SSH port count.

use crate::inventory::Inventory;
use crate::limits::{ANCESTORS_MAX, LOWER_DEPTH_MAX};
use crate::machine::Machine;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What sshd tells its sessions: address and port of the client, then of the server.
pub const SSH_CONNECTION: &str = "SSH_CONNECTION";
const SSH_PORT: u16 = 22;
/// What is addressed to this machine itself goes through no NIC.
const LOOPBACK: &str = "lo";
/// The state of a connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// A connection of an operator, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    pub client: IpAddr,
    /// Our end.
    pub server: IpAddr,
}

/// Sessions of operators: of this process by its environment, of those that it was started by, and
/// of anybody else over SSH.
pub fn sessions(machine: &Machine, own: Option<&str>, process: u32) -> Vec<Session> {
    let mut sessions: Vec<Session> = own.and_then(parse).into_iter().collect();
    sessions.extend(of_ancestors(machine, process));
    for table in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = machine.text(table).unwrap_or_default();
        sessions.extend(text.lines().filter_map(established));
    }
    sessions.sort();
    sessions.dedup();
    sessions.retain(|session| !session.client.is_loopback());
    sessions
}

/// It cannot be found out which interfaces a session goes through.
#[derive(Debug, thiserror::Error)]
#[error(
    "which interface carries the connection from {client} is unknown: {source}; \
     --even-if-remote goes on all the same"
)]
pub struct RemoteError {
    client: IpAddr,
    source: io::Error,
}

/// The interfaces that sessions go through, and those these stand on, each with the reason. What
/// stands under a tunnel is not known: all devices that are up may.
///
/// # Errors
/// There is a session and the kernel does not say where it goes.
pub fn carrying(
    machine: &Machine,
    inventory: &Inventory,
    sessions: &[Session],
) -> Result<BTreeMap<String, String>, RemoteError> {
    let mut found = BTreeMap::new();
    for session in sessions {
        let unknown = |source| RemoteError { client: session.client, source };
        let addresses = machine.nics().addresses().map_err(unknown)?;
        let reason = format!("carries the connection from {}", session.client);
        let with_address = addresses.iter().filter(|(_, address)| *address == session.server);
        let mut names: Vec<String> = with_address.map(|(name, _)| name.clone()).collect();
        match machine.nics().route(session.client) {
            Ok(name) => names.push(name),
            // No way there at all: a session of another network namespace, or one that policy
            // routes by our address, which is found already.
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => {}
            Err(error) => return Err(unknown(error)),
        }
        for name in names.iter().filter(|name| *name != LOOPBACK) {
            protect(inventory, name, &reason, LOWER_DEPTH_MAX, &mut found);
            if !stands_on_device(inventory, name, LOWER_DEPTH_MAX) {
                let reason = format!("{reason}, perhaps under {name}");
                for nic in inventory.nics.iter().filter(|nic| nic.is_device && nic.is_up) {
                    found.entry(nic.name.clone()).or_insert_with(|| reason.clone());
                }
            }
        }
    }
    Ok(found)
}

/// Whether an interface is a device, or stands on one. Tunnels are not among Ethernet interfaces,
/// or name nothing that they stand on.
fn stands_on_device(inventory: &Inventory, name: &str, depth: usize) -> bool {
    inventory.nic(name).is_some_and(|nic| {
        let mut lowers = nic.lowers.iter().filter(|_| depth > 0);
        nic.is_device || lowers.any(|lower| stands_on_device(inventory, lower, depth - 1))
    })
}

fn protect(
    inventory: &Inventory,
    name: &str,
    reason: &str,
    depth: usize,
    found: &mut BTreeMap<String, String>,
) {
    found.entry(name.to_owned()).or_insert_with(|| reason.to_owned());
    let lowers = inventory.nic(name).map(|nic| nic.lowers.as_slice()).unwrap_or_default();
    for lower in lowers.iter().filter(|_| depth > 0) {
        protect(inventory, lower, &format!("{reason}, under {name}"), depth - 1, found);
    }
}

fn of_ancestors(machine: &Machine, process: u32) -> Vec<Session> {
    let mut sessions = Vec::new();
    let mut process = process;
    for _ in 0..ANCESTORS_MAX {
        let environment = machine.raw_text(&format!("proc/{process}/environ")).unwrap_or_default();
        let variables = environment.split('\0').filter_map(|each| each.split_once('='));
        let told = variables.filter(|(name, _)| *name == SSH_CONNECTION);
        sessions.extend(told.filter_map(|(_, value)| parse(value)));
        let status = machine.text(&format!("proc/{process}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        match parent.and_then(|parent| parent.trim().parse().ok()) {
            Some(parent) if parent != 0 => process = parent,
            Some(_) | None => break,
        }
    }
    sessions
}

fn parse(value: &str) -> Option<Session> {
    let mut parts = value.split_whitespace();
    let client = address(parts.next()?)?;
    let server = address(parts.nth(1)?)?;
    Some(Session { client, server })
}

/// An address, without the scope that a link-local one has, and not mapped.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.split('%').next().unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// A line of `/proc/net/tcp` or `tcp6` about a connection to the SSH port.
fn established(line: &str) -> Option<Session> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let ((server, port), (client, _)) = (hexadecimal(local)?, hexadecimal(remote)?);
    (state == ESTABLISHED && port == SSH_PORT).then_some(Session { client, server })
}

/// An address as these tables have it: words of four bytes in the byte order of the machine.
fn hexadecimal(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok();
    let bytes = |word: u32| word.to_ne_bytes();
    let address = if address.len() == 8 {
        IpAddr::from(Ipv4Addr::from(bytes(word(0)?)))
    } else {
        let mut all = [0; 16];
        for (index, part) in all.chunks_mut(4).enumerate() {
            part.copy_from_slice(&bytes(word(index * 8)?));
        }
        IpAddr::from(Ipv6Addr::from(all)).to_canonical()
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::{Session, established, parse};

    #[test]
    fn what_sshd_says_is_read() {
        let session = parse("203.0.113.7 50412 192.0.2.10 22").unwrap();
        assert_eq!(session.client.to_string(), "203.0.113.7");
        assert_eq!(session.server.to_string(), "192.0.2.10");
        let scoped = parse("fe80::1%eth0 50412 fe80::2%eth0 22").unwrap();
        assert_eq!(scoped.server.to_string(), "fe80::2");
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn connections_to_the_ssh_port_are_found() {
        let line = "   1: 0A0200C0:0016 077100CB:C4EC 01 00000000:00000000 02:000A7B0F 00000000";
        let found = established(line);
        let (client, server) = ("203.0.113.7".parse().unwrap(), "192.0.2.10".parse().unwrap());
        assert_eq!(found, Some(Session { client, server }));
        assert_eq!(established(&line.replace(" 01 ", " 0A ")), None);
        assert_eq!(established(&line.replace(":0016", ":0017")), None);
    }
}
