//! System calls, by seccomp: a list of those that neither a worker nor its compiler ever makes. Everything else is
//! allowed, so that a new version of the C library breaks nothing. The kernel keeps in a table which numbers are always
//! allowed (Linux 5.11), so a call that is not on the list costs nothing more; `clone`, `socket` and `prlimit64` are looked
//! into.
//!
//! Left allowed on purpose: `execve` (a worker starts its compiler; Landlock says which file), making memory executable
//! (what an engine does), and `seccomp` and Landlock themselves, which can only take more away.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

macro_rules! calls {
    ($($(#[$only:meta])? $call:ident),* $(,)?) => {
        &[$($(#[$only])? (stringify!($call), libc::$call)),*]
    };
}

/// Each is refused with `EPERM`.
const DENIED: &[(&str, i64)] = calls![
    // Other processes.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_pidfd_getfd,
    SYS_migrate_pages,
    SYS_move_pages,
    // File systems, and files by number instead of by name.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_swapon,
    SYS_swapoff,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_fanotify_init,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_acct,
    SYS_nfsservctl,
    // Modes, owners and attributes of files by name: Landlock does not look at these. By an open file they stay.
    SYS_fchmodat,
    SYS_fchownat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    SYS_chown,
    #[cfg(target_arch = "x86_64")]
    SYS_lchown,
    // What processes of one user share without a file.
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_semctl,
    SYS_mq_open,
    SYS_mq_unlink,
    // Namespaces.
    SYS_unshare,
    SYS_setns,
    // Parts of the kernel in which most ways into it were found.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_lookup_dcookie,
    SYS_personality,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    SYS_uselib,
    // The machine.
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
];

/// The same, of calls that are younger than the library with the numbers; from 424 on these are the same everywhere.
const YOUNG: &[(&str, i64)] = &[
    ("fchmodat2", 452),
    ("setxattrat", 463),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_setattr", 469),
];

/// More for a compiler, which has its input and its output; files also where there is no Landlock. `tgkill` stays:
/// `abort` ends the process with it.
const DENIED_TO_COMPILER: &[(&str, i64)] = calls![
    SYS_socket,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_execve,
    SYS_execveat,
    SYS_kill,
    SYS_tkill,
    SYS_openat,
    SYS_openat2,
    SYS_truncate,
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_creat,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    SYS_rename,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    SYS_link,
    #[cfg(target_arch = "x86_64")]
    SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    SYS_utime,
    #[cfg(target_arch = "x86_64")]
    SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    SYS_futimesat,
];

/// Its flags lie in memory, where no filter can look. The C library then takes `clone`, after this error and no other.
const UNKNOWN: &[(&str, i64)] = calls![SYS_clone3];

/// Flags of `clone` that make a namespace. That of time shares its bit with the signal at the end, and `clone` does not
/// know it.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Families of sockets that are left. Names of hosts are resolved with the help of the last.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Every system call that [`apply`](crate::apply) takes away whatever its arguments are, with its number on this
/// architecture; each then fails with `EPERM`.
pub fn denied_calls() -> impl Iterator<Item = (&'static str, i64)> {
    DENIED.iter().chain(YOUNG).map(|(name, number)| (name.trim_start_matches("SYS_"), *number))
}

/// Filters the calling thread's calls; the error is why they are not.
pub(crate) fn filter() -> Result<(), String> {
    install(&[DENIED, YOUNG].concat())
}

/// The same with what a compiler can do without.
pub(crate) fn filter_compiler() -> Result<(), String> {
    install(&[DENIED, YOUNG, DENIED_TO_COMPILER].concat())
}

fn install(denied: &[(&str, i64)]) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| format!("there is no list for {}", std::env::consts::ARCH))?;
    let build = |denied, error: i32| -> Result<BpfProgram, BackendError> {
        let action = SeccompAction::Errno(error.cast_unsigned());
        SeccompFilter::new(denied, SeccompAction::Allow, action, arch)?.try_into()
    };
    let rules = || -> Result<[BpfProgram; 2], BackendError> {
        let mut always = numbers(denied);
        always.extend(THIRD.filter(|_| X86).map(|number| (number | SECOND, Vec::new())));
        for (number, rules) in [
            (libc::SYS_clone, namespaces()?),
            (libc::SYS_socket, families()?),
            (libc::SYS_prlimit64, others()?),
        ] {
            for number in aliases(number) {
                // What is denied whatever its arguments are stays so.
                always.entry(number).or_insert_with(|| rules.clone());
            }
        }
        Ok([build(always, libc::EPERM)?, build(numbers(UNKNOWN), libc::ENOSYS)?])
    };
    for program in rules().map_err(|error| error.to_string())? {
        apply_filter(&program).map_err(|error| format!("the kernel refuses it: {error}"))?;
    }
    Ok(())
}

/// On x86-64 the kernel may know every call by a second number, and some by a third, of the same architecture.
const X86: bool = cfg!(target_arch = "x86_64");
const SECOND: i64 = 0x4000_0000;
const THIRD: std::ops::RangeInclusive<i64> = 512..=547;

fn aliases(number: i64) -> impl Iterator<Item = i64> {
    let second = X86.then_some(number | SECOND);
    std::iter::once(number).chain(second)
}

fn numbers(calls: &[(&str, i64)]) -> BTreeMap<i64, Vec<SeccompRule>> {
    let all = calls.iter().flat_map(|(_, number)| aliases(*number));
    all.map(|number| (number, Vec::new())).collect()
}

/// One rule for each: what one of them matches is denied.
fn namespaces() -> Result<Vec<SeccompRule>, BackendError> {
    NAMESPACES
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            let has = SeccompCmpOp::MaskedEq(flag);
            SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, has, flag)?])
        })
        .collect()
}

/// One rule: denied is what is none of them.
fn families() -> Result<Vec<SeccompRule>, BackendError> {
    let others = FAMILIES.iter().map(|family| {
        let family = u64::from(family.cast_unsigned());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    });
    Ok(vec![SeccompRule::new(others.collect::<Result<_, _>>()?)?])
}

/// Another process than this one, whose limits would end it.
fn others() -> Result<Vec<SeccompRule>, BackendError> {
    let another = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?;
    Ok(vec![SeccompRule::new(vec![another])?])
}
