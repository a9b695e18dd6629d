//! Which processor does what: data cores, the management core, and what is left to the kernel.
//!
//! Pure. Called as the program starts, for its default, and by `tune`, whose interrupts follow it.
//! An unknown topology gives what there is, in order, rather than a guess.

use crate::inventory::{Cpu, Cpus};
use serde::Serialize;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// The CPUs that may be used. Absent: all that are on.
    pub allowed: Option<&'a [usize]>,
    /// The NUMA node of the NICs.
    pub node: Option<usize>,
    /// Data cores. Absent: as many as are sensible.
    pub cores: Option<usize>,
    /// The CPUs of the data cores, as the configuration names them; where there are fewer than
    /// cores they are shared in turn. Empty: it names none.
    pub named: &'a [usize],
}

/// Which processor does what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// The CPU of each data core. Empty: the machine does not say which CPUs there are.
    pub data: Vec<usize>,
    pub management: Option<usize>,
    /// The node that the data cores were looked for on.
    pub node: Option<usize>,
    /// Why these, a sentence each.
    pub reasons: Vec<String>,
}

/// Lays the cores out.
pub fn lay_out(cpus: &Cpus, wish: Wish<'_>) -> Layout {
    let is_allowed = |cpu: &&Cpu| wish.allowed.is_none_or(|allowed| allowed.contains(&cpu.id));
    let usable: Vec<&Cpu> = cpus.0.iter().filter(is_allowed).collect();
    let mut reasons = Vec::new();
    let management = usable.first().map(|cpu| cpu.id);
    let primaries = primaries(&usable);
    if primaries.len() < usable.len() {
        reasons.push("one data core for each physical core: threads of one core share it".into());
    }
    let node = wish.node.filter(|_| cpus.nodes().len() > 1);
    let wanted = wish.cores.filter(|wanted| *wanted > 0);
    if !wish.named.is_empty() {
        let count = wanted.unwrap_or(wish.named.len());
        let data = wish.named.iter().copied().cycle().take(count).collect();
        let reasons = vec!["engine.cpus names them".to_owned()];
        return Layout { data, management, node, reasons };
    }
    let mut data = preferred(&primaries, node, &mut reasons);
    leave_first(&mut data, &usable, &mut reasons);
    if let Some(wanted) = wanted {
        extend(&mut data, wanted, &primaries, &usable, &mut reasons);
    }
    Layout { data, management, node, reasons }
}

/// The first thread of each physical core.
fn primaries<'a>(usable: &[&'a Cpu]) -> Vec<&'a Cpu> {
    let is_first = |cpu: &&&Cpu| {
        let of_core = usable.iter().find(|other| other.siblings == cpu.siblings);
        of_core.is_none_or(|first| first.id == cpu.id)
    };
    usable.iter().filter(is_first).copied().collect()
}

/// Those that a data core is best on: isolated ones if there are any, else those near the NIC, and
/// of these no small ones.
fn preferred(primaries: &[&Cpu], node: Option<usize>, reasons: &mut Vec<String>) -> Vec<usize> {
    let mut chosen: Vec<&Cpu> = primaries.to_vec();
    let mut narrow = |keep: &dyn Fn(&Cpu) -> bool, reason: String| {
        let kept: Vec<&Cpu> = chosen.iter().copied().filter(|cpu| keep(cpu)).collect();
        if !kept.is_empty() && kept.len() < chosen.len() {
            chosen = kept;
            reasons.push(reason);
        }
    };
    narrow(&|cpu| cpu.is_isolated, "the kernel keeps other work off these (isolcpus)".into());
    if let Some(node) = node {
        narrow(&|cpu| cpu.node == Some(node), format!("on NUMA node {node}, where the NIC is"));
    }
    narrow(&|cpu| !cpu.is_efficient, "small cores are left to others".into());
    chosen.iter().map(|cpu| cpu.id).collect()
}

/// Takes the first core away, for the kernel and the management core, if anything else is left.
fn leave_first(data: &mut Vec<usize>, usable: &[&Cpu], reasons: &mut Vec<String>) {
    let Some(first) = usable.first() else { return };
    if data.iter().any(|cpu| !first.siblings.contains(cpu)) {
        data.retain(|cpu| !first.siblings.contains(cpu));
        reasons.push(format!("CPU {} is left to the kernel and the management core", first.id));
    } else if usable.len() > 1 && first.siblings.len() > 1 {
        *data = usable[1..].iter().map(|cpu| cpu.id).collect();
        reasons.push("there is only one physical core: its other threads are data cores".into());
    }
}

