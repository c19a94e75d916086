//! What this process takes of its machine, from /proc. Where there is none, it is zero.

use std::time::{Duration, Instant};

/// Clock ticks a second in /proc: fixed in Linux's interface, whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;

/// The shortest time over which the use of processors is measured; asked sooner, the last answer stands.
const SHORTEST: Duration = Duration::from_secs(1);

/// Memory and processors in use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    /// Of one processor: 200 is two of them, wholly in use. Since the last measurement; at first since the start of the measuring.
    pub cpu_percent: f64,
}

/// Measures between one reading and the next.
#[derive(Debug)]
pub(super) struct Meter {
    read_at: Instant,
    cpu_seconds: f64,
    cpu_percent: f64,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { read_at: Instant::now(), cpu_seconds: cpu_seconds(), cpu_percent: 0.0 }
    }

    pub(super) fn read(&mut self) -> Usage {
        let passed = self.read_at.elapsed();
        if passed >= SHORTEST {
            let cpu_seconds = cpu_seconds();
            self.cpu_percent = (cpu_seconds - self.cpu_seconds).max(0.0) / passed.as_secs_f64() * 100.0;
            self.cpu_seconds = cpu_seconds;
            self.read_at = Instant::now();
        }
        Usage { resident_bytes: resident_bytes(), cpu_percent: self.cpu_percent }
    }
}

fn resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|status| parse_resident(&status)).unwrap_or(0)
}

fn cpu_seconds() -> f64 {
    std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse_cpu_ticks(&stat)).unwrap_or(0.0)
        / TICKS_PER_SECOND
}

fn parse_resident(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kibibytes.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// User and system time. The second field is the program's name in brackets, which may itself hold spaces and brackets.
fn parse_cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    Some(times.next()?.parse::<f64>().ok()? + times.next()?.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        assert_eq!(parse_resident("VmPeak:\t  900 kB\nVmRSS:\t   1234 kB\n"), Some(1_263_616));
        assert_eq!(parse_resident("Name:\tx\n"), None);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(parse_cpu_ticks(stat), Some(300.0));
        assert_eq!(parse_cpu_ticks("7 (a) S"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_memory() {
        assert!(Meter::new().read().resident_bytes > 1 << 20);
    }
}
