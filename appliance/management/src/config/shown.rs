//! What a configuration differs in from the default, as a file that says the same.
//!
//! For support: made from the values that were read, so that comments of the file, and what it says
//! that nobody understands, stay where they are. No key holds a secret: secrets are in files that
//! keys name, and a test sees to it that this stays so.

use super::keys::{KEYS, Key, SECTIONS};
use super::{Config, PEER_KEYS, PeerConfig, UDP_SESSION_KEYS, UdpSessionConfig};
use waystation_astral::identity::Identity;

/// The keys that are not at their defaults, as TOML.
pub fn shown(config: &Config) -> String {
    let mut out = String::new();
    let defaults = Config::default();
    for section in SECTIONS {
        let keys: Vec<_> = KEYS.iter().filter(|key| key.section == section.name).collect();
        table(&mut out, &format!("[{}]", section.name), &keys, config, &defaults, false);
    }
    let (keys, plain) = (UDP_SESSION_KEYS.iter().collect::<Vec<_>>(), UdpSessionConfig::default());
    for session in &config.udp.sessions {
        table(&mut out, "[[udp.session]]", &keys, session, &plain, true);
    }
    let (keys, nobody) = (PEER_KEYS.iter().collect::<Vec<_>>(), PeerConfig::new(Identity::ANYONE));
    for peer in &config.peers {
        table(&mut out, "[[peer]]", &keys, peer, &nobody, true);
    }
    out
}

fn table<C: Clone>(
    out: &mut String,
    heading: &str,
    keys: &[&Key<C>],
    of: &C,
    defaults: &C,
    is_always_there: bool,
) {
    let differing = keys.iter().filter_map(|key| {
        let value = key.value(of)?;
        (key.value(defaults).as_ref() != Some(&value)).then_some((key.name, value))
    });
    let lines: Vec<String> = differing.map(|(name, value)| format!("{name} = {value}\n")).collect();
    if is_always_there || !lines.is_empty() {
        out.push_str(heading);
        out.push('\n');
        out.extend(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::fixtures::peer;

    #[test]
    fn what_is_shown_says_the_same_as_the_file_and_nothing_that_was_a_comment() {
        let text = format!(
            "# an old password: hunter2\n[node]\nalias = \"a \\\"b\\\"\" # and hunter3\n\
             [turn]\nlisten = [\"192.0.2.1:3478\"]\nusers_file = \"/etc/waystation/users\"\n\
             [udp]\naddresses = [\"192.0.2.1\"]\nport_max = 40200\nport_min = 40000\n\
             [[udp.session]]\nname = \"one\"\nend_a = \"9.9.9.9:7\"\nend_b = \"8.8.8.8:8\"\n\
             port_a = 40000\nport_b = 40001\n\
             [xdp]\ndeny = [\"203.0.113.0/24\"]\n\
             [[peer]]\nidentity = \"{}\"\nforwards = true\nrate = \"1MiB\"\n",
            peer(),
        );
        let config = parse(&text, "x").unwrap();
        let shown = shown(&config);
        assert_eq!(parse(&shown, "y").unwrap(), config, "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(super::shown(&Config::default()), "");
    }

    #[test]
    fn no_key_holds_a_secret() {
        // Paths of files, counts of files, and keys that are public.
        const HARMLESS: &[&str] =
            &["turn.secrets_file", "dht.key_file", "dht.keys_max", "public_key_a", "public_key_b"];
        let sessions = UDP_SESSION_KEYS.iter().map(|key| key.name.to_owned());
        let peers = PEER_KEYS.iter().map(|key| key.name.to_owned());
        let names = KEYS.iter().map(Key::path).chain(sessions).chain(peers);
        for name in names.filter(|name| !HARMLESS.contains(&name.as_str())) {
            for word in ["secret", "password", "token", "key", "credential"] {
                let last = name.rsplit('.').next().unwrap();
                assert!(!last.contains(word), "{name}: is it to be shown in a support bundle?");
            }
        }
    }
}
