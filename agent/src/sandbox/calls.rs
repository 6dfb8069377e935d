//! Seccomp: which calls a process may still make (seccomp(2)).
//!
//! The worker has a list of what it may do, measured from what it does; another call ends it (`SIGSYS`): a decoder that does what no
//! decoder does must not go on with an error in its hands, and the applier sees that this happened. The other processes run code of the
//! C library that differs from one system to the next (names of users, of hosts), so they have a list of what they may *not* do, and hear
//! `EPERM`; under systemd their units add a list of what they may.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::chain::chain;

/// Programs that may still be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Programs {
    /// Landlock says which.
    Own,
    None,
}

/// Families of sockets.
pub(super) const LOCAL: [i32; 1] = [libc::AF_UNIX];
pub(super) const INTERNET: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// Modes that a file may get, exactly: nobody may write it ever again, and nobody runs it as its owner.
const FILE_MODES: [u64; 2] = [0o444, 0o555];
/// Bits that a folder may not get: set-uid, set-gid, sticky, writing by group and others.
const FOLDER_NEVER: u64 = 0o7022;
/// ioctl_ficlone(2), the same number on all architectures here.
const FICLONE: u64 = 0x4004_9409;
/// Bits of clone(2) that make namespaces: mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];

/// Not every C library's table has it for every architecture.
const KEXEC_FILE_LOAD: libc::c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// What unpacking takes, with what two C libraries and the kernel's interfaces of three architectures make of it.
const UNPACKING: &[libc::c_long] = &[
    // Files below the two folders it holds.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_unlinkat,
    // Its socket, and lines for the log.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_write,
    libc::SYS_writev,
    // Memory; pages to run code from are refused below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Locks without anybody to wait for, time, seeds of maps.
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // A panic, and the end.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What no process of a device has ever to do.
const NEVER: &[libc::c_long] = &[
    // Other processes: their memory, their descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
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
    // Wide doors of the kernel; io_uring would also pass by the filter of sockets.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// From here on only what unpacking takes; the process ends at any other call.
pub(super) fn only_unpacking() -> Result<(), String> {
    apply(unpacking_rules(), SeccompAction::KillProcess, SeccompAction::Allow)
}

/// From here on no sockets but those of `families`, and nothing of what nobody needs.
pub(super) fn refuse(families: &[i32], programs: Programs) -> Result<(), String> {
    // The flags of clone3(2) lie in memory, where no filter sees them: whoever asks for it falls back to clone(2).
    let mut clone3 = Rules::new();
    add(&mut clone3, libc::SYS_clone3, Vec::new());
    apply(Ok(clone3), SeccompAction::Allow, errno(libc::ENOSYS))?;
    apply(
        refused_rules(families, programs),
        SeccompAction::Allow,
        errno(libc::EPERM),
    )
}

fn unpacking_rules() -> Result<Rules, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut rules = Rules::new();
    for call in UNPACKING {
        rules.insert(*call, Vec::new());
    }
    let no_code = || when(2, MaskedEq(u64::from(libc::PROT_EXEC.unsigned_abs())), 0);
    rules.insert(libc::SYS_mmap, vec![no_code()?]);
    rules.insert(libc::SYS_mprotect, vec![no_code()?]);
    rules.insert(libc::SYS_mkdirat, vec![when(2, MaskedEq(FOLDER_NEVER), 0)?]);
    let modes = FILE_MODES.iter().map(|mode| when(1, Eq, *mode));
    rules.insert(libc::SYS_fchmod, modes.collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_ioctl, vec![when(1, Eq, FICLONE)?]);
    let looks = [libc::F_GETFD, libc::F_GETFL].map(|look| when(1, Eq, u64::from(look.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, looks.into_iter().collect::<Result<_, _>>()?);
    // A panic ends this very process; one C library says so by its thread, of which it has one.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![when(0, Eq, own)?]);
    rules.insert(libc::SYS_tkill, vec![when(0, Eq, own)?]);
    Ok(rules)
}

fn refused_rules(families: &[i32], programs: Programs) -> Result<Rules, seccompiler::Error> {
    let mut rules = Rules::new();
    for call in NEVER {
        add(&mut rules, *call, Vec::new());
    }
    if programs == Programs::None {
        for call in [libc::SYS_execve, libc::SYS_execveat] {
            add(&mut rules, call, Vec::new());
        }
    }
    let other = families
        .iter()
        .map(|family| is(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let other = SeccompRule::new(other.collect::<Result<_, _>>()?)?;
    add(&mut rules, libc::SYS_socket, vec![other]);
    let namespaces = NAMESPACES.iter().map(|bit| when(0, SeccompCmpOp::MaskedEq(*bit), *bit));
    add(&mut rules, libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    Ok(rules)
}

/// A call of a list of what is refused: under each number that it has.
fn add(rules: &mut Rules, call: libc::c_long, when: Vec<SeccompRule>) {
    // The same calls with 32-bit pointers ("x32"), where a kernel has them.
    #[cfg(target_arch = "x86_64")]
    rules.insert(call | 0x4000_0000, when.clone());
    rules.insert(call, when);
}

fn when(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(vec![is(argument, how, value)?])?)
}

/// The kernel looks at the low half of all arguments that are compared here.
fn is(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?)
}

fn errno(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno.unsigned_abs())
}

fn apply(
    rules: Result<Rules, seccompiler::Error>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), String> {
    let compiled = || -> Result<BpfProgram, seccompiler::Error> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        Ok(SeccompFilter::new(rules?, otherwise, matched, arch)?.try_into()?)
    };
    compiled()
        .and_then(|filter| apply_filter(&filter))
        .map_err(|e| format!("seccomp: {}", chain(&e)))
}
