//! Every bound of this room, with its unit and where it comes from.

/// Bytes of one profile: the longest built in has 3 KiB; twenty times that with comments.
pub const PROFILE_BYTES_MAX: u64 = 64 * 1024;
/// Profiles of the operator's own: a few per kind of box.
pub const OWN_PROFILES_MAX: usize = 64;
/// Profiles that may lean on one another by `extends`: a vendor's, a site's, a box's.
pub const EXTENDS_DEPTH_MAX: usize = 4;
/// Characters of one cell of the table in the documentation.
pub const TABLE_CELL_CHARS_MAX: usize = 160;

/// Bytes of one file of `/proc` or `/sys`: `/proc/interrupts` has about 12 per CPU and interrupt,
/// and the largest machines have 500 CPUs and 1000 interrupts.
pub const MACHINE_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Names in one directory of `/proc` or `/sys`: interfaces of a box full of containers.
pub const MACHINE_NAMES_MAX: usize = 65_536;
/// CPUs of a machine: the most that Linux is built for.
pub const CPUS_MAX: usize = 8192;
/// Bytes of one answer of the kernel over netlink; it never makes longer ones.
pub const NETLINK_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Messages of one answer: every address of a box with a thousand of them, and then ten times that.
pub const NETLINK_MESSAGES_MAX: usize = 16_384;
/// Seconds that the kernel may take for one answer; a NIC that is reset takes some.
pub const NETLINK_TIMEOUT_S: u64 = 10;
/// Processes between this one and the first: shells in terminals in sessions.
pub const ANCESTORS_MAX: usize = 32;
/// Interfaces that one may stand on, one above the other: a VLAN on a bond on a port.
pub const LOWER_DEPTH_MAX: usize = 8;
/// Rounds of planning and setting: channels make interrupts and queues that are set in the second,
/// and what a driver changes along with them in the third.
pub const ROUNDS_MAX: usize = 3;
/// Bytes of an undo file: 200 for each step, and a machine with 16 NICs of 128 queues has 5000.
pub const UNDO_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Announcements of addresses that are taken at a time; an interface that comes up has a few.
pub const NETLINK_CHANGES_MAX: usize = 64;
