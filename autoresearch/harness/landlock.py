"""Landlock: the Linux kernel keeps a process, and all it starts, to the files that it was given. Needs no root.

    version      what this kernel offers, 0 for nothing
    restrict     from here on, for ever, only these paths; no TCP, no signals to processes outside

https://docs.kernel.org/userspace-api/landlock.html; every version since the first (Linux 5.13) is used for what it has:
2 renames between folders, 3 truncation, 4 TCP, 5 ioctl on devices, 6 signals and abstract Unix sockets.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Mapping

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
VERSION_FLAG, PATH_BENEATH = 1, 1
SIGNALS_SINCE, TRUNCATE_SINCE = 6, 3

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << i for i in range(6))
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << i for i in (7, 8, 12, 13, 14, 15))
READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
DEVICE = READ | WRITE_FILE | TRUNCATE | IOCTL_DEV
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # what a rule about one file may grant
# Rights that can be withheld, by version; what is handled and not granted is refused.
HANDLED_FS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
HANDLED_NET = 0b11  # TCP: bind, connect
SCOPED = 0b11  # abstract Unix sockets, signals


def version() -> int:
    """0 where the kernel lacks Landlock, was started without it, or a container forbids it."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, 0, VERSION_FLAG))


def ruleset(version: int) -> bytes:
    """struct landlock_ruleset_attr, as long as that version knows it."""
    words = [HANDLED_FS[min(version, max(HANDLED_FS))]]
    words += [HANDLED_NET] if version >= 4 else []
    words += [SCOPED] if version >= SIGNALS_SINCE else []
    return struct.pack(f"={len(words)}Q", *words)


def restrict(granted: Mapping[str, int], version: int) -> None:
    """`granted` maps paths to rights; a path that does not exist grants nothing. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ruleset(version)
    handled = HANDLED_FS[min(version, max(HANDLED_FS))]
    rules = _checked(libc.syscall(CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, rights in granted.items():
            _grant(libc, rules, path, rights & handled)
        _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _grant(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            return
        raise
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_FILES
        _checked(libc.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", rights, fd), 0))
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
