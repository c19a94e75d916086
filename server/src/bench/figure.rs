use serde_json::{Value, json};

use super::samples::{Samples, median};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    Below(f64),
    Exactly(f64),
}

impl Goal {
    /// Whether a value meets it. What is not a number meets nothing.
    pub(super) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::Below(bound) => value < bound,
            Self::Exactly(wanted) => value == wanted,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {}", number(least)),
            Self::Below(bound) => format!("< {}", number(bound)),
            Self::Exactly(wanted) => number(wanted),
        }
    }
}

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    pub(super) goal: Option<Goal>,
}

impl Figure {
    /// One without a goal.
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, goal: None }
    }

    /// What it should be.
    pub(super) fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Whether it is what it should be, where that is said.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| goal.is_met(self.value))
    }

    /// Its cells in the table: name, value, goal, met.
    pub(super) fn cells(&self) -> [String; 4] {
        let met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let value = format!("{} {}", number(self.value), self.unit);
        let goal = self.goal.map(Goal::text).unwrap_or_default();
        [self.name.clone(), value.trim_end().to_owned(), goal, met.to_owned()]
    }

    pub(super) fn json(&self) -> Value {
        let goal = self.goal.map(Goal::text);
        // JSON has no such thing as "not a number": it becomes null.
        json!({"value": self.value, "unit": self.unit, "goal": goal, "met": self.is_met()})
    }
}

/// p50, p99 and the greatest of some times, with a goal for each of the first two.
pub(super) fn times(what: &str, samples: &Samples, goals: [Option<f64>; 2]) -> Vec<Figure> {
    let below = |figure: Figure, goal: Option<f64>| match goal {
        Some(bound) => figure.goal(Goal::Below(bound)),
        None => figure,
    };
    vec![
        below(Figure::new(format!("{what}_p50"), samples.percentile(50.0), "ms"), goals[0]),
        below(Figure::new(format!("{what}_p99"), samples.percentile(99.0), "ms"), goals[1]),
        Figure::new(format!("{what}_max"), samples.max(), "ms"),
    ]
}

/// The median of each figure over several runs, in the order of the first run.
pub(super) fn medians(runs: &[Vec<Figure>]) -> Vec<Figure> {
    let Some(first) = runs.first() else { return Vec::new() };
    let values = |name: &str| -> Vec<f64> {
        runs.iter().flatten().filter(|figure| figure.name == name).map(|figure| figure.value).collect()
    };
    first.iter().map(|figure| Figure { value: median(&values(&figure.name)), ..figure.clone() }).collect()
}

/// A number as a person reads it: three digits that mean something, and all those before the point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size >= 100.0 || size == size.round() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_not() {
        assert!(Goal::AtLeast(1.0).is_met(1.0) && !Goal::AtLeast(1.0).is_met(0.999));
        assert!(Goal::Below(1.0).is_met(0.999) && !Goal::Below(1.0).is_met(1.0));
        assert!(Goal::Exactly(0.0).is_met(0.0) && !Goal::Exactly(0.0).is_met(1.0));
        for goal in [Goal::AtLeast(0.0), Goal::Below(1.0), Goal::Exactly(0.0)] {
            assert!(!goal.is_met(f64::NAN), "{goal:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [61_234.56, 100.0, 12.345, 1.2345, 0.9, 0.0123, 2.0, f64::NAN].map(number);
        assert_eq!(numbers, ["61235", "100", "12.3", "1.23", "0.900", "0.012", "2", "-"]);
    }

    #[test]
    fn a_figure_shows_its_goal() {
        let slow = Figure::new("lag_p99", 12.0, "ms").goal(Goal::Below(10.0));
        assert_eq!(slow.cells(), ["lag_p99", "12 ms", "< 10", "NOT MET"]);
        assert_eq!(slow.json(), json!({"value": 12.0, "unit": "ms", "goal": "< 10", "met": false}));
        let free = Figure::new("runs", f64::NAN, "");
        assert_eq!(free.cells(), ["runs", "-", "", ""]);
        assert_eq!(free.json()["value"], Value::Null);
    }

    #[test]
    fn runs_are_joined_figure_by_figure() {
        let run = |a: f64, b: f64| vec![Figure::new("a", a, "x"), Figure::new("b", b, "y").goal(Goal::AtLeast(2.0))];
        let joined = medians(&[run(1.0, 9.0), run(3.0, 1.0), run(2.0, 2.0)]);
        let values: Vec<_> = joined.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("a", 2.0), ("b", 2.0)]);
        assert_eq!(joined[1].is_met(), Some(true));
    }
}
