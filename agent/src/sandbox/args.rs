use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use orrery_sdk::config::SandboxLevel;

use super::SandboxSettings;

/// What an agent demands of the processes that it starts, on its command line.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxArgs {
    /// Least sandbox of all processes: none, process (own user where the agent is root, Landlock, seccomp) or container (bubblewrap).
    /// Jobs and tenants may ask for more
    #[arg(long = "sandbox", value_name = "LEVEL", env = "ORRERY_SANDBOX", default_value = "none")]
    pub level: SandboxLevel,
    /// Give contained processes no network
    #[arg(long = "sandbox-no-network", env = "ORRERY_SANDBOX_NO_NETWORK")]
    pub no_network: bool,
    /// Most memory of an execution, which jobs that name none get
    #[arg(long = "sandbox-memory-mb", value_name = "MIB", env = "ORRERY_SANDBOX_MEMORY_MB", value_parser = clap::value_parser!(u64).range(4..))]
    pub memory_mb: Option<u64>,
    /// Most processors of an execution, such as 0.5, which jobs that name none get
    #[arg(long = "sandbox-cpus", value_name = "NUMBER", env = "ORRERY_SANDBOX_CPUS", value_parser = processors)]
    pub cpus: Option<f64>,
    /// Most processes and threads of an execution, which jobs that name none get; contained ones get 1024 where nobody says
    #[arg(long = "sandbox-pids", value_name = "NUMBER", env = "ORRERY_SANDBOX_PIDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub pids: Option<u64>,
    /// Most that the private directory of a container holds, which jobs that name none get
    #[arg(long = "sandbox-tmp-mb", value_name = "MIB", env = "ORRERY_SANDBOX_TMP_MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub tmp_mb: Option<u64>,
    /// Users that contained processes become, one each, where the agent is root
    #[arg(long = "sandbox-users", value_name = "FIRST-LAST", env = "ORRERY_SANDBOX_USERS", default_value = "60578-61183", value_parser = users)]
    pub users: RangeInclusive<u32>,
    /// File or directory that contained processes may read, beside those of the system; repeatable
    #[arg(long = "sandbox-read", value_name = "PATH", env = "ORRERY_SANDBOX_READ", value_delimiter = ':')]
    pub readable: Vec<PathBuf>,
    /// Directory that contained processes may change; repeatable
    #[arg(long = "sandbox-write", value_name = "PATH", env = "ORRERY_SANDBOX_WRITE", value_delimiter = ':')]
    pub writable: Vec<PathBuf>,
    /// The bubblewrap program, for containers
    #[arg(
        long = "sandbox-bubblewrap",
        value_name = "PROGRAM",
        env = "ORRERY_SANDBOX_BUBBLEWRAP",
        default_value = "bwrap"
    )]
    pub bubblewrap: PathBuf,
}

impl SandboxArgs {
    /// The settings that the command line stands for. Processes never see `secrets`.
    pub(crate) fn settings(self, secrets: [Option<PathBuf>; 2]) -> SandboxSettings {
        let given = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
        SandboxSettings {
            level: self.level,
            network: !self.no_network,
            memory_mb: self.memory_mb,
            cpus: self.cpus,
            pids: self.pids,
            tmp_mb: self.tmp_mb,
            users: self.users,
            bubblewrap: self.bubblewrap,
            readable: given(self.readable),
            writable: given(self.writable),
            hidden: secrets.into_iter().flatten().collect(),
        }
    }
}

fn processors(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=1024.0).contains(&cpus) => Ok(cpus),
        _ => Err("give a number from 0.01 to 1024".into()),
    }
}

fn users(text: &str) -> Result<RangeInclusive<u32>, String> {
    let wrong = || "give two numbers such as 60578-61183; neither is 0, which is root".to_owned();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u32, u32) =
        (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
    // The last number of all stands for no user at all; see setuid(2).
    if first == 0 || last < first || last == u32::MAX { Err(wrong()) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_no_user_for_jobs() {
        assert_eq!(users("60578-61183"), Ok(60578..=61183));
        assert_eq!(users("1500"), Ok(1500..=1500));
        for wrong in ["0-5", "", "7-5", "a-b", "1-4294967295", "-5"] {
            assert!(users(wrong).is_err(), "{wrong}");
        }
        assert!(processors("0.5").is_ok() && processors("0").is_err() && processors("NaN").is_err());
    }
}
