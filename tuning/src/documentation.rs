//! The tables of `docs/hardware.md`, made from the profiles.
//!
//! Called by the test that holds the document, and by nobody while the program runs.

use crate::catalog::Catalog;
use crate::profile::{Key, Profile};
use std::fmt::Write;

/// The line after which the generated part begins.
pub const BEGIN: &str = "<!-- begin: made from hw-profiles/ by a test of tuning/ -->";
/// The line before which it ends.
pub const END: &str = "<!-- end -->";

/// Keys with the values they take, then every profile.
pub fn tables(catalog: &Catalog) -> String {
    let mut out = String::new();
    out.push_str("## Keys\n\n| key | takes | is |\n| --- | --- | --- |\n");
    for key in Key::all() {
        let is = if key.is_fact() { "told" } else { "set" };
        // Writing to a text cannot fail.
        let _ = writeln!(out, "| `{key}` | {} | {is} |", key.wants().replace('"', "`"));
    }
    out.push_str("\n## Profiles\n");
    for entry in catalog.entries() {
        profile(&entry.profile, &mut out);
    }
    out
}

fn profile(profile: &Profile, out: &mut String) {
    let _ = writeln!(out, "\n### `{}`: {}\n", profile.name, profile.title);
    let chosen = match &profile.selector {
        None => "For any NIC that no other profile is for.".to_owned(),
        Some(selector) => {
            let mut chosen = format!("Driver `{}`", selector.drivers.join("`, `"));
            if !selector.pci_ids.is_empty() {
                let _ = write!(chosen, ", PCI `{}`", selector.pci_ids.join("`, `"));
            }
            chosen + "."
        }
    };
    let _ = writeln!(out, "{chosen}");
    for note in &profile.notes {
        let _ = writeln!(out, "{note}");
    }
    out.push_str("\n| key | value | why | status | source |\n| --- | --- | --- | --- | --- |\n");
    for (key, setting) in &profile.settings {
        let (value, why) = (&setting.value, &setting.why);
        let (status, source) = (setting.status.name(), &setting.source);
        let _ = writeln!(out, "| `{key}` | {value} | {why} | {status} | {source} |");
    }
}
