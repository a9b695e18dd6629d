//! Every bound of this room, with its unit and where it comes from.

/// Bytes of one profile: the longest built in has 3 KiB; twenty times that with comments.
pub const PROFILE_BYTES_MAX: u64 = 64 * 1024;
/// Profiles of the operator's own: a few per kind of box.
pub const OWN_PROFILES_MAX: usize = 64;
/// Profiles that may lean on one another by `extends`: a vendor's, a site's, a box's.
pub const EXTENDS_DEPTH_MAX: usize = 4;
/// Characters of one cell of the table in the documentation.
pub const TABLE_CELL_CHARS_MAX: usize = 160;
