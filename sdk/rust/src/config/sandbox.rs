//! How a process is contained, and what it may use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Problem;

/// How far a process is kept from the rest of its host. The later level is the stricter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxLevel {
    /// As any process of the agent's user, with an environment of its own.
    #[default]
    None,
    /// A user of its own where the agent may give it one, no new privileges, a private directory, and only the files and system calls
    /// that programs need.
    Process,
    /// Mounts, processes and, where asked for, network of its own as well.
    Container,
}

impl SandboxLevel {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Container => "container",
        }
    }
}

impl fmt::Display for SandboxLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SandboxLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "process" => Ok(Self::Process),
            "container" => Ok(Self::Container),
            _ => Err(format!("{text:?} is no sandbox level; use none, process or container")),
        }
    }
}

/// What a job asks of its sandbox. What it leaves out, the agent decides; an agent that cannot give what is asked for refuses to run the
/// job.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxConfig {
    /// The least level; the tenant and the agent may demand a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<SandboxLevel>,
    /// Whether it has a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<bool>,
    /// The most memory of all its processes together, in MiB. Swap counts as well where the host counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The most processors' worth of time, such as 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// The most processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// The most that its private directory holds, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_mb: Option<u64>,
}

/// The most MiB of memory, and of the private directory: a TiB.
const MOST_MB: u64 = 1 << 20;
/// The least memory that a process of any kind starts with, in MiB.
const LEAST_MEMORY_MB: u64 = 4;
/// The most processes: as many as Linux can count.
const MOST_PIDS: u64 = 4_194_304;
/// The most processors.
const MOST_CPUS: f64 = 1024.0;
/// The least processor time: Linux gives no smaller share of its period of 100 ms.
const LEAST_CPUS: f64 = 0.01;

impl SandboxConfig {
    /// Reads the value of `config.sandbox`, with every problem found in it; the names of its fields stand behind `config.sandbox`.
    pub(super) fn read(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields: Fields<'_> = serde_json::from_str(json).map_err(|_| {
            vec![("sandbox".to_owned(), "must be an object such as {\"level\": \"process\"}".to_owned())]
        })?;
        let mut problems = Vec::new();
        let (f, p) = (&mut fields, &mut problems);
        let config = Self {
            level: level(f, p),
            network: given(f, p, "network", "true or false"),
            memory_mb: whole(f, p, "memoryMb", (LEAST_MEMORY_MB, MOST_MB), "MiB"),
            cpus: cpus(f, p),
            pids: whole(f, p, "pids", (1, MOST_PIDS), "processes and threads"),
            tmp_mb: whole(f, p, "tmpMb", (1, MOST_MB), "MiB"),
        };
        for name in fields.keys() {
            let known = "level, network, memoryMb, cpus, pids, tmpMb";
            problems.push((format!("sandbox.{name}"), format!("is not a field of a sandbox; those are {known}")));
        }
        problems.extend(config.contradiction());
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// What is asked for and cannot be had at the level that is asked for.
    fn contradiction(&self) -> Option<Problem> {
        let (field, message) = match self.level? {
            SandboxLevel::None if self.network == Some(false) => {
                ("sandbox.network", "needs the level process or container; at none a process has the host's network")
            }
            level if level < SandboxLevel::Container && self.tmp_mb.is_some() => {
                ("sandbox.tmpMb", "needs the level container, which has a file system of its own to bound")
            }
            _ => return None,
        };
        Some((field.into(), message.into()))
    }
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn level(fields: &mut Fields<'_>, problems: &mut Vec<Problem>) -> Option<SandboxLevel> {
    let text: String = given(fields, problems, "level", "none, process or container")?;
    match text.parse() {
        Ok(level) => Some(level),
        Err(message) => {
            problems.push(("sandbox.level".into(), message));
            None
        }
    }
}

