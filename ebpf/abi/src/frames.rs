//! Sockets that whole frames are brought to (AF_XDP): where they are, and whose.

/// Where frames come in, and where a socket for them is: a queue of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FramePlace {
    /// Index of the interface.
    pub interface: u32,
    /// Number of the queue.
    pub queue: u32,
}

/// A socket of one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrameSocket {
    /// Its place in the map of sockets.
    pub index: u32,
    /// Processor of the data core whose it is, as [`crate::Session::owner_cpu`]. Only frames of that
    /// core's sessions are brought to it.
    pub owner_cpu: u32,
}
