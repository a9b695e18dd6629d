//! What a profile comes to on one NIC.

use super::{Fact, Goal, NicPlan, Wanted, is_data_cores};
use crate::catalog::Match;
use crate::inventory::Nic;
use crate::machine::{Direction, Target};
use crate::profile::{CoalesceField, Key, Profile, Value};

/// Everything that a profile wants of a NIC, in the order in which it is set: offloads, since some
/// rule out others; channels, which make interrupts and queues; then what belongs to these.
pub(super) fn wanted(nic: &Nic, profile: &Profile, data: &[usize]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    features(nic, profile, &mut wanted);
    channels(nic, profile, data, &mut wanted);
    rings(nic, profile, &mut wanted);
    coalesce(nic, profile, &mut wanted);
    napi(nic, profile, &mut wanted);
    if !data.is_empty() {
        interrupts(nic, profile, data, &mut wanted);
        transmit_queues(nic, profile, data, &mut wanted);
    }
    wanted
}

/// What there is to say about a NIC besides.
pub(super) fn describe(nic: &Nic, found: &Match<'_>, protected: Option<String>) -> NicPlan {
    let profile = &found.entry.profile;
    let facts = profile.settings.iter().filter(|(key, _)| key.is_fact());
    NicPlan {
        nic: nic.name.clone(),
        driver: nic.driver.clone(),
        pci_id: nic.pci_id.clone(),
        firmware: nic.settings.firmware.clone(),
        node: nic.node,
        profile: profile.name.clone(),
        origin: found.entry.origin.clone(),
        reason: found.reason.text().to_owned(),
        notes: profile.notes.clone(),
        facts: facts
            .map(|(key, setting)| Fact { key: key.clone(), setting: setting.clone() })
            .collect(),
        remarks: remarks(nic, profile),
        protected,
    }
}

fn remarks(nic: &Nic, profile: &Profile) -> Vec<String> {
    let mut remarks = Vec::new();
    let name = &nic.name;
    let value = |key| profile.setting(&key).map(|setting| setting.value.clone());
    if value(Key::RssUdpPorts) == Some(Value::Switch(false)) {
        remarks.push(format!(
            "UDP ports are not in the hash that chooses a queue: ethtool -N {name} rx-flow-hash \
             udp4 sdfn, and udp6"
        ));
    }
    if let (Some(Value::Number(most)), Some(mtu)) = (value(Key::XdpMtuMax), nic.mtu_bytes)
        && mtu > most
    {
        remarks.push(format!(
            "its MTU of {mtu} is too great for XDP, which takes {most} at most: ip link set {name} \
             mtu {most}"
        ));
    }
    for (key, setting) in &profile.settings {
        let (Key::Feature(feature), Value::Switch(on)) = (key, &setting.value) else { continue };
        let state = nic.settings.features.get(*feature).filter(|state| !state.is_changeable());
        if state.is_some_and(|state| state.is_on() != *on) {
            let (is, wanted) = if *on { ("off", "on") } else { ("on", "off") };
            let why = &setting.why;
            remarks.push(format!("{feature} is fixed {is}, and should be {wanted}. {why}"));
        }
    }
    let irqs = profile.setting(&Key::IrqAffinity).is_some_and(|it| is_data_cores(&it.value));
    if irqs && nic.is_device && nic.irqs.is_empty() {
        remarks.push("its interrupts could not be found; place them by hand".to_owned());
    }
    remarks
}

fn features(nic: &Nic, profile: &Profile, wanted: &mut Vec<Wanted>) {
    for (key, setting) in &profile.settings {
        let (Key::Feature(name), Value::Switch(on)) = (key, &setting.value) else { continue };
        let state = nic.settings.features.get(*name);
        // What is fixed as it should be is no news, and what is fixed otherwise cannot be had.
        if state.is_some_and(|state| state.is_changeable()) {
            let target = Target::Feature { nic: nic.name.clone(), feature: (*name).to_owned() };
            let to = if *on { "on" } else { "off" };
            wanted.push(Wanted::new(target, Goal::Exactly(to.to_owned()), setting));
        }
    }
}

