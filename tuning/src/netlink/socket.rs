//! One question to the kernel and its answer, over a netlink socket of its own.

use super::message::{
    Attributes, DONE, ERROR, FLAG_ACK, FLAG_DUMP, attribute, message, messages, number, u32_at,
};
use crate::limits::{NETLINK_ANSWER_BYTES_MAX, NETLINK_MESSAGES_MAX, NETLINK_TIMEOUT_S};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto,
    socket_with,
};
use std::io;
use std::time::Duration;

/// The routing protocol has the number 0, which is what no protocol is taken for.
const ROUTE: Option<Protocol> = None;
/// The number under which the kernel knows this one question of a socket.
const SEQUENCE: u32 = 1;
/// `nlctrl`, which knows the numbers of all generic families (`linux/genetlink.h`).
const CONTROL_FAMILY: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_ATTRIBUTE_ID: u16 = 1;
const CONTROL_ATTRIBUTE_NAME: u16 = 2;
/// Bytes of the header of generic messages: command, version, two of nothing.
pub(super) const GENERIC_HEADER_BYTES: usize = 4;

/// Asks a generic family. Returns what follows the generic header of each answer.
pub(super) fn ask_family(
    family: &str,
    command: u8,
    attributes: Attributes,
) -> io::Result<Vec<Vec<u8>>> {
    let name = Attributes::default().text(CONTROL_ATTRIBUTE_NAME, family);
    let found = ask_generic(CONTROL_FAMILY, CONTROL_GET_FAMILY, name)?;
    let id = found.first().and_then(|found| attribute(found, CONTROL_ATTRIBUTE_ID));
    let id = id.and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
    ask_generic(id.ok_or(io::ErrorKind::Unsupported)?, command, attributes)
}

/// Asks the routing family. Returns what follows the header of each answer of a kind.
pub(super) fn ask_routing(
    kind: u16,
    all: bool,
    payload: &[u8],
    wanted: u16,
) -> io::Result<Vec<Vec<u8>>> {
    let flags = if all { FLAG_DUMP } else { FLAG_ACK };
    let answers = ask(ROUTE, kind, flags, payload)?;
    Ok(answers.into_iter().filter(|(kind, _)| *kind == wanted).map(|(_, answer)| answer).collect())
}

fn ask_generic(family: u16, command: u8, attributes: Attributes) -> io::Result<Vec<Vec<u8>>> {
    let mut payload = vec![command, 1, 0, 0];
    payload.extend(attributes.into_bytes());
    let answers = ask(Some(netlink::GENERIC), family, FLAG_ACK, &payload)?;
    let bare = |(_, answer): (u16, Vec<u8>)| answer.get(GENERIC_HEADER_BYTES..).map(<[u8]>::to_vec);
    Ok(answers.into_iter().filter_map(bare).collect())
}

/// Sends one request and takes everything up to its acknowledgement, or the end of a dump.
fn ask(
    protocol: Option<Protocol>,
    kind: u16,
    flags: u16,
    payload: &[u8],
) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(NETLINK_TIMEOUT_S)))?;
    let request = message(kind, flags, SEQUENCE, payload);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; NETLINK_ANSWER_BYTES_MAX];
    while answers.len() < NETLINK_MESSAGES_MAX {
        let (bytes, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for received in messages(&buffer[..bytes]) {
            if received.sequence != SEQUENCE {
                continue;
            }
            match received.kind {
                DONE => return Ok(answers),
                ERROR => return outcome(received.payload).map(|()| answers),
                kind => answers.push((kind, received.payload.to_vec())),
            }
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The number of an error is negative, and 0 acknowledges.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = u32_at(payload, 0).ok_or(io::ErrorKind::InvalidData)?;
    match code.wrapping_neg() {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(i32::try_from(code).unwrap_or(0)).into()),
    }
}

/// A number of an attribute, if that is there.
pub(super) fn number_of(answer: &[u8], kind: u16) -> Option<u64> {
    attribute(answer, kind).and_then(number)
}
