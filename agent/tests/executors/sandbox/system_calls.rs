use serde_json::json;

use super::{has, python, stdout};
use crate::support::supervised;

/// Makes each call as one would who wants out, and prints the name and the error of each.
const CALLS: &str = r#"
import ctypes, errno, platform, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments])
    return "done" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")

NEW_USER, NEW_NET = 0x10000000, 0x40000000
calls = {
    "ptrace": (101, 0), "process_vm_readv": (310, 1), "process_vm_writev": (311, 1), "mount": (165,), "umount2": (166,),
    "pivot_root": (155,), "chroot": (161,), "unshare user": (272, NEW_USER), "unshare net": (272, NEW_NET), "setns": (308,),
    "bpf": (321, 0), "keyctl": (250, 0), "add_key": (248,), "perf_event_open": (298,), "io_uring_setup": (425, 8),
    "userfaultfd": (323,), "kexec_load": (246,), "init_module": (175,), "finit_module": (313,), "delete_module": (176,),
    "open_by_handle_at": (304,), "move_mount": (429,), "fsopen": (430,), "mount_setattr": (442,), "swapon": (167,),
    "reboot": (169, 0), "settimeofday": (164,), "sethostname": (170,), "iopl": (172, 3), "syslog": (103, 3), "pidfd_getfd": (438,),
    "clone user": (56, NEW_USER | 17), "TIOCSTI": (16, 0, 0x5412), "TIOCSTI, high bits": (16, 0, 0x5412 | 1 << 40),
    "socket vsock": (41, 40, 1), "socket alg": (41, 38, 5), "socket packet": (41, 17, 3),
} if x86 else {}
if sys.argv[1] == "none":
    # Those that do nothing to the host.
    calls = {name: calls[name] for name in calls if name in ("ptrace", "process_vm_readv", "io_uring_setup", "unshare user", "bpf")}
for name, arguments in calls.items():
    print(name, call(*arguments), sep="=")
if x86:
    print("clone3", call(435, 0, 0), sep="=")
    print("x32", call(0x40000000 | 39), sep="=")
    if sys.argv[1] == "process":
        print("shmget", call(29, 0, 4096, 0o1000), sep="=")
print("getpid", call(39 if x86 else 172), sep="=")
"#;

#[tokio::test]
async fn calls_that_lead_out_are_refused() {
    let settings = supervised();
    for level in ["process", "container"] {
        if !has(&settings, "system calls", json!({"level": level})).await {
            continue;
        }
        let text = stdout(&python(&settings, json!({"level": level}), CALLS, &[level]).await);
        let all: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
        assert!(cfg!(not(target_arch = "x86_64")) || all.len() >= 40, "{level}: {text}");
        for (name, errno) in all {
            let expected = match name {
                "getpid" => "done",
                // So that libraries take the call whose flags can be seen, and programs of another interface find none.
                "clone3" | "x32" => "ENOSYS",
                _ => "EPERM",
            };
            assert_eq!(errno, expected, "{level}: {name}");
        }
    }
    // EPERM is not just what anybody gets.
    let text = stdout(&python(&settings, json!({"level": "none"}), CALLS, &["none"]).await);
    assert!(text.lines().filter(|line| line.ends_with("=EPERM")).count() < 3, "{text}");
}

#[tokio::test]
async fn usual_programs_run() {
    let settings = supervised();
    let script = r#"
import concurrent.futures, json, os, socket, subprocess, tempfile, threading, zoneinfo
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda n: n * n, range(5))) == [0, 1, 4, 9, 16]
assert subprocess.run(["sh", "-c", "echo a | tr a b"], capture_output=True, text=True).stdout == "b\n"
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
left, right = socket.socketpair()
left.send(b"y"); assert right.recv(1) == b"y"
open("/dev/null", "w").write("z"); assert len(os.urandom(8)) == 8
assert open("/proc/meminfo").read() and open("/proc/self/status").read()
zoneinfo.ZoneInfo("UTC")
try:
    socket.getaddrinfo("localhost", 80)
except OSError:
    pass
print("fine")
"#;
    for level in ["process", "container"] {
        if has(&settings, "usual programs", json!({"level": level})).await {
            let outcome = python(&settings, json!({"level": level}), script, &[]).await;
            assert_eq!(stdout(&outcome), "fine\n", "{level}: {outcome:?}");
        }
    }
}
