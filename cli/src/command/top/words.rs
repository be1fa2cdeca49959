//! Figures in few letters, for columns.

use std::time::Duration;

/// `0.4s`, `12s`, `5m`, `3h`, `2d`: at most four letters for what lasts less than 100 days.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        0..10 => format!("{}.{}s", age.as_secs(), age.subsec_millis() / 100),
        10..100 => format!("{}s", age.as_secs()),
        100..6_000 => format!("{}m", age.as_secs() / 60),
        6_000..360_000 => format!("{}h", age.as_secs() / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `850ms`, `12.3s`, `4m05s`, `1h02m`, `12h`: at most six letters for what lasts less than 10,000 hours.
pub(super) fn run(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..100 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        100..6_000 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        6_000..360_000 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}h", seconds / 3_600),
    }
}

/// Milliseconds of CPU; seconds from 100,000 of them on.
pub(super) fn cpu(millis: f64) -> String {
    if millis < 100_000.0 { format!("{millis:.0}ms") } else { format!("{:.0}s", millis / 1e3) }
}

/// Parts of one core.
pub(super) fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

/// The end of an id behind `…`: ids of one time begin alike.
pub(super) fn tail(id: &str, width: usize) -> String {
    let length = id.chars().count();
    if length <= width {
        return id.to_owned();
    }
    let kept = id.chars().skip(length - width.saturating_sub(1));
    std::iter::once('…').chain(kept).take(width).collect()
}

/// The beginning before `…`.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).take(width).collect()
}

/// `[####------]  45%`, with so many places between the brackets. Of ASCII, since not every terminal has blocks.
pub(super) fn bar(fraction: f64, places: u16) -> String {
    let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and the number of places"
    )]
    let full = (fraction * f64::from(places)).floor() as usize;
    let rest = usize::from(places) - full;
    // Whole only when it is.
    let percent = (fraction * 100.0).floor();
    format!("[{}{}] {percent:>3.0}%", "#".repeat(full), "-".repeat(rest))
}

/// `3 workers`, `1 worker`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Names with commas between them, the first few of many.
pub(super) fn list<T: ToString>(names: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fit_their_columns() {
        let s = Duration::from_secs;
        for (time, as_age, as_run) in [
            (Duration::from_millis(449), "0.4s", "449ms"),
            (s(9), "9.0s", "9.0s"),
            (s(99), "99s", "99.0s"),
            (s(100), "1m", "1m40s"),
            (s(5_999), "99m", "99m59s"),
            (s(6_000), "1h", "1h40m"),
            (s(359_999), "99h", "99h59m"),
            (s(360_000), "4d", "100h"),
        ] {
            assert_eq!((age(time).as_str(), run(time).as_str()), (as_age, as_run));
        }
        assert_eq!((cpu(99_999.0), cpu(100_000.0)), ("99999ms".to_owned(), "100s".to_owned()));
    }

    #[test]
    fn ids_keep_the_end_that_differs() {
        let id = "0198c0de-0000-7000-8000-0123456789ab";
        assert_eq!(tail(id, 13), "…0123456789ab");
        assert_eq!((tail(id, 36), tail("short", 13)), (id.to_owned(), "short".to_owned()));
        assert_eq!((tail("äöü", 2), tail("äöü", 0)), ("…ü".to_owned(), String::new()));
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        assert_eq!(bar(0.0, 6), "[------]   0%");
        assert_eq!(bar(0.45, 10), "[####------]  45%");
        assert_eq!(bar(0.999, 10), "[#########-]  99%");
        assert_eq!(bar(1.0, 6), "[######] 100%");
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(bar(odd, 2), "[--]   0%");
        }
        assert_eq!(bar(7.0, 2), "[##] 100%");
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&[1, 2, 3, 4, 5, 6]), "1, 2, 3, 4 and 2 more");
        assert_eq!((count(1, "worker"), count(0, "queue")), ("1 worker".into(), "0 queues".into()));
    }
}
