//! The keys of `[privileges]`; a part of the table of keys.

use super::Config;
use super::keys::{Key, key};
use super::rule::Rule;
use crate::limits::USER_NAME_BYTES_MAX;

pub(super) const USER: Key<Config> = key(
    "privileges",
    "user",
    "name",
    Rule::Text {
        min_bytes: 0,
        max_bytes: USER_NAME_BYTES_MAX,
        at: |config| &mut config.privileges.user,
    },
    "The user to become when started as root, by name or number, as /etc/passwd has it. It has \
    to be able to read this file. Empty: root stays root, without its capabilities.",
);
pub(super) const GROUP: Key<Config> = key(
    "privileges",
    "group",
    "name",
    Rule::Text {
        min_bytes: 0,
        max_bytes: USER_NAME_BYTES_MAX,
        at: |config| &mut config.privileges.group,
    },
    "The group that goes with it, as /etc/group has it. Empty: the user's own.",
);
pub(super) const DROP_CAPABILITIES: Key<Config> = key(
    "privileges",
    "drop_capabilities",
    "flag",
    Rule::Flag { at: |config| &mut config.privileges.drop_capabilities },
    "Whether all capabilities are given up, and with them the means to get new ones.",
);
pub(super) const RESTRICT_FILES: Key<Config> = key(
    "privileges",
    "restrict_files",
    "flag",
    Rule::Flag { at: |config| &mut config.privileges.restrict_files },
    "Whether only the directories of the configuration, of the files it names, of the state and \
    of the stats socket can be opened, and /proc. A file in another directory that a reload \
    names cannot be read before a restart. Needs landlock (Linux 5.13).",
);
pub(super) const CORE_DUMPS: Key<Config> = key(
    "privileges",
    "core_dumps",
    "flag",
    Rule::Flag { at: |config| &mut config.privileges.core_dumps },
    "Whether the memory of the process, and with it the key, may be dumped or looked at by \
    other processes of its user.",
);
