//! The manual page of the configuration, `waystation.toml(5)`, from the table of all keys.
//!
//! Pure. The program writes it for packages.

use super::Config;
use super::keys::{KEYS, Key, SECTIONS};
use super::{PEER_KEYS, PeerConfig, UDP_SESSION_KEYS, UdpSessionConfig};
use waystation_astral::identity::Identity;

/// What stands before the keys.
const DESCRIPTION: &[&str] = &[
    "The configuration of waystation is a TOML file. It needs only the keys that differ from their \
     defaults, and every key has one. Keys that there are not, values out of range, values without \
     their unit and values that contradict each other are refused, each with its file, line, key \
     and remedy.",
    "Durations have a unit (ns, us, ms, s, m, h, d), and so have sizes (B, KiB, MiB, GiB, TiB).",
    "The program reads the file when it starts, and again on SIGHUP. A file that does not hold then \
     changes nothing. Of one that does, the keys that say so take effect at once; the log names \
     the others that have changed.",
];

/// The whole page, as roff with the macros of man(7), for a program of this version.
pub fn manual_page(version: &str) -> String {
    let defaults = Config::default();
    let nobody = PeerConfig::new(Identity::ANYONE);
    let mut page = Page::default();
    page.line(&format!(".TH waystation.toml 5 \"\" \"waystation {}\"", escaped(version)));
    page.heading("NAME");
    page.words("waystation.toml - configuration of waystation");
    page.heading("DESCRIPTION");
    for words in DESCRIPTION {
        page.paragraph(words);
    }
    for section in SECTIONS {
        page.heading(&format!("[{}]", section.name));
        page.words(section.meaning);
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            page.key(key, key.value(&defaults).as_deref());
        }
    }
    page.heading("[[peer]]");
    page.words(
        "Nodes that this one knows by name, each under a line [[peer]] of its own. There are none \
         by default.",
    );
    for key in PEER_KEYS {
        let default = key.value(&nobody).filter(|_| key.name != "identity");
        page.key(key, default.as_deref());
    }
    page.heading("[[udp.session]]");
    page.words(
        "Opaque UDP sessions that are always there, each under a line [[udp.session]] of its own. \
         There are none by default.",
    );
    let plain = UdpSessionConfig::default();
    for key in UDP_SESSION_KEYS {
        let needed = ["name", "port_a", "port_b"].contains(&key.name);
        page.key(key, key.value(&plain).filter(|_| !needed).as_deref());
    }
    page.heading("FILES");
    page.line(".TP");
    page.words("/etc/waystation/waystation.toml");
    page.words("What the service is started with.");
    page.heading("SEE ALSO");
    page.words("waystation(1), waystation-config(1)");
    page.text
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    /// A line as it is.
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A line of words, in which nothing is a request.
    fn words(&mut self, words: &str) {
        self.line(&escaped(words));
    }

    fn heading(&mut self, words: &str) {
        self.line(&format!(".SH \"{}\"", escaped(words)));
    }

    fn paragraph(&mut self, words: &str) {
        self.line(".PP");
        self.words(words);
    }

    fn key<C: Clone>(&mut self, key: &Key<C>, default: Option<&str>) {
        self.line(".TP");
        self.line(&format!("\\fB{}\\fR", escaped(key.name)));
        self.words(key.meaning);
        self.line(".br");
        self.words(&format!("Unit: {}. Range: {}.", key.unit, key.range()));
        self.line(".br");
        self.words(&format!("Default: {}.", default.unwrap_or("absent")));
        self.line(".br");
        self.words(&format!("Reloads: {}.", key.reload.text()));
    }
}

/// Text in which no letter means anything to roff, neither within a line nor at its start.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '"' => out.push_str("\\(dq"),
            // Older formatters take a file for Latin 1.
            letter if !letter.is_ascii() => {
                out.push_str(&format!("\\[u{:04X}]", u32::from(letter)));
            }
            letter => out.push(letter),
        }
    }
    let text = out;
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_page_with_meaning_range_and_default() {
        let page = manual_page("0.1.0");
        let defaults = Config::default();
        for section in SECTIONS {
            assert!(page.contains(&format!(".SH \"[{}]\"\n", section.name)), "{}", section.name);
        }
        for key in KEYS {
            let default = key.value(&defaults).unwrap_or_else(|| "absent".to_owned());
            let wanted = format!(
                "\\fB{}\\fR\n{}\n.br\n{}\n.br\n{}\n",
                escaped(key.name),
                escaped(key.meaning),
                escaped(&format!("Unit: {}. Range: {}.", key.unit, key.range())),
                escaped(&format!("Default: {default}.")),
            );
            assert!(page.contains(&wanted), "{}", key.path());
        }
        for key in PEER_KEYS {
            assert!(page.contains(&escaped(key.meaning)), "{}", key.path());
        }
        for key in UDP_SESSION_KEYS {
            assert!(page.contains(&escaped(key.meaning)), "{}", key.path());
        }
    }

    #[test]
    fn no_line_of_text_is_taken_for_a_request() {
        assert_eq!(escaped(".SH"), "\\&.SH");
        assert_eq!(escaped("'quoted'"), "\\&'quoted'");
        assert_eq!(escaped("a \"b\\\" --c"), "a \\(dqb\\e\\(dq \\-\\-c");
        assert_eq!(escaped("a…b"), "a\\[u2026]b");
        let known = [".TH ", ".SH ", ".TP", ".br", ".PP"];
        for line in manual_page("0.1.0").lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(known.iter().any(|request| line.starts_with(request)), "{line}");
        }
    }
}
