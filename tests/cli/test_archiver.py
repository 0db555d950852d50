"""binutils' `ar` still works where ours comes first on PATH, and our own verbs stay ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoresearch.cli import VERBS, archiver

ROOT = Path(__file__).resolve().parents[2]
THEIRS = [
    "rcs lib.a x.o", "r lib.a x.o", "t lib.a", "-x lib.a", "x lib.a", "x", "cr lib.a x.o", "-crs lib.a", "qc lib.a x.o",
    "rcsTP lib.a x.o", "rcsD lib.a", "s lib.a", "-s lib.a", "d lib.a x.o", "p lib.a", "m lib.a", "rv lib.a",
    "-V", "V", "-h", "-M", "@args", "--plugin p.so rcs lib.a", "--target=elf64-x86-64 t lib.a",
    "--thin -rc lib.a x.o", "-c -r lib.a x.o", "--output=out x lib.a",
]
OURS = [
    "", "--help", "--version", "statu", "trial", "lop", "tran", "smaple", "prepar", "@", "--hlep", "-q-", "-",
    "loop --budget 30", "log 3", "try -m x", "probe", "bench",
]


@pytest.mark.parametrize("line", THEIRS)
def test_an_archiver_call_is_recognised(line: str) -> None:
    assert archiver.is_archiver_call(line.split(), VERBS)


@pytest.mark.parametrize("line", [*OURS, *VERBS])
def test_our_verbs_and_their_misspellings_are_not_archiver_calls(line: str) -> None:
    assert not archiver.is_archiver_call(line.split(), VERBS)


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)
    return path


def our_ar(folder: Path) -> Path:
    """An `ar` as an installed environment has it."""
    return write_script(folder / "ar", f"""\
        #!{sys.executable}
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from autoresearch.cli import main
        sys.exit(main())
        """)


def ours_on_disk(tmp_path: Path) -> list[Path]:
    """The wrapper, and the `ar` of the environment the tests run in where there is one."""
    installed = Path(sys.executable).with_name("ar")
    is_ours = installed.is_file() and b"autoresearch.cli" in installed.read_bytes()[:4096]
    return [our_ar(tmp_path / "ours"), *([installed] if is_ours else [])]


def shell(command: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}
    return subprocess.run(["sh", "-ec", command], cwd=cwd, env=environ, text=True, capture_output=True, timeout=60)


def write_library(folder: Path) -> None:
    folder.mkdir()
    (folder / "half.c").write_text("int half(int x) { return x / 2; }\n")
    (folder / "twice.c").write_text("int twice(int x) { return 2 * x; }\n")
    (folder / "main.c").write_text(
        '#include <stdio.h>\nint half(int), twice(int);\nint main(void) { printf("%d\\n", half(84) + twice(0)); }\n'
    )


def test_a_c_library_is_built_listed_extracted_and_linked(tmp_path: Path) -> None:
    for index, ours in enumerate(ours_on_disk(tmp_path)):
        build = tmp_path / f"build{index}"
        write_library(build)
        done = shell("""
            command -v ar
            cc -c half.c twice.c
            ar rcs libhalf.a half.o twice.o
            ar t libhalf.a
            rm half.o twice.o && ar -x libhalf.a && test -s half.o && test -s twice.o
            cc main.c -L. -lhalf -o main && ./main
        """, build, ours.parent)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(ours), "half.o", "twice.o", "42"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_builds_a_library_with_its_built_in_rules(tmp_path: Path) -> None:
    build = tmp_path / "build"
    write_library(build)
    (build / "Makefile").write_text("main: main.o libhalf.a\nlibhalf.a: libhalf.a(half.o twice.o)\n")
    done = shell("make && ./main", build, our_ar(tmp_path / "ours").parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "42"


def test_the_archivers_failure_is_its_own(tmp_path: Path) -> None:
    done = shell("ar t missing.a", tmp_path, our_ar(tmp_path / "ours").parent)
    assert done.returncode != 0
    assert "missing.a" in done.stderr
    assert "autoresearch" not in done.stderr


def test_without_another_ar_the_error_says_what_to_install(tmp_path: Path) -> None:
    ours = our_ar(tmp_path / "ours")
    done = subprocess.run([ours, "rcs", "lib.a"], env=os.environ | {"PATH": str(ours.parent)}, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "binutils" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_environments_and_shims_of_ours_are_passed_over(tmp_path: Path) -> None:
    first, second = our_ar(tmp_path / "first"), our_ar(tmp_path / "second")
    shim = write_script(tmp_path / "shim" / "ar", f'#!/bin/sh\nexec "{first}" "$@"\n')
    real = write_script(tmp_path / "real" / "ar", '#!/bin/sh\necho real "$@"\n')
    link = tmp_path / "link" / "ar"
    link.parent.mkdir()
    link.symlink_to(first)
    folders = [path.parent for path in (link, first, shim, second, real)]
    done = shell("ar rcs lib.a x.o", tmp_path, *folders)
    assert (done.returncode, done.stdout) == (0, "real rcs lib.a x.o\n"), done.stderr


def test_deciding_imports_nothing_heavy(tmp_path: Path) -> None:
    """With -X importtime the archiver's path shows every module Python loaded before the exec."""
    ours = our_ar(tmp_path / "ours")
    real = write_script(tmp_path / "real" / "ar", "#!/bin/sh\necho real\n")
    environ = os.environ | {"PATH": f"{ours.parent}{os.pathsep}{real.parent}"}
    done = subprocess.run([sys.executable, "-X", "importtime", ours, "t", "lib.a"], env=environ, text=True,
                          capture_output=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.stdout == "real\n"
    assert "autoresearch.cli.archiver" in loaded
    assert not loaded & {"click", "numpy", "autoresearch.cli.shell", "autoresearch.paths", "sqlite3", "json"}
