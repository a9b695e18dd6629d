//! What the program has given up, as the status tells it.
//!
//! A value: the program finds it out at the start, the management core hands it on.

use serde::Serialize;

/// What is left of the privileges that the program was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// The number of the user it runs as.
    pub user: u32,
    /// Capabilities it has still got, by name. Usually none.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub files: FileConfinement,
    /// Whether memory may get to a disk when the program fails.
    pub core_dumps: bool,
}

/// How far files are restricted to those that the program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileConfinement {
    /// In every way that the program knows.
    Full,
    /// As far as an older kernel can.
    Partial,
    /// Not at all: the kernel has no landlock, or it is not switched on.
    Unavailable,
    /// Not at all: the configuration does not want it.
    Off,
}
