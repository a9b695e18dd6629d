//! The object with both programs, as committed in `xdp-programs/prebuilt/`.

use aya::include_bytes_aligned;

/// The object built from `xdp-programs/`; a test compares the hashes of its sources.
pub static PREBUILT: &[u8] = include_bytes_aligned!("../../xdp-programs/prebuilt/waystation.bpf.o");

/// Name of the program for network interfaces.
pub const XDP_PROGRAM: &str = "waystation";

/// Name of the program that chooses among sockets on one port.
pub const SELECT_PROGRAM: &str = "owner_socket";

/// Whether there is room for samples of frames, and the ring of them.
pub(crate) const CAPTURE_ENABLED: &str = "CAPTURE_ENABLED";
pub(crate) const CAPTURE_RING: &str = "CAPTURED";
