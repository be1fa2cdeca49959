//! One figure, and what it is held against.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bound on a figure, in the figure's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
        }
    }
}

/// What a group of measurements has to say. Within a group, `what` and `unit` together name it in every run, so no
/// measured number stands in them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<Goal>,
}

/// A figure without a goal.
pub(crate) fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { what: what.into(), value, unit, goal: None }
}

impl Row {
    /// The same with a goal.
    pub(crate) fn at_most(self, bound: f64) -> Self {
        Self { goal: Some(Goal::AtMost(bound)), ..self }
    }

    /// The same with a goal.
    pub(crate) fn at_least(self, bound: f64) -> Self {
        Self { goal: Some(Goal::AtLeast(bound)), ..self }
    }
}

/// The unit of a figure over another one of the same run. Only such figures mean something on another machine.
pub(crate) const RATIO: &str = "×";

/// The middle of some figures, and their 99th percentile and maximum.
pub(crate) fn spread(figures: &mut [f64]) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |part: usize| {
        figures
            .get((figures.len() * part / 100).min(figures.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    (at(50), at(99), figures.last().copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_itself_is_within_and_what_is_no_number_is_not() {
        assert!(Goal::AtMost(5.0).is_met(5.0));
        assert!(!Goal::AtMost(5.0).is_met(5.01));
        assert!(Goal::AtLeast(2.0).is_met(2.0));
        assert!(!Goal::AtLeast(2.0).is_met(1.99));
        assert!(!Goal::AtMost(5.0).is_met(f64::NAN));
        assert!(!Goal::AtLeast(5.0).is_met(f64::NAN));
    }

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let mut figures: Vec<f64> = (0..200).rev().map(f64::from).collect();
        assert_eq!(spread(&mut figures), (100.0, 198.0, 199.0));
        assert_eq!(spread(&mut [7.0]), (7.0, 7.0, 7.0));
    }
}
