"""The folders of a session: one for each interpreter, copied when it forks.

A twin is parked after every step, and most steps write no file: as long as a folder has not changed since
it was last copied for a twin, the next twin shares that copy. Nobody runs in a twin, so nobody writes there.
"""

import contextlib
import os
import stat
import time

COPIES = 4  # the folders of a session, its candidates and its twins share this many times `folder_mb`
MAX_FILES = 20_000  # in all of them: every one costs the kernel memory that no limit counts
SETTLED = 20_000_000  # nanoseconds
MAX_REMOVERS = 4  # at a time; what they remove is counted to nobody
ROUNDS = 100_000  # of removing one level of folders


class Folders:
    """All folders below one root. Raises OSError when there is no room for a copy."""

    def __init__(self, root, leaving=None):
        self.root = root
        self.leaving = leaving  # a folder for what is being removed, out of the interpreters' reach
        self.removers = set()  # processes of ours that remove a folder; whoever reaps them takes them out
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
            self.remove(folder)

    def remove(self, folder):
        """In the background if there is a place for that: on a disk thousands of files take seconds, and a
        step may be waiting."""
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # most are empty
            return
        if self.leaving is None or len(self.removers) >= MAX_REMOVERS:
            remove_tree(folder)
            return
        gone = os.path.join(self.leaving, os.path.basename(folder))
        try:
            os.rename(folder, gone)
        except OSError:  # code has removed it, or put something else in its place
            remove_tree(folder)
            return
        pid = os.fork()
        if pid == 0:
            os.closerange(2, 4096)  # the stream must end with the supervisor, not with us
            remove_tree(gone)
            os._exit(0)
        self.removers.add(pid)

    def clear(self):
        for folder in self.users:
            remove_tree(folder)
        if self.leaving is not None:
            remove_tree(self.leaving)


def listing(folder):
    """What tells whether a folder has changed. Code cannot set ctime; writes by mmap escape it, though."""
    found = []
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):
            status = os.lstat(path)
            found.append((path, status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns))
    return sorted(found)


def copy_tree(source, target):
    """Directories, regular files and symbolic links; anything else in the folder isn't copied.

    By descriptors, never by a path of two names: where the supervisor can see more than the interpreters do,
    one of them may swap a folder for a link to the host's while it is copied.
    """
    with directory(source) as theirs, directory(target) as ours:
        copy_entries(theirs, ours)


def copy_entries(source, target):
    with os.scandir(source) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_symlink():
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(name, 0o700, dir_fd=target)
                with directory(name, source) as theirs, directory(name, target) as ours:
                    copy_entries(theirs, ours)
            elif entry.is_file(follow_symlinks=False):
                copy_file(name, source, target)


@contextlib.contextmanager
def directory(name, within=None):
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
    try:
        yield fd
    finally:
        os.close(fd)


def copy_file(name, source, target):
    theirs = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    with open(theirs, "rb") as reader:
        status = os.fstat(theirs)
        if not stat.S_ISREG(status.st_mode):
            return
        ours = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
        with open(ours, "wb") as writer:
            while piece := reader.read(1 << 20):
                writer.write(piece)
            writer.flush()
            os.fchmod(ours, stat.S_IMODE(status.st_mode))
            os.utime(ours, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove_tree(folder):
    """Remove a folder, as far as that goes while others may write there.

    Code may have made folders that are closed to their owner, and nested them deeper than any path is long
    or any recursion goes: what lies in a folder is moved to the top before it is looked at.
    """
    with contextlib.suppress(OSError):
        with directory(folder) as top:
            for _ in range(ROUNDS):
                names = os.listdir(top)
                if not [name for name in names if flattened(name, top)]:
                    break
        os.rmdir(folder)


def flattened(name, top):
    """Remove a file, or a folder after moving what it holds to the top. False if that can't be done."""
    try:
        if gone(name, top):
            return True
        with directory(name, top) as inner:
            for below in os.listdir(inner):
                if not gone(below, inner):
                    os.rename(below, os.urandom(16).hex(), src_dir_fd=inner, dst_dir_fd=top)
        os.rmdir(name, dir_fd=top)
    except OSError:
        return False
    return True


def gone(name, within):
    """Remove a file; open a folder that is closed. By descriptor: it may be a link to the host's by now."""
    try:
        os.unlink(name, dir_fd=within)
        return True
    except IsADirectoryError:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
        try:
            if os.fstat(fd).st_mode & 0o700 != 0o700:
                os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)
        return False
