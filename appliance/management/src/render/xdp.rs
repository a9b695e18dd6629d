//! `waystation xdp status`, and the lines of `waystation status` about the same.

use super::table::{Column, Table};
use super::{array, bytes, count, line, text};
use crate::limits::TERMINAL_COLUMNS;
use crate::units::human_count;
use serde_json::Value;

/// `waystation xdp status`: where the program is, what it relays, and what it decided how often.
pub fn xdp(document: &Value) -> String {
    let mut out = summary(document);
    if document["state"] != "on" {
        return out;
    }
    for interface in array(&document["interfaces"]) {
        let (name, mode) = (text(&interface["name"]), text(&interface["mode"]));
        line(&mut out, &format!("           {name:<15} {mode}"));
        if let Some(why) = interface["why"].as_str() {
            wrapped(&mut out, why);
        }
    }
    line(&mut out, &format!("program    {}{}", text(&document["program_id"]), runs(document)));
    if let Some(directory) = document["pin_directory"].as_str() {
        line(&mut out, &format!("kept in    {directory}"));
    }
    let sessions = &document["sessions"];
    line(
        &mut out,
        &format!(
            "sessions   {} directions and {} clients of {} entries; {} found no room",
            count(&sessions["directions"]),
            count(&sessions["clients"]),
            count(&sessions["entries_max"]),
            count(&sessions["refused_total"]),
        ),
    );
    line(
        &mut out,
        &format!(
            "           of opaque UDP {} directions, and {} ends whose core relays",
            count(&sessions["opaque_directions"]),
            count(&sessions["opaque_ends"]),
        ),
    );
    let chosen = &document["sockets_chosen"];
    if chosen.is_object() {
        line(
            &mut out,
            &format!(
                "sockets    chosen by owner for {} datagrams or trains, by the kernel for {}",
                count(&chosen["owner_total"]),
                count(&chosen["no_socket_total"]),
            ),
        );
    }
    for hint in array(&document["hints"]) {
        line(&mut out, "note");
        wrapped(&mut out, &text(hint));
    }
    out.push('\n');
    out + &verdicts(document)
}

/// What a run costs, where the kernel measures that (`kernel.bpf_stats_enabled`).
fn runs(document: &Value) -> String {
    let number = |key: &str| document[key].as_u64().unwrap_or(0);
    let count = number("program_runs_total");
    let each_ns = number("program_run_ns_total").checked_div(count);
    each_ns.map_or_else(String::new, |each_ns| {
        format!("; {} runs, {each_ns} ns each", human_count(count))
    })
}

fn verdicts(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("VERDICT"),
        Column::left("DOES"),
        Column::right("FRAMES"),
        Column::right("BYTES"),
    ]);
    let rows = array(&document["verdicts"]).iter();
    for row in rows.filter(|row| row["frames"].as_u64() != Some(0)) {
        let frames = row["frames"].as_u64().map_or_else(super::dash, human_count);
        let (verdict, action) = (text(&row["verdict"]), text(&row["action"]));
        table.row(vec![verdict, action, frames, bytes(&row["bytes"])]);
    }
    table.render()
}

/// One line where nobody wants the program or it is at work; otherwise also why it is not.
pub(super) fn summary(document: &Value) -> String {
    let mut out = String::new();
    let Some(state) = document["state"].as_str() else { return out };
    let frames = |key: &str| document[key].as_u64().map_or_else(super::dash, human_count);
    let said = match state {
        "on" => format!(
            "on, {} frames relayed, {} dropped",
            frames("frames_relayed_total"),
            frames("frames_dropped_total"),
        ),
        other => other.to_owned(),
    };
    line(&mut out, &format!("xdp        {said}"));
    if let Some(why) = document["why"].as_str() {
        wrapped(&mut out, why);
    }
    out
}

/// Words over as many lines as they take.
fn wrapped(out: &mut String, words: &str) {
    const INDENT: &str = "           ";
    let mut so_far = String::new();
    for word in words.split_whitespace() {
        let is_full = INDENT.len() + so_far.len() + 1 + word.len() > TERMINAL_COLUMNS;
        if is_full && !so_far.is_empty() {
            line(out, &format!("{INDENT}{so_far}"));
            so_far.clear();
        }
        if !so_far.is_empty() {
            so_far.push(' ');
        }
        so_far.push_str(word);
    }
    line(out, &format!("{INDENT}{so_far}"));
}
