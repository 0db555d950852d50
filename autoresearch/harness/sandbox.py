"""What a candidate's process may reach: its tree, its scratch folder, the interpreter and toolchain; nothing else.

    missing     what this machine lacks for it, in words
    wanted      whether it is on: it is, unless AUTORESEARCH_SANDBOX=off
    describe    which walls stand, for the record
    walls       Linux: the paths and limits that `confine` enforces from inside the child
    profile     macOS: the same as a profile of sandbox-exec, which starts the child

docs/threat-model.md says what this stops and what it does not.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from autoresearch import paths
from autoresearch.errors import UserError
from autoresearch.harness import cgroup, landlock, seccomp
from autoresearch.harness.confine import Walls
from backends import host

SWITCH = "AUTORESEARCH_SANDBOX"
# Loader, libraries, compilers with headers, CUDA, and how Nix and Guix lay them out.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/opt", "/nix/store", "/gnu/store",
          "/run/opengl-driver")
# What loader, C library and frameworks look up, found by tracing imports and compilations.
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
                "/etc/alternatives", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
                "/proc/filesystems", "/proc/self", "/proc/modules", "/proc/devices", "/proc/driver/nvidia",
                "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/max_map_count", "/proc/sys/vm/mmap_min_addr",
                "/proc/sys/kernel/osrelease", "/sys/devices/system/cpu", "/sys/devices/system/node",
                "/sys/kernel/mm/transparent_hugepage", "/sys/bus/pci/devices", "/sys/module/nvidia",
                "/sys/module/nvidia_uvm", "/dev/urandom", "/dev/random", "/dev/zero")
CARDS, WSL_CARD = "/dev/nvidia*", "/dev/dxg"
DEVICES = ("/dev/null", WSL_CARD, "/dev/kfd", "/dev/dri")
NEEDED = ("/usr/bin", "/usr/lib", "/usr/include", "/System", "/Library/Developer")  # of these, nothing can be left out
HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE")  # environment variables that say where the Hugging Face hub keeps its files
MOST_BESIDE = 1000  # each is named on a command line; so many lie among documents, not among what a candidate needs
NAMED_FOLDERS = ("CUDA_HOME", "LD_LIBRARY_PATH")  # environment variables that the toolchain is found by
# macOS: frameworks, Xcode or its command-line tools, Homebrew, time zones, and what Metal and its compiler talk to.
MAC_SYSTEM = ("/System", "/usr", "/bin", "/sbin", "/Library/Apple", "/Library/Developer", "/Library/Frameworks",
              "/Applications/Xcode.app", "/opt", "/private/var/db/timezone", "/private/var/db/dyld",
              "/private/etc/localtime", "/private/var/select")
METAL_CLIENTS = ("AGXDeviceUserClient", "AGXCommandQueue", "AGXDevice", "AGXSharedUserClient", "IOAccelContext",
                 "IOAccelDevice", "IOAccelSharedUserClient", "IOAccelSubmitter2", "IOSurfaceRootUserClient",
                 "IOSurfaceAcceleratorClient")
METAL_SERVICES = ("com.apple.MTLCompilerService", "com.apple.gpumemd.source", "com.apple.cvmsServ",
                  "com.apple.system.opendirectoryd.libinfo", "com.apple.system.logger",
                  "com.apple.system.notification_center")
OPEN_FILES, GIB = 4096, 1 << 30


def wanted() -> bool:
    return os.environ.get(SWITCH, "").lower() not in ("off", "0", "no", "false")


@cache
def missing() -> str:
    """What the sandbox can't do here, in words; empty where it is complete."""
    if sys.platform == "darwin":
        return "" if shutil.which("sandbox-exec") else "this Mac has no sandbox-exec"
    if sys.platform != "linux":
        return f"there is no sandbox for {sys.platform}"
    lacking = [] if landlock.version() else ["Landlock, which keeps a process to its own files (Linux 5.13 or newer, "
                                             "switched on, and not forbidden by a container)"]
    if not seccomp.available():
        lacking.append("seccomp filters, which refuse system calls such as those for the network"
                       if platform.machine() in seccomp.ARCHITECTURES else
                       f"a table of system calls for {platform.machine()}")
    return "this system lacks " + " and ".join(lacking) if lacking else ""


def require() -> bool:
    """Whether candidates run in the sandbox. Raises UserError where it is wanted and can't be had."""
    if not wanted():
        return False
    if lacking := missing():
        raise UserError(f"no sandbox: {lacking}",
                        "Without it a candidate's code can read, change and send whatever you can. To run code that "
                        f"you would run yourself,\nadd --no-sandbox (or set {SWITCH}=off).")
    return True


def describe() -> str:
    """For the record of a trial."""
    if not wanted():
        return "off"
    return "sandbox-exec" if sys.platform == "darwin" else f"landlock {landlock.version()}, seccomp"


def walls(read: Iterable[Path], scratch: Path) -> Walls:
    """For a process with these inputs beside the toolchain, and one folder to write to."""
    _make_card_node()
    return Walls(version=landlock.version(), read=[*map(str, read), *SYSTEM_FILES], run=_apart(SYSTEM),
                 write=[str(scratch)], devices=[*DEVICES, *glob.glob(CARDS)], limits=limits(scratch))


