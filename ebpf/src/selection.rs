//! The map of sockets that share an address, and what the selecting program made of it.
//!
//! Written by the management core of the process that serves, and of the one that is about to: both
//! have the same sockets, and until an entry is there again the kernel's hash brings a datagram to
//! the socket that it would have named.

use crate::abi::{Selection, SocketPlace, limits::SOCKETS_MAX};
use crate::tables::removed;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, ReusePortSockArray};
use std::{fmt, net::SocketAddr, os::fd::AsRawFd};

/// Datagrams of sessions, or trains of them, that came to an address which several sockets share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selections {
    /// Brought to the socket of the core that owns the session.
    pub to_owner: u64,
    /// Left to the kernel's hash, since that core has no socket there.
    pub without_socket: u64,
}

/// The data cores' sockets on addresses that they share: which is whose.
pub struct SocketTable {
    sockets: ReusePortSockArray<MapData>,
    places: HashMap<MapData, SocketPlace, u32>,
    selections: PerCpuArray<MapData, u64>,
    count: u32,
}

impl SocketTable {
    pub(crate) fn new(
        sockets: ReusePortSockArray<MapData>,
        places: HashMap<MapData, SocketPlace, u32>,
        selections: PerCpuArray<MapData, u64>,
    ) -> Self {
        Self { sockets, places, selections, count: 0 }
    }

    /// Takes all sockets out, those of an earlier process too. A thousand system calls.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear(&mut self) -> Result<(), MapError> {
        let places: Vec<SocketPlace> = self.places.keys().flatten().collect();
        for place in &places {
            removed(self.places.remove(place))?;
        }
        for index in 0..SOCKETS_MAX {
            removed(self.sockets.clear_index(&index))?;
        }
        self.count = 0;
        Ok(())
    }

    /// Says that a socket, which is bound to `bound` with `SO_REUSEPORT`, is that of the core on
    /// `owner_cpu`. It must be in no other such map. The kernel takes it out when it is closed.
    ///
    /// # Errors
    /// When the table is full, the socket is not such a one, or the kernel refuses.
    pub fn insert(
        &mut self,
        bound: SocketAddr,
        owner_cpu: u32,
        socket: &impl AsRawFd,
    ) -> Result<(), MapError> {
        // Its place last: who finds one finds the socket.
        self.sockets.set(self.count, socket, 0)?;
        self.places.insert(SocketPlace::new(bound, owner_cpu), self.count, 0)?;
        self.count += 1;
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What was chosen so far, on all processors, since the program was loaded.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn selections(&self) -> Result<Selections, MapError> {
        let of = |which: Selection| -> Result<u64, MapError> {
            Ok(self.selections.get(&(which as u32), 0)?.iter().sum())
        };
        Ok(Selections { to_owner: of(Selection::Owner)?, without_socket: of(Selection::NoSocket)? })
    }
}

impl fmt::Debug for SocketTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketTable({})", self.count)
    }
}
