//! Points in time, as data. Nothing here reads a clock; [`Clock`] is what a driver hands to those that must.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// The latest time Stem writes down: 9999-12-30T22:00:00Z, the last that has an RFC 3339 form in every time zone.
const LATEST: i64 = 253_402_207_200_000;

impl Timestamp {
    /// Clamps to the years 1970 to 9999, which is what RFC 3339 can write.
    pub fn from_unix_millis(millis: i64) -> Self {
        Self(millis.clamp(0, LATEST))
    }

    /// Milliseconds since the epoch; never negative.
    pub fn unix_millis(self) -> i64 {
        self.0
    }

    /// The later time, clamped at the end of the year 9999.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self::from_unix_millis(
            self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The earlier time, clamped at the beginning of the year 1970.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self::from_unix_millis(
            self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The time that has passed since `earlier`; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The time left until `later`; zero if it is past.
    pub fn until(self, later: Self) -> Duration {
        later.since(self)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;

    /// RFC 3339 with an offset; years 1970 to 9999.
    fn from_str(text: &str) -> Result<Self, String> {
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            format!(
                "time {text:?} is not RFC 3339 with an offset, for instance 2026-11-22T08:00:00Z"
            )
        })?;
        let millis = time.as_millisecond();
        if (0..=LATEST).contains(&millis) {
            Ok(Self(millis))
        } else {
            Err(format!("time {text:?} is outside the years 1970 to 9999"))
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Lent where it can be: a worker reads one in each of very many revocations.
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Text::deserialize(deserializer)?.0.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a driver or a backend takes the time from. Tests hand in one that they move by hand.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time now. May step back when the system's clock does; callers must not assume otherwise.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds_and_read_back() {
        let time = Timestamp::from_unix_millis(1_795_305_600_007);
        assert_eq!(time.to_string(), "2026-11-22T00:00:00.007Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2026-11-22T01:00:00.007+01:00".parse(), Ok(time));
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("1960-01-01T00:00:00Z".parse::<Timestamp>().is_err());
    }

    #[test]
    fn arithmetic_never_overflows() {
        let end = Timestamp::from_unix_millis(i64::MAX);
        assert_eq!(end.after(Duration::MAX), end);
        assert_eq!(end.before(Duration::MAX), Timestamp::default());
        assert_eq!(Timestamp::default().since(end), Duration::ZERO);
        assert_eq!(end.to_string(), "9999-12-30T22:00:00.000Z");
    }
}
