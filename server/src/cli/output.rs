//! What goes to stdout: aligned tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use orrery_proto::Timestamp;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: &str = "  ";
/// A column is not made narrower than this.
const LEAST_WIDTH: usize = 8;

/// How output is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// JSON instead of text.
    pub(super) json: bool,
    color: bool,
    color_stderr: bool,
    /// Columns of the terminal, where stdout is one.
    width: Option<usize>,
}

/// A colour that says how something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Busy,
    Quiet,
}

impl Output {
    /// For this process' stdout.
    pub(super) fn new(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| usize::from(width.0));
        let colors = !no_color && !dumb;
        Self { json, color: terminal && colors, color_stderr: io::stderr().is_terminal() && colors, width }
    }

    /// One line.
    pub(super) fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.as_ref())?;
        stdout.flush()
    }

    /// A message of the API as its documented JSON, indented.
    pub(super) fn json<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        text.push('\n');
        write_all(&text)
    }

    /// A message as one line of JSON, where many follow each other.
    pub(super) fn json_line<T: Serialize>(&self, value: &T) -> io::Result<()> {
        self.line(serde_json::to_string(value).map_err(io::Error::other)?)
    }

    /// A table; fitted to the terminal where stdout is one, whole where it is not.
    pub(super) fn table(&self, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        write_all(&render(header, rows, self.width, |cell| self.paint_status(cell)))
    }

    /// Names with their values, one a line; what is empty is left out.
    pub(super) fn fields(&self, fields: &[(&str, String)]) -> io::Result<()> {
        let shown: Vec<_> = fields.iter().filter(|(_, value)| !value.is_empty()).collect();
        let widest = shown.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in shown {
            let indent = format!("\n{}", " ".repeat(widest + GAP.len()));
            let value = self.paint_status(&clean_lines(value)).replace('\n', &indent);
            text.push_str(&format!("{name:widest$}{GAP}{value}\n"));
        }
        write_all(&text)
    }

    /// A remark for people, on stderr; programs are spared it.
    pub(super) fn note(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }

    /// The text in a colour, where stdout shows colours.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.color { tone.paint(text) } else { text.to_owned() }
    }

    /// The text in a colour, where stderr shows colours.
    pub(super) fn paint_stderr(&self, tone: Tone, text: &str) -> String {
        if self.color_stderr { tone.paint(text) } else { text.to_owned() }
    }

    /// A status in its colour; any other text as it is.
    fn paint_status(&self, cell: &str) -> String {
        match cell.trim_end() {
            "completed" | "active" | "connected" => self.paint(Tone::Good, cell),
            "failed" | "disconnected" | "lost" => self.paint(Tone::Bad, cell),
            "running" | "paused" | "draining" => self.paint(Tone::Busy, cell),
            "cancelled" | "inactive" | "-" => self.paint(Tone::Quiet, cell),
            _ => cell.to_owned(),
        }
    }
}

impl Tone {
    fn paint(self, text: &str) -> String {
        let number = match self {
            Self::Good => 32,
            Self::Bad => 31,
            Self::Busy => 33,
            Self::Quiet => 2,
        };
        format!("\x1b[{number}m{text}\x1b[0m")
    }
}

fn write_all(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn render(header: &[&str], rows: &[Vec<String>], limit: Option<usize>, paint: impl Fn(&str) -> String) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>()).collect();
    let mut widths: Vec<usize> = header.iter().map(|name| name.width()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if let Some(limit) = limit {
        shrink(&mut widths, limit);
    }
    let mut text = String::new();
    let names: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    push_row(&mut text, &names, &widths, str::to_owned);
    for row in &rows {
        push_row(&mut text, row, &widths, &paint);
    }
    text
}

/// Takes from the widest column but the first, which identifies the row, until the table fits or nothing more can be taken.
fn shrink(widths: &mut [usize], limit: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        match widths.iter_mut().skip(1).max() {
            Some(widest) if *widest > LEAST_WIDTH => *widest -= 1,
            _ => return,
        }
    }
}