fn cpus(fields: &mut Fields<'_>, problems: &mut Vec<Problem>) -> Option<f64> {
    let cpus: f64 = given(fields, problems, "cpus", "a number of processors such as 0.5")?;
    if !(LEAST_CPUS..=MOST_CPUS).contains(&cpus) {
        problems.push(("sandbox.cpus".into(), format!("must be from {LEAST_CPUS} to {MOST_CPUS}, not {cpus}")));
    }
    Some(cpus)
}

/// Takes a field of the type that is wanted; null is as good as absent.
fn given<T: DeserializeOwned>(
    fields: &mut Fields<'_>,
    problems: &mut Vec<Problem>,
    name: &str,
    what: &str,
) -> Option<T> {
    let raw = fields.remove(name).filter(|raw| raw.get() != "null")?;
    let value = serde_json::from_str(raw.get()).ok();
    if value.is_none() {
        let shown: String = raw.get().chars().take(60).collect();
        problems.push((format!("sandbox.{name}"), format!("must be {what}, not {shown}")));
    }
    value
}

fn whole(
    fields: &mut Fields<'_>,
    problems: &mut Vec<Problem>,
    name: &str,
    (least, most): (u64, u64),
    unit: &str,
) -> Option<u64> {
    let value: u64 = given(fields, problems, name, &format!("a whole number of {unit}"))?;
    if !(least..=most).contains(&value) {
        problems.push((format!("sandbox.{name}"), format!("must be from {least} to {most} {unit}, not {value}")));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered() {
        assert!(SandboxLevel::None < SandboxLevel::Process && SandboxLevel::Process < SandboxLevel::Container);
        for level in [SandboxLevel::None, SandboxLevel::Process, SandboxLevel::Container] {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
        assert!("Process".parse::<SandboxLevel>().is_err());
    }

    #[test]
    fn what_is_right_is_read() {
        let all = r#"{"level":"container","network":false,"memoryMb":64,"cpus":0.5,"pids":20,"tmpMb":16}"#;
        let expected = SandboxConfig {
            level: Some(SandboxLevel::Container),
            network: Some(false),
            memory_mb: Some(64),
            cpus: Some(0.5),
            pids: Some(20),
            tmp_mb: Some(16),
        };
        assert_eq!(SandboxConfig::read(all), Ok(expected.clone()));
        assert_eq!(serde_json::to_string(&expected).ok().as_deref(), Some(all));
        assert_eq!(SandboxConfig::read(r#"{"level":null}"#), Ok(SandboxConfig::default()));
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        for (json, field, part) in [
            (r#"{"level":"vm"}"#, "sandbox.level", "use none, process or container"),
            (r#"{"level":1}"#, "sandbox.level", "not 1"),
            (r#"{"network":"off"}"#, "sandbox.network", "true or false"),
            (r#"{"memoryMb":3}"#, "sandbox.memoryMb", "from 4 to"),
            (r#"{"memoryMb":1.5}"#, "sandbox.memoryMb", "whole number"),
            (r#"{"memoryMb":-1}"#, "sandbox.memoryMb", "whole number"),
            (r#"{"cpus":0}"#, "sandbox.cpus", "from 0.01"),
            (r#"{"pids":0}"#, "sandbox.pids", "from 1"),
            (r#"{"tmpMb":0,"level":"container"}"#, "sandbox.tmpMb", "from 1"),
            (r#"{"tmpMb":5,"level":"process"}"#, "sandbox.tmpMb", "needs the level container"),
            (r#"{"level":"none","network":false}"#, "sandbox.network", "needs the level"),
            (r#"{"cpu":1}"#, "sandbox.cpu", "not a field of a sandbox"),
            ("5", "sandbox", "must be an object"),
        ] {
            let problems = SandboxConfig::read(json).expect_err(json);
            assert_eq!(problems.len(), 1, "{json}: {problems:?}");
            assert!(problems[0].0 == field && problems[0].1.contains(part), "{json}: {problems:?}");
        }
    }
}
