use chrono::{DateTime, Datelike, SubsecRound, Utc};
use orrery_proto::Timestamp;

use crate::error::FieldProblem;

/// Collects everything that is wrong with a request, so that a caller mends it in one go.
pub(super) struct Problems {
    /// What stands before every field's name, such as `jobs[3].`.
    prefix: String,
    found: Vec<FieldProblem>,
}

impl Problems {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), found: Vec::new() }
    }

    pub(super) fn add(&mut self, code: &'static str, field: &str, message: impl Into<String>) {
        self.found.push(FieldProblem { field: format!("{}{field}", self.prefix), code, message: message.into() });
    }

    /// A number within bounds, both included; the lower one stands for what is not.
    pub(super) fn within<T>(&mut self, code: &'static str, field: &str, value: T, least: T, most: T) -> T
    where
        T: PartialOrd + std::fmt::Display + Copy,
    {
        if value >= least && value <= most {
            return value;
        }
        self.add(code, field, format!("{value} is out of range; give {least} to {most}"));
        least
    }

    /// An instant that the database can keep, cut to its microseconds.
    pub(super) fn instant(&mut self, code: &'static str, field: &str, at: Option<Timestamp>) -> Option<DateTime<Utc>> {
        let found = at?.instant().filter(|at| (1..=9999).contains(&at.year()));
        if found.is_none() {
            self.add(code, field, "is out of range; give an instant from year 1 to year 9999");
        }
        found.map(|at| at.trunc_subsecs(6))
    }

    /// A value of an enum, the default where it is absent or unspecified.
    pub(super) fn choice<T: TryFrom<i32>>(&mut self, field: &str, value: Option<i32>, default: T) -> T {
        match value {
            None | Some(0) => default,
            Some(number) => T::try_from(number).unwrap_or_else(|_| {
                self.add("INVALID_ARGUMENT", field, format!("{number} is not one of its values"));
                default
            }),
        }
    }

    /// All that was found, in the order of the request.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<FieldProblem>> {
        if self.found.is_empty() { Ok(value) } else { Err(self.found) }
    }
}
