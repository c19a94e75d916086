//! Which commands are a text for a shell, and no list of arguments.

use super::{CommandConfig, Problem};

/// Programs that run a text that they are given as an argument: what POSIX calls a command language interpreter.
const SHELLS: [&str; 21] = [
    "sh", "ash", "bash", "rbash", "dash", "zsh", "ksh", "ksh93", "mksh", "lksh", "pdksh", "loksh", "oksh", "yash",
    "posh", "fish", "csh", "tcsh", "elvish", "nu", "pwsh",
];
/// Programs that hand the text behind their `-c` to a shell.
const BY_OPTION: [&str; 4] = ["su", "runuser", "script", "flock"];
/// Programs that run the program in their arguments.
const WRAPPERS: [&str; 21] = [
    "env", "busybox", "toybox", "nice", "ionice", "nohup", "timeout", "setsid", "stdbuf", "time", "xargs", "sudo",
    "doas", "chroot", "unshare", "nsenter", "setpriv", "taskset", "chrt", "strace", "find",
];
/// Options of shells whose value is the next argument.
const WITH_VALUE: [&str; 6] = ["-o", "+o", "-O", "+O", "--rcfile", "--init-file"];

/// What stands in the way of a job whose tenant may not run shells; nothing where it runs a program with arguments. A definition that
/// cannot be read is not looked at.
pub fn shell_problem(job_type: &str, config_json: &str) -> Option<Problem> {
    let use_instead = "give a command job with the program and its args instead, or ask for the permission shell:run";
    match job_type {
        "shell" => Some(("jobType".into(), format!("shell may not be used here; {use_instead}"))),
        "command" => {
            let config = CommandConfig::parse(config_json).ok()?;
            let shell = shell_in(&config.command, &config.args)?;
            let message = format!("{shell:?} runs a text as a shell, which may not be done here; {use_instead}");
            Some(("config.command".into(), message))
        }
        _ => None,
    }
}

/// The shell that a command hands a text to, by itself or by a program that runs its arguments, such as `env`.
pub fn shell_in<'a>(command: &'a str, args: &'a [String]) -> Option<&'a str> {
    if SHELLS.contains(&name(command)) {
        return takes_text(args).then_some(command);
    }
    if BY_OPTION.contains(&name(command)) {
        return args.iter().any(|arg| is_text_option(arg)).then_some(command);
    }
    if name(command) == "watch" {
        // It hands all of its arguments to a shell.
        return Some(command);
    }
    if !WRAPPERS.contains(&name(command)) {
        return None;
    }
    let split = args.iter().any(|arg| arg.starts_with("-S") || arg.starts_with("--split-string"));
    if name(command) == "env" && split {
        // One argument that it takes apart into a command line: nobody here knows how.
        return Some(command);
    }
    args.iter()
        .enumerate()
        .find_map(|(at, arg)| (SHELLS.contains(&name(arg)) && takes_text(&args[at + 1..])).then_some(arg.as_str()))
}

/// Whether a path or name is that of a shell.
pub fn is_shell(program: &str) -> bool {
    SHELLS.contains(&name(program))
}

fn name(program: &str) -> &str {
    let name = program.rsplit('/').next().unwrap_or(program);
    name.strip_prefix('-').unwrap_or(name)
}

/// Whether there is a `-c` among the options, alone or among other letters as in `-ec`. The first argument that is none ends them.
fn takes_text(args: &[String]) -> bool {
    let mut is_value = false;
    for arg in args {
        if is_text_option(arg) {
            return true;
        }
        if !is_value && !arg.starts_with(['-', '+']) {
            return false;
        }
        is_value = WITH_VALUE.contains(&arg.as_str());
    }
    false
}

fn is_text_option(arg: &str) -> bool {
    match arg.strip_prefix("--") {
        Some(long) => long.split('=').next().is_some_and(|name| name == "command" || name == "init-command"),
        None => arg.strip_prefix(['-', '+']).is_some_and(|letters| letters.contains(['c', 'C'])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &[&str]) -> bool {
        let args: Vec<String> = line[1..].iter().map(|arg| (*arg).to_owned()).collect();
        shell_in(line[0], &args).is_some()
    }

    #[test]
    fn texts_for_a_shell_are_seen() {
        for line in [
            ["sh", "-c", "true"].as_slice(),
            &["/bin/bash", "-lc", "true"],
            &["bash", "--norc", "-e", "-c", "true"],
            &["bash", "-o", "pipefail", "-c", "true"],
            &["zsh", "-ec", "x"],
            &["fish", "--command=x"],
            &["env", "A=b", "sh", "-c", "x"],
            &["env", "-S", "sh -c x"],
            &["env", "-Ssh -c x"],
            &["busybox", "sh", "-c", "x"],
            &["/usr/bin/timeout", "5", "/bin/sh", "-c", "x"],
            &["nice", "-n", "5", "env", "dash", "-c", "x"],
            &["su", "-", "anna", "-c", "x"],
            &["flock", "/tmp/lock", "-c", "x"],
            &["watch", "x"],
        ] {
            assert!(found(line), "{line:?}");
        }
    }

    #[test]
    fn programs_with_arguments_pass() {
        for line in [
            ["printf", "%s", "sh -c x"].as_slice(),
            &["bash", "job.sh", "-c", "x"],
            &["flock", "/tmp/lock", "printf", "x"],
            &["grep", "-r", "bash", "-c", "src"],
            &["env", "A=b", "printf", "-c"],
            &["timeout", "5", "pg_dump", "-c"],
            &["shellcheck", "-c"],
        ] {
            assert!(!found(line), "{line:?}");
        }
    }

    #[test]
    fn a_job_is_told_what_to_do_instead() {
        assert_eq!(shell_problem("shell", "{}").map(|(field, _)| field).as_deref(), Some("jobType"));
        let (field, message) = shell_problem("command", r#"{"command":"sh","args":["-c","x"]}"#).unwrap_or_default();
        assert!(field == "config.command" && message.contains("shell:run"), "{message}");
        for (job_type, config) in
            [("command", r#"{"command":"ls"}"#), ("command", "5"), ("http", "{}"), ("python", "{}")]
        {
            assert_eq!(shell_problem(job_type, config), None, "{config}");
        }
    }
}
