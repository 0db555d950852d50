"""seccomp: the Linux kernel refuses system calls by their number and arguments. Needs no root.

    REFUSED, ONLY_IF, NEVER_IF   what is refused, and why
    program                      the same as BPF instructions, which the kernel runs at every call
    install                      from here on, for ever, for this process, its threads and all it starts

Paths are behind pointers, which a filter can't follow: files are Landlock's part. What is younger than this table does
not exist for a candidate (ENOSYS), so a new kernel opens no hole and libraries fall back to what they used before.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

from autoresearch.harness import landlock

# name: (x86-64, arm64); -1: that architecture never had it
NUMBERS = {
    name: (int(x86), int(arm)) for name, x86, arm in (entry.replace("=", "/").split("/") for entry in """
    socket=41/198 connect=42/203 bind=49/200 listen=50/201 accept=43/202 accept4=288/242 socketpair=53/199 sendto=44/206
    ptrace=101/117 process_vm_readv=310/270 process_vm_writev=311/271 process_madvise=440/440 process_mrelease=448/448
    pidfd_open=434/434 pidfd_getfd=438/438 pidfd_send_signal=424/424 kcmp=312/272 migrate_pages=256/238
    move_pages=279/239 kill=62/129 tkill=200/130 tgkill=234/131 rt_sigqueueinfo=129/138 rt_tgsigqueueinfo=297/240
    setsid=112/157 setpgid=109/154 setns=308/268 unshare=272/97 clone=56/220 clone3=435/435 prctl=157/167
    prlimit64=302/261 sched_setaffinity=203/122 sched_setscheduler=144/119 sched_setparam=142/118 sched_setattr=314/274
    setpriority=141/140 ioprio_set=251/30 fcntl=72/25 ioctl=16/29
    mount=165/40 umount2=166/39 pivot_root=155/41 chroot=161/51 move_mount=429/429 open_tree=428/428 fsopen=430/430
    fsconfig=431/431 fsmount=432/432 fspick=433/433 mount_setattr=442/442 swapon=167/224 swapoff=168/225
    quotactl=179/60 quotactl_fd=443/443
    bpf=321/280 perf_event_open=298/241 userfaultfd=323/282 io_uring_setup=425/425 io_uring_enter=426/426
    io_uring_register=427/427 add_key=248/217 request_key=249/218 keyctl=250/219
    kexec_load=246/104 kexec_file_load=320/294 init_module=175/105 finit_module=313/273 delete_module=176/106
    reboot=169/142 syslog=103/116 acct=163/89 iopl=172/-1 ioperm=173/-1 modify_ldt=154/-1 lookup_dcookie=212/18
    vhangup=153/58 nfsservctl=180/42 personality=135/92 uselib=134/-1 _sysctl=156/-1
    settimeofday=164/170 clock_settime=227/112 clock_adjtime=305/266 adjtimex=159/171 sethostname=170/161
    setdomainname=171/162
    open_by_handle_at=304/265 name_to_handle_at=303/264 fanotify_init=300/262 fanotify_mark=301/263
    inotify_init=253/-1 inotify_init1=294/26 inotify_add_watch=254/27
    shmget=29/194 shmat=30/196 shmctl=31/195 msgget=68/186 msgsnd=69/189 msgrcv=70/188 msgctl=71/187
    semget=64/190 semop=65/193 semtimedop=220/192 semctl=66/191 mq_open=240/180 mq_unlink=241/181
    chmod=90/-1 fchmod=91/52 fchmodat=268/53 fchmodat2=452/452
    utime=132/-1 utimes=235/-1 futimesat=261/-1 utimensat=280/88
    chown=92/-1 fchown=93/55 lchown=94/-1 fchownat=260/54
    setxattr=188/5 lsetxattr=189/6 fsetxattr=190/7 removexattr=197/14 lremovexattr=198/15 fremovexattr=199/16
    truncate=76/45 open=2/-1 openat=257/56 openat2=437/437 creat=85/-1 seccomp=317/277""".split())
}
NEWEST = 462  # mseal, Linux 6.10: what the table was last read against
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
X32 = 0x40000000  # x86-64 kernels know every call by a second number, with this bit

REFUSED = {
    "the network": "socket connect bind listen accept accept4",
    "other processes": "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open "
                       "pidfd_getfd pidfd_send_signal kcmp migrate_pages move_pages",
    "leaving the process group that the supervisor ends": "setsid setpgid",
    "namespaces and mounts": "setns unshare mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig "
                             "fsmount fspick mount_setattr swapon swapoff quotactl quotactl_fd",
    "large and often broken parts of the kernel": "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter "
                                                  "io_uring_register add_key request_key keyctl",
    "the machine": "kexec_load kexec_file_load init_module finit_module delete_module reboot syslog acct iopl ioperm "
                   "modify_ldt lookup_dcookie vhangup nfsservctl personality uselib _sysctl settimeofday "
                   "clock_settime clock_adjtime adjtimex sethostname setdomainname",
    "files past Landlock": "open_by_handle_at name_to_handle_at fanotify_init fanotify_mark inotify_init "
                           "inotify_init1 inotify_add_watch chown fchown lchown fchownat setxattr lsetxattr fsetxattr "
                           "removexattr lremovexattr fremovexattr",
    "memory that outlives a process, by which one trial could speak to the next":
        "shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semtimedop semctl mq_open mq_unlink",
}
# Landlock does not guard them; linkers and copying set them on their own files. So: done for the caller, not in fact.
IGNORED = "chmod fchmod fchmodat fchmodat2 utime utimes futimesat utimensat"
# Their flags are behind a pointer; the C library falls back to the elder call, whose flags are not.
UNKNOWN = "clone3"

INT = 0xFFFFFFFF
POINTER = 0xFFFFFFFFFFFFFFFF
NEW_NAMESPACES = 0x7E020000
PR_SET_PDEATHSIG, F_SETOWN, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP, TIOCSTI = 1, 8, 15, 0x8901, 0x8902, 0x5412
AF_UNIX, SOCK_TYPE, SOCK_STREAM, IOPRIO_WHO_PROCESS = 1, 0xF, 1, 1


@dataclass(frozen=True)
class Where:
    """The argument of that index, under a mask, has that value."""

    index: int
    value: int
    mask: int = INT


# Let through only where all of these hold.
ONLY_IF = {
    "socketpair": (Where(0, AF_UNIX), Where(1, SOCK_STREAM, SOCK_TYPE)),  # datagrams could be addressed elsewhere
    "sendto": (Where(4, 0, POINTER),),
    "clone": (Where(0, 0, NEW_NAMESPACES),),
    "prlimit64": (Where(0, 0),), "sched_setaffinity": (Where(0, 0),), "sched_setscheduler": (Where(0, 0),),
    "sched_setparam": (Where(0, 0),), "sched_setattr": (Where(0, 0),),
    "setpriority": (Where(0, 0), Where(1, 0)), "ioprio_set": (Where(0, IOPRIO_WHO_PROCESS), Where(1, 0)),
}
# Refused where it holds. A file's owner gets signals of its choice.
NEVER_IF = {
    "prctl": [Where(0, PR_SET_PDEATHSIG)],
    "fcntl": [Where(1, F_SETOWN), Where(1, F_SETOWN_EX)],
    "ioctl": [Where(1, FIOSETOWN), Where(1, SIOCSPGRP), Where(1, TIOCSTI)],
}
TRUNCATING = (os.O_ACCMODE | os.O_TRUNC, os.O_TRUNC)  # mask and value of a truncation that asks for no right to write

LOAD, MASK, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
SET_MODE_FILTER, TSYNC, SPEC_ALLOW = 1, 1, 4
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def available() -> bool:
    """Whether this kernel filters and this table knows its numbers."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return False
    action = ctypes.c_uint32(ERRNO)
    number = NUMBERS["seccomp"][ARCHITECTURES[platform.machine()][0]]
    return ctypes.CDLL(None).syscall(number, 2, 0, ctypes.byref(action)) == 0  # SECCOMP_GET_ACTION_AVAIL


