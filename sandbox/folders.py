"""The folders of a session: one for each interpreter, copied when it forks.

A twin is parked after every step, and most steps write no file: as long as a folder has not changed since
it was last copied for a twin, the next twin shares that copy. Nobody runs in a twin, so nobody writes there.
"""

import contextlib
import os
import shutil
import stat
import time

SETTLED = 20_000_000  # nanoseconds


class Folders:
    """All folders below one root. Raises OSError when there is no room for a copy."""

    def __init__(self, root):
        self.root = root
        self.made = 0
        self.users = {}  # folder -> how many interpreters it belongs to
        self.copied = {}  # folder -> (what it looked like when it was copied, the copy)

    def new(self):
        self.made += 1
        folder = os.path.join(self.root, f"s{self.made}")
        os.mkdir(folder, 0o700)
        self.users[folder] = 1
        return folder

    def copy(self, source, shared=False):
        """A copy of a folder; `shared` if nothing will ever be written to it."""
        looks = listing(source) if shared else None
        before, copy = self.copied.get(source, (None, None))
        if shared and before == looks and copy in self.users:
            self.users[copy] += 1
            return copy
        folder = self.new()
        try:
            copy_tree(source, folder)
        except (OSError, RecursionError):
            self.release(folder)
            raise
        # Time stamps are coarse: a file written just now could be written again and look the same.
        if shared and max(entry[-1] for entry in looks) < time.time_ns() - SETTLED:
            self.copied[source] = (looks, folder)
        return folder

    def release(self, folder):
        self.users[folder] -= 1
        if not self.users[folder]:
            del self.users[folder]
            self.copied.pop(folder, None)
            remove_tree(folder)

    def clear(self):
        for folder in self.users:
            remove_tree(folder)


def listing(folder):
    """What tells whether a folder has changed. Code cannot set ctime; writes by mmap escape it, though."""
    found = []
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):
            status = os.lstat(path)
            found.append((path, status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns))
    return sorted(found)


def copy_tree(source, target):
    """Directories, regular files and symbolic links; anything else in the folder isn't copied."""
    with os.scandir(source) as entries:
        for entry in entries:
            path = os.path.join(target, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), path)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(path, 0o700)
                copy_tree(entry.path, path)
            elif entry.is_file(follow_symlinks=False):
                copy_file(entry.path, path)


def copy_file(source, target):
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as reader, open(target, "xb") as writer:
        status = os.fstat(reader.fileno())
        if not stat.S_ISREG(status.st_mode):
            return
        shutil.copyfileobj(reader, writer, 1 << 20)
        os.fchmod(writer.fileno(), stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove_tree(folder):
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
