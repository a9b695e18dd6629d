//! Lists and masks of CPUs, as the kernel writes them.
//!
//! Pure; used wherever a file holds one. See cpuset(7), *Formats*.

use crate::limits::CPUS_MAX;

/// Reads a list like `0-3,8`. What makes no sense in it is left out.
pub fn parse(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<usize>()) else {
            continue;
        };
        cpus.extend(first..=last.min(CPUS_MAX - 1));
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// Writes a list: ascending numbers, ranges where two or more follow each other.
pub fn format(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            Some(_) | None => parts.push((cpu, cpu)),
        }
    }
    let part = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

/// Reads a mask like `00000001,00000003`.
pub fn parse_mask(text: &str) -> Vec<usize> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut cpus = Vec::new();
    for (place, digit) in digits.chars().rev().enumerate().take(CPUS_MAX / 4) {
        let digit = digit.to_digit(16).unwrap_or(0);
        cpus.extend((0..4).filter(|bit| digit >> bit & 1 == 1).map(|bit| place * 4 + bit));
    }
    cpus
}

/// Writes a mask in words of 32 bits.
pub fn format_mask(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(1, |last| last / 32 + 1);
    let word = |index: usize| {
        let bits = cpus.iter().filter(|&&cpu| cpu / 32 == index);
        bits.fold(0_u32, |word, cpu| word | 1 << (cpu % 32))
    };
    let mut parts: Vec<String> =
        (0..words).rev().map(|index| format!("{:08x}", word(index))).collect();
    parts[0] = parts[0].trim_start_matches('0').to_owned();
    if parts[0].is_empty() {
        "0".clone_into(&mut parts[0]);
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::{format, format_mask, parse, parse_mask};

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(parse("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse(""), [0_usize; 0]);
        assert_eq!(parse("(null)"), [0_usize; 0]);
        assert_eq!(parse("5,1,1"), [1, 5]);
        assert_eq!(format(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(format(&[]), "");
    }

    #[test]
    fn a_list_without_end_is_cut_at_the_most_that_linux_has() {
        assert_eq!(parse("0-99999999999999").len(), crate::limits::CPUS_MAX);
    }

    #[test]
    fn masks_are_read_and_written() {
        assert_eq!(parse_mask("00000001,80000003"), [0, 1, 31, 32]);
        assert_eq!(parse_mask("0"), [0_usize; 0]);
        assert_eq!(format_mask(&[0, 1, 31, 32]), "1,80000003");
        assert_eq!(format_mask(&[64]), "1,00000000,00000000");
        assert_eq!(format_mask(&[]), "0");
    }
}
