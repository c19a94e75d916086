//! What `/proc` says of processes. Where there is none, as on other systems, nothing is known.

use std::fs;

/// Of `/proc/PID/stat`, in ticks of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// User and system time of its own.
    own: u64,
    /// The same of its children that have ended.
    ended: u64,
}

fn read_stat(text: &str) -> Option<Stat> {
    // The name before may hold anything, blanks and brackets too.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let parent = fields.get(1)?.parse().ok()?;
    Some(Stat { parent, own: ticks(11)? + ticks(12)?, ended: ticks(13)? + ticks(14)? })
}

fn stat(pid: i32) -> Option<Stat> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU seconds of a process.
pub(super) fn cpu(pid: i32) -> Option<f64> {
    stat(pid).map(|stat| seconds(stat.own))
}

/// CPU seconds of a process and its children, those that have ended included.
pub(super) fn cpu_of_family(pid: i32) -> Option<f64> {
    let parent = stat(pid)?;
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let children = pids.filter_map(stat).filter(|child| child.parent == pid);
    let ticks = children.fold(parent.own + parent.ended, |sum, child| sum + child.own + child.ended);
    Some(seconds(ticks))
}

/// The parent of a process of this name.
pub(super) fn parent_of(pid: i32, name: &str) -> Option<i32> {
    let is_named = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    is_named.then(|| stat(pid)).flatten().map(|stat| stat.parent)
}

/// A line of `/proc/PID/status`, `/proc/meminfo` or the like that is in kB, in bytes.
fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()? * 1024)
}

/// Resident memory of a process, now and at its peak, in bytes.
pub(super) fn memory(pid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((bytes_of(&text, "VmRSS")?, bytes_of(&text, "VmHWM")?))
}

/// The machine's memory in bytes.
pub(super) fn total_memory() -> Option<u64> {
    bytes_of(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// What the processor calls itself.
pub(super) fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_whatever_the_name() {
        let text = "4242 (a ) b) S 17 4242 4242 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 9 0 100 1 2";
        assert_eq!(read_stat(text), Some(Stat { parent: 17, own: 200, ended: 50 }));
        assert_eq!(read_stat("4242 (x) S 17"), None);
        assert_eq!(read_stat(""), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "Name:\torrery\nVmHWM:\t   12 kB\nVmRSS:\t    8 kB\n";
        assert_eq!(bytes_of(text, "VmHWM"), Some(12 * 1024));
        assert_eq!(bytes_of(text, "VmRSS"), Some(8 * 1024));
        assert_eq!(bytes_of(text, "Vm"), None);
        assert_eq!(bytes_of(text, "Name"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let (now, peak) = memory(pid).unwrap();
        assert!(now > 0 && peak >= now);
        // Read first: it grows meanwhile.
        let own = cpu(pid);
        assert!(own.is_some() && cpu_of_family(pid) >= own);
        assert!(total_memory() > Some(now));
        assert_eq!(parent_of(pid, "no such name"), None);
    }
}
