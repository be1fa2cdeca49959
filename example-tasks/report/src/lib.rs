//! The task `report`: what a year of daily weather was like, for each year of a CSV file. This is the work as a plain
//! function; an inline handler calls it.
//!
//! Columns, by name and in any order: `date` (`2012/01/31` or `2012-01-31`), `precipitation` (mm), `temp_max` and `temp_min`
//! (°C), `wind` (m/s), `weather` (a word). Days need not be in order.

mod day;
mod year;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use day::Date;
use day::Day;
pub use year::{Extreme, Year};

/// After so many rows the callback is called.
pub const ROWS_PER_CALL: usize = 100;

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Days of all years together.
    pub days: usize,
    /// In ascending order.
    pub years: Vec<Year>,
}

/// Why there is no report.
#[derive(Debug)]
pub enum ReportError<E> {
    /// The text is not such a CSV file.
    Csv {
        /// Line of the file, 1 for the head; 0 where no line can be named.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// There are no rows.
    Empty,
    /// The callback ended the work.
    Stopped(E),
}

impl<E: fmt::Display> fmt::Display for ReportError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csv { line, message } => write!(f, "line {line}: {message}"),
            Self::Empty => f.write_str("the file has no rows"),
            Self::Stopped(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ReportError<E> {}

/// Makes the report over `csv_text`. `read` is called with the number of bytes read and of all bytes, after every
/// [`ROWS_PER_CALL`] rows and at the end, and ends the work by an error.
pub fn report<E>(
    csv_text: &str,
    mut read: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Report, ReportError<E>> {
    let mut rows = csv::Reader::from_reader(csv_text.as_bytes());
    let head = rows.headers().map_err(|error| malformed(&error))?.clone();
    let mut record = csv::StringRecord::new();
    let mut years: BTreeMap<u16, year::Collected> = BTreeMap::new();
    let mut days = 0;
    while rows.read_record(&mut record).map_err(|error| malformed(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let day: Day = record.deserialize(Some(&head)).map_err(|error| malformed(&error))?;
        day.check().map_err(|message| ReportError::Csv { line, message })?;
        years.entry(day.date.year).or_default().add(day);
        days += 1;
        if days % ROWS_PER_CALL == 0 {
            let bytes = usize::try_from(rows.position().byte()).unwrap_or(usize::MAX);
            read(bytes, csv_text.len()).map_err(ReportError::Stopped)?;
        }
    }
    if days == 0 {
        return Err(ReportError::Empty);
    }
    read(csv_text.len(), csv_text.len()).map_err(ReportError::Stopped)?;
    let years = years.into_iter().filter_map(|(number, year)| year.finish(number)).collect();
    Ok(Report { days, years })
}

fn malformed<E>(error: &csv::Error) -> ReportError<E> {
    let line = error.position().map_or(0, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
        _ => error.to_string(),
    };
    ReportError::Csv { line, message }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const WEATHER: &str = include_str!("../data/seattle-weather.csv");
    const HEAD: &str = "date,precipitation,temp_max,temp_min,wind,weather\n";

    fn quietly(text: &str) -> Result<Report, ReportError<Infallible>> {
        report(text, |_, _| Ok(()))
    }

    /// The numbers were taken from the file by other means (awk), not by this code.
    #[test]
    fn the_years_of_seattle() {
        let report = quietly(WEATHER).unwrap();
        assert_eq!(report.days, 1461);
        let years: Vec<_> = report.years.iter().map(|year| (year.year, year.days)).collect();
        assert_eq!(years, [(2012, 366), (2013, 365), (2014, 365), (2015, 365)]);
        let means: Vec<_> =
            report.years.iter().map(|year| (year.mean_max_c, year.mean_min_c)).collect();
        assert_eq!(means, MEANS);
        let rain: Vec<_> = report.years.iter().map(|year| year.precipitation_mm).collect();
        assert_eq!(rain, RAIN);
        let first = &report.years[0];
        assert_eq!(
            (first.warmest.date.to_string(), first.warmest.value),
            ("2012-08-16".to_owned(), 34.4)
        );
        assert_eq!(
            (first.coldest.date.to_string(), first.coldest.value),
            ("2012-01-15".to_owned(), -3.3)
        );
        assert_eq!(
            (first.wettest.date.to_string(), first.wettest.value),
            ("2012-11-19".to_owned(), 54.1)
        );
        assert_eq!(first.weather["rain"], 191);
        assert_eq!(first.weather.values().sum::<u32>(), 366);
    }

    const MEANS: [(f64, f64); 4] = [(15.28, 7.29), (16.06, 8.15), (17.0, 8.66), (17.43, 8.84)];
    const RAIN: [f64; 4] = [1226.0, 828.0, 1232.8, 1139.2];

    #[test]
    fn it_serializes_in_camel_case_with_dates_as_text() {
        let text = format!("{HEAD}2020/02/29,1.5,10.0,-2.0,3.0,snow\n");
        let value = serde_json::to_value(quietly(&text).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "days": 1,
                "years": [{
                    "year": 2020, "days": 1, "meanMaxC": 10.0, "meanMinC": -2.0, "precipitationMm": 1.5, "meanWind": 3.0,
                    "warmest": { "date": "2020-02-29", "value": 10.0 },
                    "coldest": { "date": "2020-02-29", "value": -2.0 },
                    "wettest": { "date": "2020-02-29", "value": 1.5 },
                    "windiest": { "date": "2020-02-29", "value": 3.0 },
                    "weather": { "snow": 1 },
                }],
            })
        );
    }

    #[test]
    fn the_order_of_rows_and_columns_does_not_matter_and_the_earliest_extreme_wins() {
        let text = "weather,wind,temp_min,temp_max,precipitation,date\nsun,1,0,20,0,2020-03-02\nsun,1,0,20,0,2020-03-01\n\
                    fog,2,5,9,1,2019-12-31\n";
        let report = quietly(text).unwrap();
        assert_eq!(report.years.iter().map(|year| year.year).collect::<Vec<_>>(), [2019, 2020]);
        assert_eq!(report.years[1].warmest.date.to_string(), "2020-03-01");
    }

    #[test]
    fn the_callback_hears_of_every_hundred_rows_and_of_the_end() {
        let mut calls = Vec::new();
        report(WEATHER, |read, all| {
            calls.push((read, all));
            Ok::<(), Infallible>(())
        })
        .unwrap();
        assert_eq!(calls.len(), 15);
        assert!(calls.is_sorted() && calls[0].0 > 0 && calls[13].0 < WEATHER.len());
        assert_eq!(calls[14], (WEATHER.len(), WEATHER.len()));
    }

    #[test]
    fn the_callback_can_end_the_work() {
        let mut calls = 0;
        let ended = report(WEATHER, |_, _| {
            calls += 1;
            if calls == 3 { Err("enough") } else { Ok(()) }
        });
        assert!(matches!(ended, Err(ReportError::Stopped("enough"))));
        assert_eq!(calls, 3);
    }

    #[test]
    fn a_file_that_will_not_do_is_refused_with_its_line() {
        let good = "2020/01/01,0.0,1.0,0.0,1.0,sun\n";
        for (text, line, message) in [
            (format!("{HEAD}{good}2020/01/02,wet,1,0,1,sun\n"), 3, "invalid float literal"),
            (format!("{HEAD}2020/13/01,0,1,0,1,sun\n"), 2, "2020/13/01"),
            (format!("{HEAD}2020/02/30,0,1,0,1,sun\n"), 2, "2020/02/30"),
            (format!("{HEAD}{good}2020/01/02,0,1\n"), 3, "fields"),
            (format!("{HEAD}2020/01/01,NaN,1,0,1,sun\n"), 2, "precipitation"),
            (format!("{HEAD}2020/01/01,0,1,2,1,sun\n"), 2, "temp_min"),
            ("date,rain\n2020/01/01,0\n".to_owned(), 2, "missing field"),
        ] {
            match quietly(&text) {
                Err(ReportError::Csv { line: found, message: text }) => {
                    assert_eq!(found, line, "{text}");
                    assert!(text.contains(message), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(quietly(HEAD), Err(ReportError::Empty)));
        assert!(matches!(quietly(""), Err(ReportError::Empty)));
    }
}
