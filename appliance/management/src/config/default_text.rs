//! Prints the documented default: a file that says everything about every key.

use super::Config;
use super::keys::{KEYS, Key, SECTIONS};
use super::{PEER_KEYS, PeerConfig, UDP_SESSION_KEYS, UdpSessionConfig};

use waystation_astral::identity::Identity;

/// Columns of the comments.
const COLUMNS: usize = 80;

/// The whole configuration with its defaults, each key with meaning, unit, range and whether a
/// running program takes up a new value. The text parses back to [`Config::default`].
pub fn documented_default() -> String {
    let defaults = Config::default();
    let mut out = String::new();
    comment(
        &mut out,
        "Configuration of waystation. Every key is here with its default; a file needs \
        only those that differ. Durations have a unit (ns, us, ms, s, m, h, d), and so have sizes \
        (B, KiB, MiB, GiB, TiB). Check a file with: waystation config check FILE",
    );
    for section in SECTIONS {
        out.push('\n');
        comment(&mut out, section.meaning);
        out.push_str(&format!("[{}]\n", section.name));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            describe(&mut out, key, key.value(&defaults));
        }
    }
    describe_peers(&mut out);
    describe_sessions(&mut out);
    out
}

/// As peers: a session has no default.
fn describe_sessions(out: &mut String) {
    out.push('\n');
    comment(
        out,
        "Opaque UDP sessions that are always there, each under a line [[udp.session]] of its own \
        behind [udp]. What comes from one end goes to the other, both ways. A reload opens, closes \
        and changes them; one that stays as it was is not touched.",
    );
    out.push_str("# [[udp.session]]\n");
    let plain = UdpSessionConfig::default();
    for key in UDP_SESSION_KEYS {
        describe(out, key, None);
        if !["name", "port_a", "port_b"].contains(&key.name)
            && let Some(value) = key.value(&plain)
        {
            comment(out, &format!("Default: {value}."));
        }
    }
}

/// A peer has no default, so all of it is a comment.
fn describe_peers(out: &mut String) {
    out.push('\n');
    comment(
        out,
        "Nodes that this one knows by name, each under a line [[peer]] of its own. There are none \
        by default.",
    );
    out.push_str("# [[peer]]\n");
    let nobody = PeerConfig::new(Identity::ANYONE);
    for key in PEER_KEYS {
        describe(out, key, None);
        if key.name != "identity"
            && let Some(value) = key.value(&nobody)
        {
            comment(out, &format!("Default: {value}."));
        }
    }
}

fn describe<C: Clone>(out: &mut String, key: &Key<C>, value: Option<String>) {
    out.push('\n');
    comment(out, key.meaning);
    comment(out, &format!("Unit: {}. Range: {}.", key.unit, key.range()));
    comment(out, &format!("Reloads: {}.", key.reload.text()));
    match value {
        Some(value) => out.push_str(&format!("{} = {value}\n", key.name)),
        None => out.push_str(&format!("# {} =\n", key.name)),
    }
}

/// Writes words as comment lines of at most [`COLUMNS`] columns.
fn comment(out: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS && line.len() > 1 {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
