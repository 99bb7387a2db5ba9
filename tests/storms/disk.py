"""A small disk, which can be filled up and freed again.

Answers for: a file system in memory that only this process and its children see, so that it is gone with them; and,
where nobody may mount anything, a limit on the size of a process's files. Refuses to know: what is written there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import tempfile
from functools import cache
from pathlib import Path

_NEWNS, _REC, _PRIVATE, _DETACH = 0x20000, 0x4000, 1 << 18, 2  # of sched.h and mount.h

#: Bytes written at once to fill a disk up; then a smaller piece, until none fits.
_PIECES = 1 << 20, 4096, 1


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def may_mount() -> bool:
    """Whether small disks can be made here; it needs the rights of root. To be called before there are threads: what is
    mounted later is seen by nobody else, and by all whom this thread begets.
    """
    if not hasattr(_libc(), "unshare") or _libc().unshare(_NEWNS):
        return False
    return not _libc().mount(None, b"/", None, _REC | _PRIVATE, None)


class Disk:
    """A file system of so many megabytes, at a `folder` of its own that everybody may enter."""

    def __init__(self, megabytes: int) -> None:
        self.folder = folder = Path(tempfile.mkdtemp(prefix="hubbub-disk-"))
        self._filler = folder / "filler"
        options = f"size={megabytes}m,mode=755".encode()
        if _libc().mount(b"hubbub", str(folder).encode(), b"tmpfs", 0, options):
            raise OSError(ctypes.get_errno(), "a small disk cannot be mounted", str(folder))

    def fill(self) -> None:
        """Leave no room at all."""
        with self._filler.open("ab", buffering=0) as filler:
            for piece in _PIECES:
                with contextlib.suppress(OSError):
                    while filler.write(bytes(piece)) == piece:
                        pass

    def free(self) -> None:
        """There is room again."""
        self._filler.unlink()

    def close(self) -> None:
        """Nobody finds it any more; it goes with the last one who has something open there."""
        _libc().umount2(str(self.folder).encode(), _DETACH)
        self.folder.rmdir()


def limit_files(process: int, size: int = resource.RLIM_INFINITY) -> None:
    """No file of that process grows beyond `size` bytes."""
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


def largest_file(folder: Path) -> int:
    """Bytes."""
    return max(os.stat(file).st_size for file in folder.iterdir() if file.is_file())