def program(machine: str, version: int, pid: int) -> list[Instruction]:
    """For an architecture, a Landlock `version` whose gaps are filled here, and the process that installs it."""
    column, architecture = ARCHITECTURES[machine]
    refuse = ERRNO | errno.EPERM
    code: list[Instruction] = [(LOAD, 0, 0, ARCH_AT), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL),
                               (LOAD, 0, 0, NUMBER_AT), (AT_LEAST, 0, 1, NEWEST + 1),
                               (RETURN, 0, 0, ERRNO | errno.ENOSYS)]  # X32 numbers are above it too
    only_if, never_if, refused, unknown = _for(version, pid)
    for names, action in ((refused, refuse), (IGNORED.split(), ERRNO), (unknown, ERRNO | errno.ENOSYS)):
        for name in names:
            if (number := NUMBERS[name][column]) >= 0:
                code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, action)]
    for name, conditions in only_if.items():
        code += _call(NUMBERS[name][column], [conditions], ALLOW, refuse)
    for name, cases in never_if.items():
        code += _call(NUMBERS[name][column], [(case,) for case in cases], refuse, ALLOW)
    return [*code, (RETURN, 0, 0, ALLOW)]


def install(version: int) -> None:
    """Raises OSError. The process can gain no privileges afterwards, by setuid programs for instance."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = program(platform.machine(), version, os.getpid())
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in instructions))
    whole = struct.pack("@HP", len(instructions), ctypes.addressof(packed))
    number = NUMBERS["seccomp"][ARCHITECTURES[platform.machine()][0]]
    # For all threads. Kernels before 5.16 would else slow the process down against attacks that cross its own threads.
    if libc.syscall(number, SET_MODE_FILTER, TSYNC | SPEC_ALLOW, whole) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def _for(version: int, pid: int) -> tuple[dict[str, tuple[Where, ...]], dict[str, list[Where]], list[str], list[str]]:
    """(only_if, never_if, refused, unknown), with what an elder Landlock leaves open."""
    only_if, never_if = dict(ONLY_IF), dict(NEVER_IF)
    refused, unknown = " ".join(REFUSED.values()).split(), UNKNOWN.split()
    if version < landlock.SIGNALS_SINCE:  # to oneself only: a filter does not know one's children
        only_if |= {name: (Where(0, pid),) for name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo",
                                                        "rt_tgsigqueueinfo")}
    if version < landlock.TRUNCATE_SINCE:
        mask, value = TRUNCATING
        never_if |= {"open": [Where(1, value, mask)], "openat": [Where(2, value, mask)]}
        refused, unknown = [*refused, "truncate"], [*unknown, "openat2"]
    return only_if, never_if, refused, unknown


def _call(number: int, cases: list[tuple[Where, ...]], then: int, otherwise: int) -> list[Instruction]:
    """For this call: `then` where all conditions of any case hold, else `otherwise`. Nothing where it doesn't exist."""
    if number < 0:
        return []
    body: list[Instruction] = []
    for conditions in cases:
        tests = [i for condition in conditions for i in _test(condition)]
        ends = len(tests)
        body += [(c, 0, ends - at, k) if c == EQUAL else (c, 0, 0, k) for at, (c, k) in enumerate(tests)]
        body += [(RETURN, 0, 0, then)]
    body += [(RETURN, 0, 0, otherwise)]
    return [(EQUAL, 0, len(body), number), *body]


def _test(condition: Where) -> list[tuple[int, int]]:
    """Load a half of the argument, mask it, compare; both halves where the mask has both. Little-endian."""
    code: list[tuple[int, int]] = []
    for half in (0, 32):
        if mask := condition.mask >> half & INT:
            code += [(LOAD, ARGUMENTS_AT + 8 * condition.index + half // 8), (MASK, mask),
                     (EQUAL, condition.value >> half & INT)]
    return code
