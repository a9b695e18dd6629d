//! What the kernel has dropped because a socket's buffer was full, from its tables of UDP sockets.
//!
//! Called every few seconds on the management thread. The text is passed in by tests.

use super::limits::SOCKET_TABLE_BYTES_MAX;
use std::fs::File;
use std::io::Read;

const TABLES: [&str; 2] = ["/proc/net/udp", "/proc/net/udp6"];
/// Fields of a line: the inode, and drops, which is the last.
const INODE_FIELD: usize = 9;

/// Drops of these sockets since they were made; none where the tables cannot be read.
pub(super) fn drops_of(inodes: &[u64]) -> Option<u64> {
    let mut drops = 0;
    for table in TABLES {
        let mut text = String::new();
        match File::open(table) {
            Ok(file) => {
                file.take(SOCKET_TABLE_BYTES_MAX).read_to_string(&mut text).ok()?;
            }
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
        drops += drops_in(&text, inodes);
    }
    Some(drops)
}

fn drops_in(table: &str, inodes: &[u64]) -> u64 {
    let of_line = |line: &str| {
        let inode = line.split_ascii_whitespace().nth(INODE_FIELD)?.parse().ok()?;
        let is_ours = inodes.contains(&inode);
        is_ours.then(|| line.split_ascii_whitespace().next_back()?.parse::<u64>().ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_our_sockets_are_added_up() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode ref pointer drops\n  100: 0100007F:1019 00000000:0000 07 \
                     00000000:00000000 00:00000000 00000000     0        0 4711 2 \
                     0000000000000000 17\n  101: 0100007F:101A 00000000:0000 07 \
                     00000000:00000000 00:00000000 00000000     0        0 4712 2 \
                     0000000000000000 5\nrubbish\n";
        assert_eq!(drops_in(table, &[4711]), 17);
        assert_eq!(drops_in(table, &[4711, 4712]), 22);
        assert_eq!(drops_in(table, &[1]), 0);
        assert_eq!(drops_in("", &[4711]), 0);
    }
}
