//! Whom root is to become, looked up in the files of users.
//!
//! Names are looked for in `/etc/passwd` and `/etc/group` alone: users of services are there, and
//! what other sources know would need a library that talks to them.

use super::PrivilegeError;
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_keep_capabilities, set_thread_gid, set_thread_groups, set_thread_uid};
use std::fs;
use waystation_management::config::PrivilegesConfig;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// Fields of a line of either file, counted from 0 (passwd(5), group(5)).
const ID_FIELD: usize = 2;
const GROUP_OF_USER_FIELD: usize = 3;

/// A user with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) user: Uid,
    pub(crate) group: Gid,
}

impl Person {
    /// The one that the configuration names, if it names any.
    ///
    /// # Errors
    /// Nobody is called so, or this user cannot become anybody else.
    pub(crate) fn wanted(config: &PrivilegesConfig) -> Result<Option<Self>, PrivilegeError> {
        if config.user.is_empty() {
            return Ok(None);
        }
        let users = read("user", USERS)?;
        let line =
            line_of(&users, &config.user).ok_or_else(|| unknown("user", &config.user, USERS))?;
        let id = |field| number(line, field).ok_or_else(|| unknown("user", &config.user, USERS));
        let user = Uid::from_raw(id(ID_FIELD)?);
        let group = match config.group.is_empty() {
            true => id(GROUP_OF_USER_FIELD)?,
            false => group(&config.group)?,
        };
        let person = Self { user, group: Gid::from_raw(group) };
        if !geteuid().is_root() && !person.is_self() {
            return Err(PrivilegeError::NotRoot { name: config.user.clone() });
        }
        Ok(Some(person))
    }

    /// Whether this is who the program runs as.
    pub(crate) fn is_self(&self) -> bool {
        geteuid() == self.user && getegid() == self.group
    }

    /// Becomes this user, for good, and keeps what capabilities are permitted.
    pub(super) fn take_over(&self) -> Result<(), PrivilegeError> {
        let refused = |step: &'static str| {
            move |errno: rustix::io::Errno| PrivilegeError::Refused { step, source: errno.into() }
        };
        set_keep_capabilities(true).map_err(refused("keep capabilities"))?;
        set_thread_groups(&[]).map_err(refused("leave the groups of root"))?;
        set_thread_gid(self.group).map_err(refused("become privileges.group"))?;
        set_thread_uid(self.user).map_err(refused("become privileges.user"))
    }
}

fn group(name: &str) -> Result<u32, PrivilegeError> {
    let groups = read("group", GROUPS)?;
    let line = line_of(&groups, name).and_then(|line| number(line, ID_FIELD));
    line.ok_or_else(|| unknown("group", name, GROUPS))
}

fn read(key: &'static str, file: &'static str) -> Result<String, PrivilegeError> {
    fs::read_to_string(file).map_err(|source| PrivilegeError::LookUp { key, file, source })
}

fn unknown(key: &'static str, name: &str, file: &'static str) -> PrivilegeError {
    PrivilegeError::Unknown { key, name: name.to_owned(), file }
}

/// The line of a name, or of a number.
fn line_of<'a>(file: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &&str| line.split(':').next() == Some(name);
    let numbered = |line: &&str| line.split(':').nth(ID_FIELD) == Some(name);
    file.lines().find(named).or_else(|| file.lines().find(numbered))
}

fn number(line: &str, field: usize) -> Option<u32> {
    line.split(':').nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "root:x:0:0:root:/root:/bin/bash\n7:x:12:13::/:/bin/false\n\
                        relay:x:7:8::/:/usr/sbin/nologin\n";

    #[test]
    fn people_are_found_by_name_first_and_by_number_else() {
        let found = |name| line_of(FILE, name).and_then(|line| number(line, ID_FIELD));
        assert_eq!(found("relay"), Some(7));
        assert_eq!(found("7"), Some(12));
        assert_eq!(found("12"), Some(12));
        assert_eq!(found("rela"), None);
        assert_eq!(number(line_of(FILE, "relay").unwrap_or(""), GROUP_OF_USER_FIELD), Some(8));
    }
}