/// As many as were asked for: further cores, then further threads, then some twice.
fn extend(
    data: &mut Vec<usize>,
    wanted: usize,
    primaries: &[&Cpu],
    usable: &[&Cpu],
    reasons: &mut Vec<String>,
) {
    if data.len() < wanted {
        reasons.push(format!("{wanted} data cores were asked for: further CPUs are taken in"));
    }
    // The first one stays with the kernel and the management core, however many there are to be.
    let further = primaries.iter().skip(1).chain(usable.iter().skip(1));
    for cpu in further {
        if data.len() < wanted && !data.contains(&cpu.id) {
            data.push(cpu.id);
        }
    }
    if !data.is_empty() {
        *data = data.iter().copied().cycle().take(wanted).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::{Wish, lay_out};
    use crate::inventory::{Cpu, Cpus};

    /// `cores` physical cores with `threads` threads, numbered as most firmware does: first all
    /// first threads. Spread over `nodes` in equal blocks of cores.
    fn machine(cores: usize, threads: usize, nodes: usize) -> Cpus {
        let cpu = |id: usize| Cpu {
            id,
            siblings: (0..threads).map(|thread| id % cores + thread * cores).collect(),
            node: Some(id % cores * nodes / cores),
            is_efficient: false,
            is_isolated: false,
        };
        Cpus((0..cores * threads).map(cpu).collect())
    }

    fn data(cpus: &Cpus, wish: Wish<'_>) -> Vec<usize> {
        lay_out(cpus, wish).data
    }

    #[test]
    fn the_first_core_is_left_to_the_kernel_and_management() {
        let layout = lay_out(&machine(4, 1, 1), Wish::default());
        assert_eq!((layout.data, layout.management), (vec![1, 2, 3], Some(0)));
    }

    #[test]
    fn a_data_core_has_a_physical_core_to_itself() {
        assert_eq!(data(&machine(4, 2, 1), Wish::default()), [1, 2, 3]);
    }

    #[test]
    fn data_cores_are_near_the_nic() {
        let cpus = machine(8, 2, 2);
        let on = |node| data(&cpus, Wish { node: Some(node), ..Wish::default() });
        assert_eq!(on(0), [1, 2, 3]);
        assert_eq!(on(1), [4, 5, 6, 7]);
        assert_eq!(on(7), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn one_core_with_two_threads_gives_the_second_to_data() {
        let layout = lay_out(&machine(1, 2, 1), Wish::default());
        assert_eq!((layout.data, layout.management), (vec![1], Some(0)));
    }

    #[test]
    fn one_cpu_does_both() {
        let layout = lay_out(&machine(1, 1, 1), Wish::default());
        assert_eq!((layout.data, layout.management), (vec![0], Some(0)));
    }

    #[test]
    fn isolated_cpus_are_for_data() {
        let mut cpus = machine(8, 1, 1);
        for cpu in &mut cpus.0[4..6] {
            cpu.is_isolated = true;
        }
        assert_eq!(data(&cpus, Wish::default()), [4, 5]);
    }

    #[test]
    fn small_cores_are_left_to_others() {
        let mut cpus = machine(6, 1, 1);
        for cpu in &mut cpus.0[..3] {
            cpu.is_efficient = true;
        }
        assert_eq!(data(&cpus, Wish::default()), [3, 4, 5]);
    }

    #[test]
    fn more_cores_than_there_are_take_threads_and_then_share() {
        let cpus = machine(2, 2, 1);
        let of = |cores| data(&cpus, Wish { cores: Some(cores), ..Wish::default() });
        assert_eq!(of(1), [1]);
        assert_eq!(of(3), [1, 2, 3]);
        assert_eq!(of(6), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn cpus_that_are_named_are_taken_as_they_are_and_shared_in_turn() {
        let cpus = machine(4, 1, 1);
        let named = [3, 0];
        let of = |cores| data(&cpus, Wish { cores, named: &named, ..Wish::default() });
        assert_eq!(of(None), [3, 0]);
        assert_eq!(of(Some(3)), [3, 0, 3]);
    }

    #[test]
    fn cpus_that_may_not_be_used_are_not() {
        let allowed = [2, 3, 6];
        let wish = Wish { allowed: Some(&allowed), ..Wish::default() };
        let layout = lay_out(&machine(4, 2, 1), wish);
        assert_eq!((layout.data, layout.management), (vec![3], Some(2)));
    }

    #[test]
    fn nothing_known_gives_nothing() {
        let layout = lay_out(&Cpus::default(), Wish { cores: Some(2), ..Wish::default() });
        assert_eq!((layout.data.len(), layout.management), (0, None));
    }
}
