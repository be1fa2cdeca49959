//! Durations and sizes as people write them. Strict: a unit is required, and nothing becomes a default by mistake.

use std::time::Duration;

/// The longest duration that is read: a hundred years.
const LONGEST_SECONDS: u64 = 100 * 365 * 86_400;

/// Reads `250ms`, `5s`, `2m`, `1h`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || {
        format!(
            "{text:?} is not a duration; write a whole number and a unit: 250ms, 5s, 2m, 1h, 7d"
        )
    };
    let digits =
        text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(refuse)?;
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    let total = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .ok_or_else(refuse)?;
    if total > LONGEST_SECONDS * 1_000 {
        return Err(format!("{text:?} is longer than a hundred years"));
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that [`duration`] reads it back, in the largest unit that is exact.
pub fn write_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// Reads `512KiB`, `128MiB`, `1GiB`, `100B`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let refuse = || {
        format!(
            "{text:?} is not a size; write a whole number and a unit: 100B, 512KiB, 128MiB, 1GiB"
        )
    };
    let digits =
        text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(refuse)?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(refuse()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(refuse)
}

/// Writes a size so that [`bytes`] reads it back, in the largest unit that is exact.
pub fn write_bytes(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// Of these words, the one that is nearest to `given`, if it is near enough to be a slip.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(given, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_read_back() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5S",
            "1.5s",
            "5sec",
            "99999999999999999999s",
            "1000000d",
            "５s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for text in ["250ms", "90s", "2m", "36h", "7d"] {
            assert_eq!(write_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(bytes("128MiB"), Ok(128 << 20));
        assert_eq!(bytes("7B"), Ok(7));
        for text in ["0B", "1023B", "3KiB", "128MiB", "2GiB"] {
            assert_eq!(write_bytes(bytes(text).unwrap()), text);
        }
        for bad in ["", "5", "5MB", "5mib", "MiB", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slip_is_named_and_nonsense_is_not() {
        assert_eq!(nearest("memry", ["memory", "cpu"]), Some("memory"));
        assert_eq!(nearest("xyzzy", ["memory", "cpu"]), None);
    }
}
