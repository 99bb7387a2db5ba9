"""tests/storms/disk.py: full is full, and free again, and nobody else sees it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving import ROOT
from tests.storms.disk import largest_file, limit_files

#: What is mounted is seen by no other process, so it is done in one that ends.
SMALL = """
from tests.storms.disk import Disk, may_mount
if not may_mount():
    print("may not")
    raise SystemExit
disk = Disk(2)
there = disk.folder / "there"
there.write_bytes(bytes(5000))
disk.fill()
try:
    there.write_bytes(bytes(50_000))
except OSError as error:
    print(error.errno, disk.folder)
disk.free()
there.write_bytes(bytes(1_000_000))
print(there.stat().st_size)
if input() == "end":
    disk.close()
    print(disk.folder.exists())
"""

GROWS = """
import sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for _ in sys.stdin:
        try:
            print(file.write(bytes(10)), flush=True)
        except OSError as error:
            print(error.errno, flush=True)
"""


def test_a_small_disk_is_full_and_free_again() -> None:
    command = [sys.executable, "-c", SMALL]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = process.stdout.readline().split()
        if first == ["may", "not"]:
            pytest.skip("nobody but root can make a small disk")
        assert process.stdout.readline() == "1000000\n"
        assert first[0] == str(errno.ENOSPC)
        assert list(Path(first[1]).iterdir()) == []  # it is mounted for that process only
        assert process.communicate("end\n", timeout=20)[0] == "False\n"


def test_files_of_a_process_do_not_grow_beyond_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    command = [sys.executable, "-c", GROWS, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def grow() -> str:
            process.stdin.write("\n")  # type: ignore[union-attr]  # it was asked for
            return process.stdout.readline().strip()  # type: ignore[union-attr]  # it was asked for

        assert grow() == "10"
        limit_files(process.pid, largest_file(tmp_path))
        assert grow() == str(errno.EFBIG)
        limit_files(process.pid)
        assert grow() == "10"
        process.communicate()
