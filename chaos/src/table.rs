use std::path::PathBuf;

use serde::Serialize;

use crate::checks::Violation;

/// What one scenario came to.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub fault: &'static str,
    pub injections: u64,
    pub checks: u64,
    pub figure: String,
    pub goal: &'static str,
    /// Whether the figure misses its goal.
    pub missed: bool,
    pub violations: Vec<Violation>,
    /// Why the harness itself could not go on.
    pub broken: Option<String>,
    pub seconds: u64,
    /// Where what it left is kept.
    pub kept: Option<PathBuf>,
}

impl Row {
    /// One of which nothing is known yet.
    pub fn new(fault: &'static str, goal: &'static str) -> Self {
        let (figure, violations) = (String::new(), Vec::new());
        Self {
            fault,
            injections: 0,
            checks: 0,
            figure,
            goal,
            missed: false,
            violations,
            broken: None,
            seconds: 0,
            kept: None,
        }
    }

    /// Whether it was seen to the end and nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.broken.is_none()
    }
}

/// Lines of cells, each column as wide as its widest cell.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |cells: &Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// The table at the end.
pub fn table(rows: &[Row]) -> String {
    let head = ["fault", "injections", "checks", "figure (goal)", "violations", "s"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let missed = if row.missed { " MISSED" } else { "" };
        lines.push(vec![
            row.fault.to_owned(),
            row.injections.to_string(),
            row.checks.to_string(),
            format!("{}{missed} ({})", row.figure, row.goal),
            if row.broken.is_some() { "not known".to_owned() } else { row.violations.len().to_string() },
            row.seconds.to_string(),
        ]);
    }
    aligned(&lines)
}