fn push_row(text: &mut String, row: &[String], widths: &[usize], paint: impl Fn(&str) -> String) {
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        let cell = fit(cell, *width);
        let padding = width.saturating_sub(cell.width());
        line.push_str(&paint(&cell));
        if index + 1 < row.len() {
            line.push_str(&" ".repeat(padding));
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The text in no more than `width` columns, with `…` where something is cut.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// Without control characters, which could draw on the terminal or break the line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn clean_lines(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// RFC 3339 in UTC with as many digits of a second as it needs.
pub(super) fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// To the second, for people; `-` where there is none.
pub(super) fn instant(at: Option<Timestamp>) -> String {
    match at.and_then(|at| at.instant()) {
        Some(at) => at.to_rfc3339_opts(SecondsFormat::Secs, true),
        None => "-".to_owned(),
    }
}

/// To the second with how far it is away, such as `2026-01-31T09:00:00Z (in 3m)`; empty where there is none.
pub(super) fn instant_and_distance(at: Option<Timestamp>, now: DateTime<Utc>) -> String {
    match at.and_then(|at| at.instant()) {
        Some(_) => format!("{} ({})", instant(at), distance(at, now)),
        None => String::new(),
    }
}

/// How far an instant is away, such as `in 3m` or `2m ago`; `-` where there is none.
pub(super) fn distance(at: Option<Timestamp>, now: DateTime<Utc>) -> String {
    let Some(at) = at.and_then(|at| at.instant()) else { return "-".to_owned() };
    let seconds = (at - now).num_seconds();
    if seconds == 0 {
        return "now".to_owned();
    }
    let length = match seconds.unsigned_abs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    };
    if seconds > 0 { format!("in {length}") } else { format!("{length} ago") }
}

/// A duration such as `340ms`, `1.9s` or `2m05s`; `-` where there is none.
pub(super) fn duration(millis: Option<i64>) -> String {
    match millis {
        None => "-".to_owned(),
        Some(millis @ ..1000) => format!("{millis}ms"),
        Some(millis @ 1000..60_000) if millis % 1000 < 100 => format!("{}s", millis / 1000),
        Some(millis @ 1000..60_000) => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        Some(millis @ 60_000..3_600_000) => format!("{}m{:02}s", millis / 60_000, millis / 1000 % 60),
        Some(millis) => format!("{}h{:02}m", millis / 3_600_000, millis / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[&str]], limit: Option<usize>) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        render(&["ID", "NAME", "STATUS"], &rows, limit, str::to_owned)
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let text = table(&[&["1", "報告", "active"], &["22", "nightly", "-"]], None);
        assert_eq!(text, "ID  NAME     STATUS\n1   報告     active\n22  nightly  -\n");
    }

    #[test]
    fn a_terminal_cuts_the_widest_column_but_never_the_id() {
        let id = "0190f5e2-0000-7000-8000-000000000001";
        let rows: &[&[&str]] = &[&[id, "a very long name of a job", "active"]];
        let text = table(rows, Some(60));
        assert_eq!(text.lines().nth(1), Some(format!("{id}  a very long n…  active").as_str()), "{text}");
        assert!(table(rows, None).contains("a very long name of a job"));
        assert!(table(rows, Some(5)).contains(id));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(table(&[&["1", "a\x1b[2J\nb", "x"]], None).lines().count(), 2);
        assert!(!table(&[&["1", "a\x1b[2J", "x"]], None).contains('\x1b'));
    }

    #[test]
    fn times_say_how_far_they_are_away() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |seconds: i64| Some(Timestamp::from(now + chrono::TimeDelta::seconds(seconds)));
        assert_eq!(distance(at(200), now), "in 3m");
        assert_eq!(distance(at(-120), now), "2m ago");
        assert_eq!(distance(at(0), now), "now");
        assert_eq!(distance(at(-7200), now), "2h ago");
        assert_eq!(distance(at(86_400 * 3), now), "in 3d");
        assert_eq!(distance(None, now), "-");
        assert_eq!(instant_and_distance(at(59), now), "2027-01-15T08:00:59Z (in 59s)");
    }

    #[test]
    fn durations_keep_two_units() {
        for (millis, text) in
            [(0, "0ms"), (340, "340ms"), (1999, "1.9s"), (7000, "7s"), (125_000, "2m05s"), (3_720_000, "1h02m")]
        {
            assert_eq!(duration(Some(millis)), text);
        }
    }

    #[test]
    fn fractions_of_a_second_are_shown_where_there_are_any() {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        assert_eq!(exact(at), "1970-01-01T00:00:00Z");
        assert_eq!(exact(at + chrono::TimeDelta::milliseconds(5)), "1970-01-01T00:00:00.005Z");
    }
}