fn channels(nic: &Nic, profile: &Profile, data: &[usize], wanted: &mut Vec<Wanted>) {
    let (Some(channels), Some(setting)) =
        (nic.settings.channels, profile.setting(&Key::QueuesCombined))
    else {
        return;
    };
    let half = profile.switch(&Key::QueuesHalfForXdp);
    let most = if half { channels.combined_max / 2 } else { channels.combined_max };
    let count = match &setting.value {
        Value::Number(count) => *count,
        value if is_data_cores(value) => data.len() as u64,
        Value::Word(_) | Value::Switch(_) => return,
    };
    // A NIC without combined channels has none to set.
    if count > 0 && channels.combined_max > 0 {
        let to = Goal::Exactly(count.min(most.max(1)).to_string());
        let target = Target::Channels { nic: nic.name.clone() };
        wanted.push(Wanted::new(target, to, setting).disruptive());
    }
}

fn rings(nic: &Nic, profile: &Profile, wanted: &mut Vec<Wanted>) {
    let Some(rings) = nic.settings.rings else { return };
    for (key, direction, most) in
        [(Key::RingsRx, Direction::Rx, rings.rx_max), (Key::RingsTx, Direction::Tx, rings.tx_max)]
    {
        let Some(setting) = profile.setting(&key) else { continue };
        let count = match &setting.value {
            Value::Number(count) => (*count).min(most),
            Value::Word(_) | Value::Switch(_) => most,
        };
        if count > 0 {
            let target = Target::Ring { nic: nic.name.clone(), direction };
            let to = Goal::Exactly(count.to_string());
            wanted.push(Wanted::new(target, to, setting).disruptive());
        }
    }
}

fn coalesce(nic: &Nic, profile: &Profile, wanted: &mut Vec<Wanted>) {
    for field in CoalesceField::ALL {
        let Some(setting) = profile.setting(&Key::Coalesce(field)) else { continue };
        if nic.settings.coalesce.contains_key(&field) {
            let target = Target::Coalesce { nic: nic.name.clone(), field };
            wanted.push(Wanted::new(target, Goal::Exactly(as_number(&setting.value)), setting));
        }
    }
}

fn napi(nic: &Nic, profile: &Profile, wanted: &mut Vec<Wanted>) {
    for (key, file) in [
        (Key::NapiThreaded, "threaded"),
        (Key::NapiDeferHardIrqs, "napi_defer_hard_irqs"),
        (Key::NapiGroFlushTimeoutNs, "gro_flush_timeout"),
    ] {
        let Some(setting) = profile.setting(&key) else { continue };
        let target = Target::File { path: format!("sys/class/net/{}/{file}", nic.name) };
        wanted.push(Wanted::new(target, Goal::Exactly(as_number(&setting.value)), setting));
    }
}

/// The interrupts of each queue go to one data core, in turn.
fn interrupts(nic: &Nic, profile: &Profile, data: &[usize], wanted: &mut Vec<Wanted>) {
    let Some(setting) = profile.setting(&Key::IrqAffinity) else { return };
    if !is_data_cores(&setting.value) {
        return;
    }
    for irq in &nic.irqs {
        let target = Target::File { path: format!("proc/irq/{}/smp_affinity_list", irq.number) };
        let cpu = data[irq.queue % data.len()];
        wanted.push(Wanted::new(target, Goal::List(vec![cpu]), setting));
    }
}

/// Each data core sends through one queue; a single queue has no choice.
fn transmit_queues(nic: &Nic, profile: &Profile, data: &[usize], wanted: &mut Vec<Wanted>) {
    let Some(setting) = profile.setting(&Key::XpsQueues) else { return };
    if !is_data_cores(&setting.value) || nic.tx_queues < 2 {
        return;
    }
    for queue in 0..nic.tx_queues {
        let of_queue = data.iter().enumerate().filter(|(at, _)| at % nic.tx_queues == queue);
        let mut cpus: Vec<usize> = of_queue.map(|(_, cpu)| *cpu).collect();
        cpus.sort_unstable();
        cpus.dedup();
        let path = format!("sys/class/net/{}/queues/tx-{queue}/xps_cpus", nic.name);
        wanted.push(Wanted::new(Target::File { path }, Goal::Mask(cpus), setting));
    }
}

fn as_number(value: &Value) -> String {
    match value {
        Value::Switch(on) => u8::from(*on).to_string(),
        Value::Number(number) => number.to_string(),
        Value::Word(word) => word.clone(),
    }
}
