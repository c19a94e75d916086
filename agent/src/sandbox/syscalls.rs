//! What contained processes may not ask of the kernel: a list in the spirit of those of container runtimes. What is not on it is allowed, since
//! jobs run any program; what is on it is of use to who wants out of a sandbox, or reaches what other processes have.

use std::collections::BTreeMap;

use orrery_sdk::config::SandboxLevel;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Refused with EPERM, whatever their arguments.
const DENIED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_reboot,
    libc::SYS_vhangup,
    // Keys of the kernel, which belong to users and not to processes.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // What is the whole host's.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[libc::SYS_kexec_file_load];

/// Objects that outlive the process that makes them, and have names that others see. A container has a space of its own for them.
const SHARED_OBJECTS: &[i64] = &[libc::SYS_shmget, libc::SYS_msgget, libc::SYS_semget, libc::SYS_mq_open];

/// CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET.
const NEW_NAMESPACES: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// TIOCSTI and TIOCLINUX: they type into a terminal that the agent may have been started from.
const TERMINAL_INPUT: [u64; 2] = [0x5412, 0x541c];

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, which looking up names needs. Others reach the hypervisor, devices or seldom tried code.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filters of a level, to be installed all of them.
///
/// # Errors
/// On a processor that there are no filters for.
pub(super) fn filters(level: SandboxLevel, network: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(DENIED.iter().chain(DENIED_HERE).map(|number| (*number, Vec::new())));
    if level < SandboxLevel::Container {
        rules.extend(SHARED_OBJECTS.iter().map(|number| (*number, Vec::new())));
    }
    let flag = |flag| rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)]);
    rules.insert(libc::SYS_clone, NEW_NAMESPACES.into_iter().map(flag).collect::<Result<_, _>>()?);
    let request = |request| rule(&[(1, SeccompCmpOp::Eq, request)]);
    rules.insert(libc::SYS_ioctl, TERMINAL_INPUT.into_iter().map(request).collect::<Result<_, _>>()?);
    // Without a network no socket at all, since any service of the host that listens on a path would be a way out. Pairs are still made.
    let sockets = match (level, network) {
        (SandboxLevel::Process, false) => Vec::new(),
        _ => vec![rule(&FAMILIES.map(|family| (0, SeccompCmpOp::Ne, family)))?],
    };
    rules.insert(libc::SYS_socket, sockets);
    // Its flags are in memory, where no filter sees them. Libraries take clone instead where it is unknown.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut filters = vec![compiled(rules, EPERM)?, compiled(unseen, ENOSYS)?];
    if cfg!(target_arch = "x86_64") {
        filters.push(without_x32());
    }
    Ok(filters)
}

/// A rule that holds where all conditions do, each of an argument's lower half.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> Result<BpfProgram, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?.try_into()
}

/// The same calls have other numbers in the x32 interface, under the same architecture: none of them is there. See seccomp(2), "Caveats".
fn without_x32() -> BpfProgram {
    let instruction = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    vec![
        // The call's number; past the next instruction unless it is 0x40000000 at least.
        instruction(0x20, 0, 0),
        instruction(0x35, 1, 0x4000_0000),
        instruction(0x06, 0, 0x0005_0000 | ENOSYS),
        instruction(0x06, 0, 0x7fff_0000),
    ]
}

/// A filter in the form that the kernel, and bubblewrap, read.
pub(super) fn bytes(filter: &BpfProgram) -> Vec<u8> {
    filter
        .iter()
        .flat_map(|one| {
            let (code, k) = (one.code.to_ne_bytes(), one.k.to_ne_bytes());
            [code[0], code[1], one.jt, one.jf, k[0], k[1], k[2], k[3]]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_made_and_no_number_stands_twice() {
        let mut all: Vec<i64> = DENIED.iter().chain(DENIED_HERE).chain(SHARED_OBJECTS).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for level in [SandboxLevel::Process, SandboxLevel::Container] {
            for network in [true, false] {
                let filters = filters(level, network).expect("filters");
                assert!(filters.len() >= 2);
                assert!(filters.iter().all(|filter| !filter.is_empty() && bytes(filter).len() == filter.len() * 8));
            }
        }
    }
}
