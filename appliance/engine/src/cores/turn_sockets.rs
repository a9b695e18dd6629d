//! What each core's TURN server starts with: listening sockets, a share of the relayed ports, and
//! what all of them have in common.
//!
//! Called once, on the program's main thread, before any core runs. All sockets of an address are
//! bound before the first datagram is read, and in one order, because the kernel chooses among them
//! by a hash of both ends and their number.

use super::listening::{self, Listening, ListeningSockets};
use super::{EngineError, TurnSettings};
use crate::core::{OpaqueSettings, TurnParts, is_without_family};
use crate::entropy::Entropy;
use crate::port::datagrams::{Role, bind, send_unfragmented};
use std::net::{SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use waystation_turn::limits::NONCE_KEY_BYTES;
use waystation_turn::sharing::Shared;
use zeroize::Zeroizing;

/// Binds every address once per core, but for those that another process has given, and shares the
/// ports out. Returns the parts of each core without their sockets, the last core's first.
pub(super) fn prepare(
    settings: &TurnSettings,
    cores: usize,
    mut given: ListeningSockets,
    bound: &mut ListeningSockets,
) -> Result<Vec<TurnParts>, EngineError> {
    // Nonces that the other process gave stay good.
    let nonce_key = given
        .nonce_key
        .take()
        .unwrap_or_else(|| Zeroizing::new(Entropy::default().bytes::<NONCE_KEY_BYTES>()));
    let dont_fragment = check_relayed(settings)?;
    let shared = Shared::new(&settings.server, cores, &nonce_key).map_err(EngineError::Turn)?;
    let shared = Arc::new(shared);
    let mut parts = Vec::with_capacity(cores);
    for core in (0..cores).rev() {
        let mut server = settings.server.clone();
        server.dont_fragment &= dont_fragment;
        for range in &mut server.relayed {
            range.ports = share(&range.ports, core, cores)?;
        }
        parts.push(TurnParts {
            sockets: Vec::new(),
            listeners: Vec::new(),
            stream_limits: settings.stream_limits,
            server,
            nonce_key: nonce_key.clone(),
            shared: Arc::clone(&shared),
            behind: settings.behind.clone(),
            tier: settings.tier,
        });
    }
    bound.turn_udp = bind_all(&settings.listen, &mut given.turn_udp, cores)?;
    bound.turn_tcp = super::bind_all(&settings.listen_tcp, &mut given.turn_tcp, cores)?;
    bound.nonce_key = Some(nonce_key);
    Ok(parts)
}

/// A share of a range for one core: an even number of ports, so that pairs stay together when the
/// range begins with an even one; the last core has what is left over.
fn share(
    ports: &RangeInclusive<u16>,
    core: usize,
    cores: usize,
) -> Result<RangeInclusive<u16>, EngineError> {
    let count = ports.len();
    let each = count / cores / 2 * 2;
    if each == 0 {
        return Err(EngineError::RelayedPorts { ports: count, cores });
    }
    let first = usize::from(*ports.start()) + core * each;
    let last = match core + 1 == cores {
        true => usize::from(*ports.end()),
        false => first + each - 1,
    };
    // Both lie within the range.
    Ok(first as u16..=last as u16)
}

/// Finds out now whether relayed addresses are this machine's, and not with the first allocation.
/// Returns whether datagrams can leave each of them unfragmented.
fn check_relayed(settings: &TurnSettings) -> Result<bool, EngineError> {
    let mut can_leave_unfragmented = true;
    for range in &settings.server.relayed {
        let behind = settings.behind.iter().find(|(known, _)| *known == range.ip);
        let address = behind.map_or(range.ip, |(_, bound)| *bound);
        let socket = bind(SocketAddr::new(address, 0), Role::Relayed)
            .map_err(|source| EngineError::Relay { address, source })?;
        can_leave_unfragmented &= send_unfragmented(&socket, true).is_ok();
    }
    Ok(can_leave_unfragmented)
}

/// The same for the addresses of opaque sessions, which open their sockets much later.
pub(super) fn check_opaque(settings: Option<&OpaqueSettings>) -> Result<(), EngineError> {
    for &address in settings.map(|settings| &settings.addresses).into_iter().flatten() {
        match bind(SocketAddr::new(address, 0), Role::Relayed) {
            Err(source) if !(address.is_unspecified() && is_without_family(&source)) => {
                return Err(EngineError::Relay { address, source });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn bind_all(
    addresses: &[SocketAddr],
    given: &mut Vec<Listening<UdpSocket>>,
    cores: usize,
) -> Result<Vec<Listening<UdpSocket>>, EngineError> {
    let mut bound = Vec::with_capacity(addresses.len());
    for &address in addresses {
        if let Some(listening) = listening::take(given, address, cores) {
            bound.push(listening);
            continue;
        }
        let error = |source| EngineError::Listen { address, source };
        // Without sharing first, so that another program on the address is an error, not a partner.
        drop(bind(address, Role::Relayed).map_err(error)?);
        let mut actual = address;
        let mut sockets = Vec::with_capacity(cores);
        for _ in 0..cores {
            let socket: UdpSocket = bind(actual, Role::Listening).map_err(error)?;
            actual = socket.local_addr().map_err(error)?;
            sockets.push(socket);
        }
        bound.push(Listening { wanted: address, sockets });
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_whole_and_of_even_size_but_the_last() {
        for (ports, cores) in [(49_152..=65_535, 3), (50_000..=50_008, 2), (1024..=1025, 1)] {
            let shares: Vec<_> =
                (0..cores).map(|core| share(&ports, core, cores).unwrap()).collect();
            let all: Vec<u16> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, ports.collect::<Vec<_>>());
            let (_, others) = shares.split_last().unwrap();
            assert!(others.iter().all(|share| share.len().is_multiple_of(2)));
        }
    }

    #[test]
    fn too_few_ports_for_the_cores_are_refused() {
        let refused = share(&(50_000..=50_004), 0, 3);
        assert!(matches!(refused, Err(EngineError::RelayedPorts { ports: 5, cores: 3 })));
    }
}
