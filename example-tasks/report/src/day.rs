//! One row.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Deserialize)]
pub(crate) struct Day {
    pub(crate) date: Date,
    pub(crate) precipitation: f64,
    pub(crate) temp_max: f64,
    pub(crate) temp_min: f64,
    pub(crate) wind: f64,
    pub(crate) weather: String,
}

impl Day {
    /// What the types do not say: numbers that are numbers, and a minimum below its maximum.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("precipitation", self.precipitation),
            ("temp_max", self.temp_max),
            ("temp_min", self.temp_min),
            ("wind", self.wind),
        ] {
            if !value.is_finite() {
                return Err(format!("{name} is {value}"));
            }
        }
        if self.temp_min > self.temp_max {
            return Err(format!("temp_min {} is above temp_max {}", self.temp_min, self.temp_max));
        }
        Ok(())
    }
}

/// A day of the Gregorian calendar. Written as `2012-01-31`, read with slashes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// 0 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl Date {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['/', '-']);
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || year.len() != 4 {
            return None;
        }
        let date =
            Self { year: year.parse().ok()?, month: month.parse().ok()?, day: day.parse().ok()? };
        (1..=12).contains(&date.month).then_some(())?;
        (1..=date.days_of_month()).contains(&date.day).then_some(date)
    }

    fn days_of_month(self) -> u8 {
        let leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{text} is no date")))
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