def wrapper(read: Iterable[Path], scratch: Path) -> list[str]:
    """What a command line begins with on macOS."""
    return ["sandbox-exec", "-p", profile([*map(str, read), *_apart(MAC_SYSTEM)], [str(scratch)])]


def profile(read: Iterable[str], write: Iterable[str]) -> str:
    """In the language of sandbox-exec."""
    readable, writable = below(read), below(write)
    return "\n".join([
        "(version 1)", "(deny default)", "(allow process-fork)", f"(allow process-exec {readable})",
        "(allow signal (target same-sandbox))", "(allow process-info* (target same-sandbox))", "(allow sysctl-read)",
        "(allow file-read-metadata)", f"(allow file-read* {readable} {writable})",
        f"(allow file-map-executable {readable} {writable})",  # libraries, and those that torch compiles
        f"(allow file-write* {writable})",
        '(allow file-read* file-write-data (literal "/dev/null") (literal "/dev/zero"))',
        '(allow file-read* (literal "/") (literal "/dev/urandom") (literal "/dev/random"))',
        "(allow iokit-get-properties)", f"(allow iokit-open {_all('iokit-user-client-class', METAL_CLIENTS)})",
        f"(allow mach-lookup {_all('global-name', METAL_SERVICES)} {_all('xpc-service-name', METAL_SERVICES)})", ""])


def below(folders: Iterable[str]) -> str:
    """How sandbox-exec names folders with all in them. Resolved: the kernel compares what links lead to."""
    real = dict.fromkeys(os.path.realpath(folder) for folder in folders)
    return " ".join('(subpath "{}")'.format(p.replace("\\", "\\\\").replace('"', '\\"')) for p in real)


def toolchain() -> list[str]:
    """Folders of this interpreter and its packages, and those that the environment names. Never the person's home."""
    named = [p for name in NAMED_FOLDERS for p in os.environ.get(name, "").split(os.pathsep) if p]
    compilers = [str(Path(found).resolve().parent) for name in ("CC", "CXX")
                 if (found := shutil.which(os.environ.get(name, "")))]
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sysconfig.get_paths().values()}
    return sorted(p for p in {*folders, *named, *compilers} if os.path.isabs(p) and not _holds_home(Path(p)))


def _apart(system: Iterable[str]) -> list[str]:
    """These folders and the toolchain's; where one holds the person's home, cache or clone, the hub's cache or what a
    text was prepared from, what lies beside that instead: a clone below /opt must not show its studies, nor a cache
    there the text that scores."""
    from autoresearch.data import prepared

    texts = [p.resolve() for p in (*prepared.sources(), *(Path(os.environ[n]) for n in HUB_FOLDERS if n in os.environ))]
    texts = [p for p in texts if not is_toolchain(p)]
    private = [Path.home().resolve(), paths.cache().resolve(), *texts]
    with contextlib.suppress(UserError):
        private.append(paths.clone().resolve())
    folders = [f for f in system if not any(Path(f).resolve().is_relative_to(text) for text in texts)]
    return [str(p) for folder in (*folders, *toolchain()) for p in beside(Path(folder), private)]


def is_toolchain(path: Path) -> bool:
    """Whether what a candidate runs with lies around this or below it, so that it can't be kept apart."""
    library = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    needed = [Path(p) for p in NEEDED if os.path.exists(p)]
    return any(path.is_relative_to(p) for p in (*library, *needed)) or any(p.is_relative_to(path) for p in needed)


def beside(folder: Path, private: Sequence[Path]) -> list[Path]:
    """The folder, or where it is above a private one, all in it that is not."""
    real = folder.resolve()
    if not any(real in p.parents for p in private):
        return [folder]
    try:
        children = sorted(real.iterdir())
    except PermissionError:
        return []
    if len(children) > MOST_BESIDE:
        return []
    return [q for child in children if not any(child.resolve().is_relative_to(p) for p in private)
            for q in beside(child, private)]


def _make_card_node() -> None:
    """CUDA makes its device node by a program that runs as root, which behind the walls none can."""
    if os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/nvidia-uvm") \
            and (maker := shutil.which("nvidia-modprobe")):
        subprocess.run([maker, "-u", "-c", "0"], check=False, stdin=subprocess.DEVNULL, capture_output=True)


def limits(scratch: Path) -> dict[str, int]:
    """Those that the kernel holds one process to. `watch` holds all of a trial's processes to them together."""
    bounds = {"CORE": 0, "NOFILE": OPEN_FILES, "FSIZE": disk_bytes(scratch)}
    if not glob.glob(CARDS) and not os.path.exists(WSL_CARD):  # CUDA's drivers map far more than they use
        bounds["DATA"] = memory_bytes()
    return bounds


def memory_bytes() -> int:
    """What this machine, or the container around us, has."""
    physical, allowed = host.memory_bytes(), cgroup.memory_bytes()
    return physical if allowed is None else min(physical, allowed)


def disk_bytes(folder: Path) -> int:
    """What a trial may write in all: half of what is free, and no more than 32 GiB."""
    return min(32 * GIB, shutil.disk_usage(folder).free // 2)


def _holds_home(folder: Path) -> bool:
    return Path.home().resolve().is_relative_to(folder.resolve())


def _all(what: str, names: Iterable[str]) -> str:
    return " ".join(f'({what} "{name}")' for name in names)
