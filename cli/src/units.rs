//! Amounts as people write and read them.

/// `1.5 TiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A size as an argument that [`parse_bytes`] reads, `7.21TB`: three digits that count, rounded down.
pub(crate) fn argument(count: u64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("PB", 10_u64.pow(15)),
        ("TB", 10_u64.pow(12)),
        ("GB", 10_u64.pow(9)),
        ("MB", 10_u64.pow(6)),
        ("KB", 1000),
    ];
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| count >= *size) else {
        return count.to_string();
    };
    format!("{:.2}{unit}", (count as f64 / size as f64 * 100.0).floor() / 100.0)
}

/// Reads `10TB`, `9.1 TiB` or a count of bytes.
///
/// # Errors
/// What is expected, for clap to show.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 11] = [
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("TiB", 1099511627776.0),
        ("PiB", 1125899906842624.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("PB", 1e15),
        ("B", 1.0),
    ];
    let text = text.trim();
    let unit = UNITS.iter().find(|(unit, _)| {
        text.len() > unit.len()
            && text.is_char_boundary(text.len() - unit.len())
            && text[text.len() - unit.len()..].eq_ignore_ascii_case(unit)
    });
    let (number, factor) =
        unit.map_or((text, 1.0), |(unit, factor)| (text[..text.len() - unit.len()].trim_end(), *factor));
    let value: f64 = number.parse().map_err(|_| format!("`{text}` is no size such as `10TB` or `512GiB`"))?;
    let count = value * factor;
    if count.is_finite() && (0.0..u64::MAX as f64).contains(&count) {
        Ok(count as u64)
    } else {
        Err(format!("`{text}` is out of range"))
    }
}

/// `2 d 3 h`, `4 h 5 min`, `35 s`: the two largest units.
pub(crate) fn duration(hours: f64) -> String {
    let seconds = (hours * 3600.0).round();
    let (days, rest) = ((seconds / 86_400.0).floor(), seconds % 86_400.0);
    let (hours, rest) = ((rest / 3600.0).floor(), rest % 3600.0);
    let (minutes, seconds) = ((rest / 60.0).floor(), rest % 60.0);
    match (days > 0.0, hours > 0.0, minutes > 0.0) {
        (true, ..) => format!("{days} d {hours} h"),
        (_, true, _) => format!("{hours} h {minutes} min"),
        (_, _, true) => format!("{minutes} min {seconds} s"),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_for_people() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(1 << 50)],
            ["0 B", "1023 B", "1.5 KiB", "1.0 PiB"]
        );
    }

    #[test]
    fn sizes_are_read_in_both_systems() {
        let read = ["10TB", "9.5 tib", "512", "1.5GiB", "7B"].map(|text| parse_bytes(text).unwrap());
        assert_eq!(read, [10_000_000_000_000, 10_445_360_463_872, 512, 1_610_612_736, 7]);
        for wrong in ["", "TB", "-1TB", "1e400TB", "ten", "5 XB", "NaN", "5éB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(
            [duration(51.0), duration(4.1), duration(0.05), duration(0.009)],
            ["2 d 3 h", "4 h 6 min", "3 min 0 s", "32 s"]
        );
    }
}
