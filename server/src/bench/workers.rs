use std::time::Duration;

use uuid::Uuid;

use super::bed::Bed;
use super::child::Child;
use super::deployment::{Deployment, START};
use super::error::{Result, failed};
use super::procfs;
use super::wait::until;

/// How long a worker may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Between two looks at how far workers are.
const LOOK: Duration = Duration::from_millis(20);

/// Processes with SDK workers.
pub(super) struct Workers {
    processes: Vec<Child>,
    each: usize,
}

/// How many workers, and of what kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) processes: usize,
    /// Workers in each process.
    pub(super) each: usize,
    /// Slots of each worker.
    pub(super) slots: u32,
    pub(super) has_journal: bool,
}

impl Fleet {
    /// One worker in a process of its own, with a journal.
    pub(super) fn one(slots: u32) -> Self {
        Self { processes: 1, each: 1, slots, has_journal: true }
    }
}

/// The start of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) execution: Uuid,
    /// Nanoseconds of the wall clock.
    pub(super) at: u128,
}

impl Start {
    /// The instant in the execution's id, in milliseconds: for a fire the scheduled one, for others that of their making.
    pub(super) fn instant_ms(&self) -> u64 {
        u64::try_from(self.execution.as_u128() >> 80).unwrap_or(0)
    }

    /// Milliseconds from that instant to the start.
    pub(super) fn lag(&self) -> f64 {
        lag(u128::from(self.instant_ms()) * 1_000_000, self.at)
    }
}

/// Milliseconds from one instant to another, both in nanoseconds.
pub(super) fn lag(from: u128, to: u128) -> f64 {
    (to as i128 - from as i128) as f64 / 1e6
}

impl Workers {
    /// Starts the processes; they do not connect yet.
    ///
    /// # Errors
    /// Where one does not start.
    pub(super) async fn start(bed: &Bed, deployment: &Deployment, fleet: Fleet) -> Result<Self> {
        let mut processes = Vec::new();
        for number in 1..=fleet.processes {
            let name = format!("worker-{number}");
            let (count, slots) = (fleet.each.to_string(), fleet.slots.to_string());
            let args = [
                "bench",
                "worker",
                "--coordinator",
                &deployment.grpc,
                "--name",
                &name,
                "--count",
                &count,
                "--slots",
                &slots,
            ];
            let mut command = Child::orrery(&args)?;
            let key = &deployment.database.keys.agents;
            match &deployment.authority {
                None => drop(command.env("ORRERY_TOKEN", key)),
                Some(authority) => {
                    for (name, file) in Box::pin(authority.enrol(&deployment.grpc, key, &name)).await? {
                        command.arg(name).arg(file);
                    }
                }
            }
            if fleet.has_journal {
                command.arg("--journal").arg(bed.fresh_path("journal"));
            }
            let mut process = Child::start(&name, bed.directory(), command)?;
            process.line_with("ready", START).await?;
            processes.push(process);
        }
        Ok(Self { processes, each: fleet.each })
    }

    /// The same, connected.
    ///
    /// # Errors
    /// Where they are not in time.
    pub(super) async fn attached(bed: &Bed, deployment: &Deployment, fleet: Fleet) -> Result<Self> {
        let mut workers = Self::start(bed, deployment, fleet).await?;
        workers.go().await?;
        deployment.has_agents(workers.processes.len() * workers.each, START).await?;
        Ok(workers)
    }

    /// Lets them connect.
    ///
    /// # Errors
    /// Where one has ended.
    pub(super) async fn go(&mut self) -> Result<()> {
        self.tell("go").await
    }

    /// Lets those functions end that wait.
    ///
    /// # Errors
    /// Where a process has ended.
    pub(super) async fn release(&mut self) -> Result<()> {
        self.tell("release").await
    }

    async fn tell(&mut self, what: &str) -> Result<()> {
        for process in &mut self.processes {
            process.tell(what).await?;
        }
        Ok(())
    }

    /// How many handlers have started, and how many have ended.
    ///
    /// # Errors
    /// Where a process has ended.
    pub(super) async fn count(&mut self) -> Result<(u64, u64)> {
        let mut sum = (0, 0);
        for process in &mut self.processes {
            process.tell("count").await?;
            let line = process.line(ANSWER).await?;
            let mut numbers = line.split(' ').skip(1).map(str::parse::<u64>);
            let (Some(Ok(started)), Some(Ok(ended))) = (numbers.next(), numbers.next()) else {
                return Err(failed(format!("a worker says {line:?}")));
            };
            sum = (sum.0 + started, sum.1 + ended);
        }
        Ok(sum)
    }

    /// Waits until so many handlers have started since the process began.
    ///
    /// # Errors
    /// Where it takes longer.
    pub(super) async fn have_started(&mut self, wanted: u64, within: Duration) -> Result<()> {
        until(&format!("{wanted} handlers have started"), within, LOOK, async || {
            Ok((self.count().await?.0 >= wanted).then_some(()))
        })
        .await
    }

    /// The starts since the last time.
    ///
    /// # Errors
    /// Where a process has ended.
    pub(super) async fn take(&mut self) -> Result<Vec<Start>> {
        let mut starts = Vec::new();
        for process in &mut self.processes {
            process.tell("take").await?;
            loop {
                let line = process.line(ANSWER).await?;
                if line == "end" {
                    break;
                }
                let read = line.split_once(' ').and_then(|(id, at)| Some((id.parse().ok()?, at.parse().ok()?)));
                let (execution, at) = read.ok_or_else(|| failed(format!("a worker says {line:?}")))?;
                starts.push(Start { execution, at });
            }
        }
        Ok(starts)
    }

    /// The processes' numbers.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(Child::pid).collect()
    }

    /// CPU seconds of all of them.
    pub(super) fn cpu(&self) -> Option<f64> {
        self.processes.iter().map(|process| procfs::cpu(process.pid())).sum()
    }

    /// Resident bytes of all of them.
    pub(super) fn memory(&self) -> Option<u64> {
        self.processes.iter().map(|process| procfs::memory(process.pid()).map(|(now, _)| now)).sum()
    }

    /// Ends them in good order.
    pub(super) async fn stop(self) {
        for process in self.processes {
            process.end(START).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::fire_id;

    #[test]
    fn lag_is_counted_from_the_instant_in_the_id() {
        let instant = chrono::DateTime::from_timestamp_millis(1_800_000_000_123).unwrap();
        let execution = fire_id(Uuid::from_u128(1), Uuid::from_u128(2), instant);
        let at = |nanos: i128| Start { execution, at: (1_800_000_000_123_000_000_i128 + nanos) as u128 };
        assert_eq!(at(1_500_000).lag(), 1.5);
        assert_eq!(at(-250_000).lag(), -0.25);
    }
}
