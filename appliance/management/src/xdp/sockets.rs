//! The data cores' sockets that share an address: which of them a datagram of a session goes to.
//!
//! Left alone, the kernel spreads datagrams over such sockets by a hash of who sends to whom, and a
//! client stays with its core as long as there are as many of them. With `xdp.steer` the program
//! that chooses among them brings each datagram of a session to its owner's. What is kept here is a
//! second descriptor of each, for a program that is put on anew. Without processors of their own
//! cores cannot be told apart, and a core alone has nothing to choose among.

use std::net::{SocketAddr, UdpSocket};
use waystation_ebpf::programs::{Programs, deselect_for};
use waystation_engine::cores::Listening;

/// The sockets of one address, and whose each is.
#[derive(Debug)]
pub(super) struct SharedAddress {
    bound: SocketAddr,
    sockets: Vec<(u32, UdpSocket)>,
}

/// Those among which there is something to choose. `owners`: what the program knows each core by.
pub(super) fn shared_addresses(
    listening: Vec<Listening<UdpSocket>>,
    owners: &[u32],
) -> Vec<SharedAddress> {
    if owners.len() < 2 || owners.contains(&u32::MAX) {
        return Vec::new();
    }
    let shared = listening.into_iter().filter_map(|Listening { sockets, .. }| {
        let bound = sockets.first()?.local_addr().ok()?;
        Some(SharedAddress { bound, sockets: owners.iter().copied().zip(sockets).collect() })
    });
    shared.collect()
}

/// Has the program choose among them. Gives what could not be had, and what helps.
pub(super) fn choose(shared: &[SharedAddress], programs: &mut Programs) -> Vec<String> {
    // An earlier process has left some, or the one that this takes over from has the same.
    if let Err(error) = programs.tables.sockets.clear() {
        return vec![format!("clients' packets are not brought to sockets: {error}")];
    }
    let mut hints = Vec::new();
    for address in shared {
        let chosen = address.tell(programs);
        hints.extend(chosen.err().map(|error| {
            format!(
                "which core's socket on {} a client's packets go to is left to the kernel: {error}",
                address.bound
            )
        }));
    }
    hints
}

/// Leaves it to the kernel again.
pub(super) fn leave(shared: &[SharedAddress], programs: &mut Programs) {
    if programs.tables.sockets.is_empty() {
        return;
    }
    for address in shared {
        let Some((_, socket)) = address.sockets.first() else { continue };
        if let Err(error) = deselect_for(socket) {
            tracing::warn!(%error, address = %address.bound, "a program still chooses among sockets");
        }
    }
    if let Err(error) = programs.tables.sockets.clear() {
        tracing::warn!(%error, "sockets stay in the XDP program's map");
    }
}

/// Leaves it to the kernel where the process that is to be taken over from has a program choose.
pub(super) fn leave_inherited(shared: &[SharedAddress]) {
    for socket in shared.iter().filter_map(|address| address.sockets.first()) {
        // The kernel refuses only where there is none.
        let _ = deselect_for(&socket.1);
    }
}

impl SharedAddress {
    fn tell(&self, programs: &mut Programs) -> Result<(), String> {
        for (owner, socket) in &self.sockets {
            let told = programs.tables.sockets.insert(self.bound, *owner, socket);
            told.map_err(|error| error.to_string())?;
        }
        let Some((_, socket)) = self.sockets.first() else { return Ok(()) };
        programs.select_for(socket).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_engine::port::datagrams::{Role, bind};

    fn listening(cores: usize) -> Listening<UdpSocket> {
        let first = bind("127.0.0.1:0".parse().unwrap(), Role::Listening).unwrap();
        let wanted = first.local_addr().unwrap();
        let mut sockets = vec![first];
        sockets.resize_with(cores, || bind(wanted, Role::Listening).unwrap());
        Listening { wanted, sockets }
    }

    #[test]
    fn each_socket_is_known_by_its_cores_processor() {
        let shared = shared_addresses(vec![listening(2), listening(2)], &[2, 5]);
        assert_eq!(shared.len(), 2);
        for address in &shared {
            let owners: Vec<u32> = address.sockets.iter().map(|(owner, _)| *owner).collect();
            assert_eq!(owners, [2, 5]);
            assert!(
                address.sockets.iter().all(|(_, it)| it.local_addr().unwrap() == address.bound)
            );
        }
    }

    #[test]
    fn there_is_nothing_to_choose_for_one_core_or_for_cores_that_cannot_be_told_apart() {
        assert!(shared_addresses(vec![listening(1)], &[2]).is_empty());
        assert!(shared_addresses(vec![listening(2)], &[u32::MAX; 2]).is_empty());
    }
}
