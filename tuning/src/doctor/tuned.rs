//! NICs and limits of the network stack: what a plan would still set, and what it cannot.

use super::{Check, Needs, Verdict};
use crate::inventory::{Inventory, Nic};
use crate::plan::{NicPlan, Plan, Step};
use crate::profile::{Key, Value};

pub(super) fn check(inventory: &Inventory, needs: &Needs, checks: &mut Vec<Check>) {
    let Some(plan) = &needs.plan else { return };
    checks.push(devices(inventory));
    for nic in &plan.nics {
        checks.push(profile(nic));
        checks.extend(inventory.nic(&nic.nic).and_then(rss_key));
        checks.extend(xdp(nic));
        checks.push(settings(nic, plan));
        checks.extend(nic.remarks.iter().map(|remark| by_hand(nic, remark)));
    }
    for step in plan.steps.iter().filter(|step| is_sysctl(step)) {
        checks.push(of_machine(step, false));
    }
    for step in plan.in_order.iter().filter(|step| is_sysctl(step)) {
        checks.push(of_machine(step, true));
    }
}

fn devices(inventory: &Inventory) -> Check {
    let up: Vec<&str> = inventory
        .nics
        .iter()
        .filter(|nic| nic.is_device && nic.is_up)
        .map(|nic| nic.name.as_str())
        .collect();
    Check::new("nics", !up.is_empty(), Verdict::Warn)
        .seen(if up.is_empty() { "none with a device that is up".to_owned() } else { up.join(" ") })
        .wanted("one or more")
        .why("In a container or a namespace the NIC is tuned from outside.")
        .fix("run doctor on the host, too")
}

fn profile(nic: &NicPlan) -> Check {
    let driver = nic.driver.as_deref().unwrap_or("no driver");
    Check::new(format!("{} profile", nic.nic), nic.profile != "generic", Verdict::Warn)
        .seen(format!("{} for {driver}, {}", nic.profile, nic.reason))
        .wanted("a profile that knows the driver")
        .why("Only what every NIC has is set.")
        .fix("write one: hw-profiles/README.md")
}

fn xdp(nic: &NicPlan) -> Option<Check> {
    let fact = nic.facts.iter().find(|fact| fact.key == Key::XdpMode)?;
    let is_native = fact.setting.value == Value::Word("native".to_owned());
    Some(
        Check::new(format!("{} xdp", nic.nic), is_native, Verdict::Warn)
            .seen(format!("{} ({})", fact.setting.value, fact.setting.status.name()))
            .wanted("native")
            .why(&fact.setting.why)
            .fix("use a NIC whose driver has it: docs/hardware.md"),
    )
}

/// What the specification of receive-side scaling gives as an example, and drivers took over.
const RSS_KEY_OF_EVERYBODY: &str = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b4";

/// Whether strangers know how the NIC chooses a queue. A key says little where there is one queue.
fn rss_key(nic: &Nic) -> Option<Check> {
    let key = nic.settings.rss_key.as_deref()?;
    let queues = nic.settings.channels.map_or(nic.tx_queues as u64, |channels| channels.combined);
    if queues < 2 {
        return None;
    }
    let first = key.get(..2).unwrap_or_default();
    let is_one_byte = key.as_bytes().chunks(2).all(|byte| byte == first.as_bytes());
    let known = RSS_KEY_OF_EVERYBODY.len().min(key.len());
    let is_known = key.get(..known) == RSS_KEY_OF_EVERYBODY.get(..known);
    let seen = match (is_one_byte, is_known) {
        (true, _) => "the same byte again and again",
        (_, true) => "the one of the specification",
        (false, false) => "its own",
    };
    Some(
        Check::new(format!("{} rss_key", nic.name), !is_one_byte && !is_known, Verdict::Warn)
            .seen(seen)
            .wanted("one that nobody else knows")
            .why(
                "Who knows the key can send everything to one queue, and with it to one data core.",
            )
            .fix(format!(
                "ethtool -X {} hkey $(cat /proc/sys/net/core/netdev_rss_key | cut -c1-{})",
                nic.name,
                // Two digits and a colon for each byte but the last.
                (key.len() / 2 * 3).saturating_sub(1),
            )),
    )
}

fn settings(nic: &NicPlan, plan: &Plan) -> Check {
    // Interrupts are a device's, and not named after it; the plan is for few NICs.
    let prefix = format!("{} ", nic.nic);
    let path = format!("/{}/", nic.nic);
    let is_of_nic = |step: &&Step| step.what.starts_with(&prefix) || step.what.contains(&path);
    let is_irq = |step: &&Step| step.what.contains("/irq/") && plan.nics.len() == 1;
    let open: Vec<String> = plan
        .steps
        .iter()
        .filter(|step| is_of_nic(step) || is_irq(step))
        .map(|step| format!("{} {}", step.what, step.from))
        .collect();
    let more = open.len().saturating_sub(3);
    let mut seen = open.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        seen.push_str(&format!(" and {more} more"));
    }
    Check::new(format!("{} settings", nic.nic), open.is_empty(), Verdict::Warn)
        .seen(if open.is_empty() { "as planned".to_owned() } else { seen })
        .wanted("as its profile says")
        .why("Queues, rings, offloads and interrupts decide what a packet costs before it is here.")
        .fix("waystation tune plan shows them, waystation tune apply sets them")
}

fn by_hand(nic: &NicPlan, remark: &str) -> Check {
    Check::new(format!("{} by hand", nic.nic), false, Verdict::Warn)
        .seen(remark)
        .wanted("nothing left to do by hand")
        .why("This is not set by waystation tune.")
}

fn is_sysctl(step: &Step) -> bool {
    step.what.starts_with("sysctl ") || step.what.ends_with("scaling_governor")
}

fn of_machine(step: &Step, is_met: bool) -> Check {
    Check::new(&step.what, is_met, Verdict::Warn)
        .seen(&step.from)
        .wanted(&step.to)
        .why(&step.why)
        .fix("waystation tune apply --machine-only")
}
