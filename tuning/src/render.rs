//! Plans and outcomes as text for a terminal.
//!
//! Pure. What follows from a document is said here once; programs read the documents themselves.

use crate::apply::{Applied, Refused, Undone};
use crate::cpu_list;
use crate::plan::{NicPlan, Plan, Step};
use std::fmt::Write;

/// A plan.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    layout(plan, &mut out);
    for each in &plan.nics {
        nic(each, &mut out);
    }
    if plan.nics.is_empty() {
        out.push_str("\nno NIC: none has a device and is up; --nic names another interface\n");
    }
    steps("to set", &plan.steps, &mut out);
    steps("held back", &plan.held_back, &mut out);
    if !plan.held_back.is_empty() {
        out.push_str(HELD_BACK);
    }
    // Writing to a text cannot fail.
    let _ =
        writeln!(out, "\n{} to set, {} as planned already", plan.steps.len(), plan.in_order.len());
    out
}

/// Whether everything is as planned.
pub fn verify(plan: &Plan) -> String {
    let mut out = String::new();
    steps("not as planned", &plan.steps, &mut out);
    let _ = writeln!(
        out,
        "{} not as planned, {} as planned, {} held back",
        plan.steps.len(),
        plan.in_order.len(),
        plan.held_back.len()
    );
    out
}

/// What was set.
pub fn applied(applied: &Applied) -> String {
    let mut out = String::new();
    steps("set", &applied.done, &mut out);
    refusals(&applied.refused, &mut out);
    let (done, refused, held) =
        (applied.done.len(), applied.refused.len(), applied.held_back.len());
    let _ = writeln!(out, "{done} set, {refused} refused, {held} held back");
    out
}

/// What was taken back.
pub fn undone(undone: &Undone) -> String {
    let mut out = String::new();
    for what in &undone.restored {
        let _ = writeln!(out, "{what} is as it was");
    }
    for left in &undone.left_alone {
        let _ = writeln!(out, "  {} is left alone: {}", left.what, left.reason);
    }
    refusals(&undone.refused, &mut out);
    let (restored, refused, left) =
        (undone.restored.len(), undone.refused.len(), undone.left_alone.len());
    let _ = writeln!(out, "{restored} restored, {refused} refused, {left} left alone");
    out
}

const HELD_BACK: &str = "  what nobody has looked at is set with --include-unverified,\n  what belongs to \
     the interface of your own connection with --even-if-remote\n";

fn layout(plan: &Plan, out: &mut String) {
    let mut data = plan.layout.data.clone();
    data.sort_unstable();
    let management = plan.layout.management.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string());
    let _ =
        writeln!(out, "data cores on CPU {}, management on {management}", cpu_list::format(&data));
    for reason in &plan.layout.reasons {
        let _ = writeln!(out, "  {reason}");
    }
}

fn nic(nic: &NicPlan, out: &mut String) {
    let driver = nic.driver.as_deref().unwrap_or("no driver");
    let (name, profile, reason, origin) = (&nic.nic, &nic.profile, &nic.reason, &nic.origin);
    let _ = writeln!(out, "\n{name} ({driver}): profile {profile}, {reason}; {origin}");
    if let Some(reason) = &nic.protected {
        let _ = writeln!(out, "  left alone: it {reason}");
    }
    for remark in &nic.remarks {
        let _ = writeln!(out, "  by hand: {remark}");
    }
    for note in &nic.notes {
        let _ = writeln!(out, "  {note}");
    }
    for fact in &nic.facts {
        let (key, setting) = (&fact.key, &fact.setting);
        let _ = writeln!(out, "  {key}: {} ({})", setting.value, setting.status.name());
    }
}

/// Steps; those with one reason have it said once.
fn steps(title: &str, steps: &[Step], out: &mut String) {
    if steps.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}:");
    for (at, step) in steps.iter().enumerate() {
        let down = if step.is_disruptive { "; the NIC is down for a moment" } else { "" };
        let (what, from, to) = (&step.what, &step.from, &step.to);
        let _ = writeln!(out, "  {what}: {from} -> {to} ({}{down})", step.status.name());
        let next = steps.get(at + 1);
        if next.is_none_or(|next| next.why != step.why || next.source != step.source) {
            let _ = writeln!(out, "    {}\n    {}", step.why, step.source);
        }
    }
}

fn refusals(refused: &[Refused], out: &mut String) {
    for Refused { what, to, reason } in refused {
        let _ = writeln!(out, "  {what} to {to} refused: {reason}");
    }
}
