"""What a candidate must not be able to do, each thing tried for real on decoys: the child's side of `selfcheck`.

An attempt returns where it succeeded and raises OSError where it was refused.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoresearch.harness import seccomp
from autoresearch.harness.channel import Channel

Decoys = dict[str, Any]
CLONE_NEWUSER, PTRACE_SEIZE, PR_SET_PDEATHSIG = 0x10000000, 0x4206, 1


def attempts(decoys: Decoys) -> dict[str, Callable[[], object]]:
    """`decoys` names files, ports and a process that the one who asks has put up."""
    d, secret, pid = decoys, decoys["secret"], decoys["pid"]
    return {
        "read a file elsewhere": lambda: Path(secret).read_bytes(),
        "list a folder elsewhere": lambda: os.listdir(os.path.dirname(secret)),
        "read a file elsewhere through a link": lambda: _through(os.symlink, secret),
        "read a file elsewhere by a second name": lambda: _through(os.link, secret),
        "read its supervisor's environment": lambda: _proc(os.getppid(), "environ"),
        "read its supervisor's command line": lambda: _proc(os.getppid(), "cmdline"),
        "read another process's open files": lambda: os.listdir(f"/proc/{pid}/fd"),
        "read another process's memory": lambda: _open_memory(pid),
        "write a file elsewhere": lambda: Path(d["elsewhere"], "new").write_text("x"),
        "change a file elsewhere": lambda: Path(secret).open("ab").close(),
        "empty a file elsewhere": lambda: os.truncate(d["truncated"], 0),
        "empty a file elsewhere by reading it": lambda: os.close(os.open(d["truncated"], os.O_RDONLY | os.O_TRUNC)),
        "delete a file elsewhere": lambda: os.unlink(d["deleted"]),
        "move a file out of its folder": lambda: _move_out(d["moved"]),
        "change who may read a file elsewhere": lambda: _chmod(d["modes"]),
        "change its own tree": lambda: Path(d["tree"], "autoresearch/harness/trial.py").open("ab").close(),
        "run a program of its own": lambda: _run_own(),
        "connect over IPv4": lambda: _connect(socket.AF_INET, ("127.0.0.1", d["ipv4"])),
        **({"connect over IPv6": lambda: _connect(socket.AF_INET6, ("::1", d["ipv6"]))} if "ipv6" in d else {}),
        "send a datagram": lambda: _datagram(("127.0.0.1", d["ipv4"])),
        "connect to a Unix socket": lambda: _connect(socket.AF_UNIX, d["unix"]),
        "redirect a pair of sockets to a Unix socket": lambda: _redirect(d["unix_datagram"]),
        "listen for connections": lambda: _listen(),
        "send a signal to another process": lambda: os.kill(pid, 0),
    }


def attempts_on_linux(decoys: Decoys) -> dict[str, Callable[[], object]]:
    pid = decoys["pid"]
    return {
        "connect to an abstract Unix socket": lambda: _connect(socket.AF_UNIX, decoys["abstract"]),
        "talk to the kernel over netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
        "trace another process": lambda: _call("ptrace", PTRACE_SEIZE, pid, 0, 0),
        "copy its supervisor's memory": lambda: _read_memory(os.getppid(), decoys["address"]),
        "take another process's descriptor": lambda: _take_descriptor(pid),
        "change another process's limits": lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)),
        "change another process's priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 5),
        "have a signal sent to another process": lambda: _own_signals(pid),
        "make a namespace": lambda: _forked(lambda: _call("unshare", CLONE_NEWUSER)),
        "set up io_uring": lambda: os.close(_call("io_uring_setup", 1, ctypes.create_string_buffer(120))),
        "make a key": lambda: _call("add_key", b"user", b"autoresearch", b"x", 1, -3),
        "leave shared memory behind": lambda: _call("shmctl", _call("shmget", 0, 4096, 0o1600), 0, 0),
        "watch a folder elsewhere": lambda: os.close(_call("inotify_init1", 0)),
        "leave its session": lambda: _new_session(),  # on a Mac nothing refuses it (docs/threat-model.md)
        "outlive its supervisor": lambda: _checked(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, 0)),
    }


def main(text: str) -> None:
    decoys: Decoys = json.loads(text)
    channel = Channel.inherit(decoys["control"])
    tried = attempts(decoys) | (attempts_on_linux(decoys) if decoys["linux"] else {})
    for name, attempt in tried.items():
        try:
            attempt()
            channel.send(event="tried", name=name, refused=False, how="it worked")
        except OSError as e:
            channel.send(event="tried", name=name, refused=True, how=str(e))
    channel.send(event="done")


def _proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _open_memory(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))


def _through(link: Callable[[str, str], None], path: str) -> bytes:
    own = link.__name__
    link(path, own)
    return Path(own).read_bytes()


def _move_out(to: str) -> None:
    Path("mine").write_text("x")
    os.rename("mine", to)


def _chmod(path: str) -> None:
    """A sandbox may let the call pass without effect."""
    before = os.stat(path).st_mode
    os.chmod(path, before ^ 0o044)
    if os.stat(path).st_mode == before:
        raise PermissionError(errno.EPERM, "nothing was changed")


def _run_own() -> None:
    shutil.copyfile("/bin/true" if os.path.exists("/bin/true") else "/usr/bin/true", "own")
    os.chmod("own", 0o755)
    subprocess.run(["./own"], check=True)


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.connect(address)


def _datagram(address: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", address)


def _redirect(path: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.connect(path)


def _listen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("127.0.0.1", 0))
        s.listen()


def _new_session() -> None:
    """In a child: whoever leads a group, as a trial does, can't leave it."""
    subprocess.run(["true"], start_new_session=True, check=True)


def _read_memory(pid: int, address: int) -> None:
    class Piece(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(8)
    ours, theirs = Piece(ctypes.addressof(buffer), 8), Piece(address, 8)
    _call("process_vm_readv", pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def _take_descriptor(pid: int) -> None:
    process = _call("pidfd_open", pid, 0)
    try:
        os.close(_call("pidfd_getfd", process, 0, 0))
    finally:
        os.close(process)


def _own_signals(pid: int) -> None:
    import fcntl

    with open(os.devnull, "rb") as f:
        fcntl.fcntl(f, fcntl.F_SETOWN, pid)


def _forked(attempt: Callable[[], object]) -> None:
    """In a child, which has one thread."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
            os._exit(0)
        except OSError as e:
            os._exit(e.errno or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def _call(name: str, *arguments: Any) -> int:
    column, _ = seccomp.ARCHITECTURES[os.uname().machine]
    return _checked(ctypes.CDLL(None, use_errno=True).syscall(seccomp.NUMBERS[name][column], *arguments))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
