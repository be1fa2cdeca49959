//! One year's figures, and how they are collected day by day.

use std::collections::BTreeMap;

use serde::Serialize;

use super::day::{Date, Day};

/// What a year was like. Means and sums are rounded to one hundredth.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Year {
    /// The year's number.
    pub year: u16,
    /// Days that the file has of it.
    pub days: u32,
    /// Mean of the daily maxima, °C.
    pub mean_max_c: f64,
    /// Mean of the daily minima, °C.
    pub mean_min_c: f64,
    /// Sum of precipitation, mm.
    pub precipitation_mm: f64,
    /// Mean wind, m/s.
    pub mean_wind: f64,
    /// Day of the highest maximum.
    pub warmest: Extreme,
    /// Day of the lowest minimum.
    pub coldest: Extreme,
    /// Day of the most precipitation.
    pub wettest: Extreme,
    /// Day of the most wind.
    pub windiest: Extreme,
    /// Days of each kind of weather.
    pub weather: BTreeMap<String, u32>,
}

/// A day that stands out, the earliest of several.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Extreme {
    /// The day.
    pub date: Date,
    /// What was measured.
    pub value: f64,
}

#[derive(Default)]
pub(crate) struct Collected {
    days: u32,
    max_sum: f64,
    min_sum: f64,
    precipitation: f64,
    wind_sum: f64,
    warmest: Option<Extreme>,
    coldest: Option<Extreme>,
    wettest: Option<Extreme>,
    windiest: Option<Extreme>,
    weather: BTreeMap<String, u32>,
}

impl Collected {
    pub(crate) fn add(&mut self, day: Day) {
        self.days += 1;
        self.max_sum += day.temp_max;
        self.min_sum += day.temp_min;
        self.precipitation += day.precipitation;
        self.wind_sum += day.wind;
        let at = |value| Extreme { date: day.date, value };
        keep(&mut self.warmest, at(day.temp_max), |new, old| new > old);
        keep(&mut self.coldest, at(day.temp_min), |new, old| new < old);
        keep(&mut self.wettest, at(day.precipitation), |new, old| new > old);
        keep(&mut self.windiest, at(day.wind), |new, old| new > old);
        *self.weather.entry(day.weather).or_default() += 1;
    }

    /// None before the first day.
    pub(crate) fn finish(self, year: u16) -> Option<Year> {
        let mean = |sum: f64| hundredths(sum / f64::from(self.days));
        Some(Year {
            year,
            days: self.days,
            mean_max_c: mean(self.max_sum),
            mean_min_c: mean(self.min_sum),
            precipitation_mm: hundredths(self.precipitation),
            mean_wind: mean(self.wind_sum),
            warmest: self.warmest?,
            coldest: self.coldest?,
            wettest: self.wettest?,
            windiest: self.windiest?,
            weather: self.weather,
        })
    }
}

fn keep(kept: &mut Option<Extreme>, new: Extreme, beats: fn(f64, f64) -> bool) {
    let replace = match *kept {
        None => true,
        Some(old) => {
            beats(new.value, old.value) || (!beats(old.value, new.value) && new.date < old.date)
        }
    };
    if replace {
        *kept = Some(new);
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
