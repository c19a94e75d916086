use serde_json::{Map, Value, json};

use super::figure::Figure;
use super::scenario::Scenario;

/// One set of figures, measured under one set of sizes.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Such as `2 agents`.
    pub(super) name: String,
    pub(super) figures: Vec<Figure>,
    /// What a program may want to know beside the figures.
    pub(super) detail: Map<String, Value>,
}

impl Case {
    pub(super) fn new(name: impl Into<String>, figures: Vec<Figure>) -> Self {
        Self { name: name.into(), figures, detail: Map::new() }
    }

    /// Adds to the details.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    fn json(&self) -> Value {
        let figures: Map<String, Value> = self.figures.iter().map(|f| (f.name.clone(), f.json())).collect();
        json!({"case": self.name, "figures": figures, "detail": self.detail})
    }
}

/// What one scenario came to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) scenario: Scenario,
    pub(super) seconds: f64,
    pub(super) cases: Vec<Case>,
    /// Why it was not seen to its end.
    pub(super) error: Option<String>,
}

/// What was measured, on what, and how.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) machine: Value,
    pub(super) versions: Value,
    pub(super) settings: Value,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) interrupted: bool,
}

/// The columns of [`Report::rows`].
pub const COLUMNS: [&str; 6] = ["scenario", "case", "figure", "result", "goal", "met"];

impl Report {
    /// One JSON object.
    pub fn json(&self) -> Value {
        let scenarios: Vec<Value> = self
            .outcomes
            .iter()
            .map(|outcome| {
                json!({
                    "scenario": outcome.scenario.name(),
                    "seconds": outcome.seconds,
                    "cases": outcome.cases.iter().map(Case::json).collect::<Vec<_>>(),
                    "error": outcome.error,
                })
            })
            .collect();
        json!({
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "interrupted": self.interrupted,
            "scenarios": scenarios,
        })
    }

    /// A row for each figure; what repeats is said once.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for outcome in &self.outcomes {
            let mut scenario = outcome.scenario.name();
            for case in &outcome.cases {
                let mut name = case.name.as_str();
                for figure in &case.figures {
                    let mut row = vec![std::mem::take(&mut scenario), std::mem::take(&mut name).to_owned()];
                    row.extend(figure.cells());
                    rows.push(row);
                }
            }
            if outcome.error.is_some() {
                // Why is said by itself: it may be long.
                let cells = [&std::mem::take(&mut scenario), "", "not measured", "", "", ""];
                rows.push(cells.map(str::to_owned).to_vec());
            }
        }
        rows
    }

    /// Scenarios that were not seen to their end, each with its reason.
    pub fn broken(&self) -> Vec<String> {
        let text = |outcome: &Outcome| outcome.error.as_ref().map(|e| format!("{}: {e}", outcome.scenario.name()));
        self.outcomes.iter().filter_map(text).collect()
    }

    /// Whether somebody ended it early.
    pub fn was_interrupted(&self) -> bool {
        self.interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::Goal;

    fn report() -> Report {
        let figures = vec![Figure::new("a", 1.0, "ms").goal(Goal::Below(2.0)), Figure::new("b", 5.0, "")];
        let cases = vec![Case::new("small", figures.clone()).with("slots", 4), Case::new("large", figures)];
        let done = Outcome { scenario: Scenario::Latency, seconds: 1.5, cases, error: None };
        let broken = Outcome { scenario: Scenario::Herd, seconds: 0.1, cases: vec![], error: Some("gone".into()) };
        let nothing = || json!({});
        Report {
            machine: nothing(),
            versions: nothing(),
            settings: nothing(),
            outcomes: vec![done, broken],
            interrupted: false,
        }
    }

    #[test]
    fn the_table_says_what_repeats_once() {
        let rows: Vec<String> = report().rows().iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            ["latency|small|a|1 ms|< 2|met", "||b|5||", "|large|a|1 ms|< 2|met", "||b|5||", "herd||not measured|||"]
        );
        assert!(report().rows().iter().all(|row| row.len() == COLUMNS.len()));
    }

    #[test]
    fn the_json_has_the_figures_by_name() {
        let json = report().json();
        let latency = &json["scenarios"][0];
        assert_eq!(latency["scenario"], "latency");
        assert_eq!(latency["cases"][0]["figures"]["a"]["met"], true);
        assert_eq!(latency["cases"][0]["detail"]["slots"], 4);
        assert_eq!(latency["error"], Value::Null);
        assert_eq!(json["scenarios"][1]["error"], "gone");
        assert_eq!(report().broken(), ["herd: gone"]);
    }
}
