"""What Landlock and a second seccomp filter hold the interpreters of the landlock jail to.

`check` runs in the supervisor, which stays outside; `enter` in the first interpreter when it has one thread
and before any package is imported. It is done once a session: rules stack sixteen layers only.

Guaranteed from ABI 1 on: no file is opened but by a rule, none outside the session's folder changed, not
even its time stamps; no socket, no signal out. What newer kernels add (ABI 4 network, 5 devices, 6 signals)
the filter denies on older ones, too.
"""

import ctypes
import errno
import os
import resource
import struct
import sys

import confine

CREATE, ADD, RESTRICT = 444, 445, 446  # the calls' numbers, on every architecture
NEWEST = 7  # the ABI this was written for; a newer kernel is asked for no more than that

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_FIFO, MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
REFER, TRUNCATE = 1 << 13, 1 << 14
FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 6: 0xFFFF, 7: 0xFFFF}  # by ABI: all there are
TCP = 0b11  # bind and connect, ABI 4
SCOPES = 0b11  # abstract sockets and signals, ABI 6
NO_LOGS = 0b101  # a refusal is no news for the audit log, ABI 7
ONLY_FILES = (
    EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
)  # what a rule on something that is no folder may give

RIGHTS = {
    "list": READ_DIR,
    "read": READ_FILE | READ_DIR,
    "run": READ_FILE | EXECUTE,
    "device": READ_FILE | WRITE_FILE,
    "write": READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | REFER
    | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM,
}  # fmt: skip

INSTALLED = ("site-packages", "dist-packages")
SIGNALS = 128  # that may wait for a process; the kernel counts all of a user's together
NICE = 5  # the supervisor goes before a crowd of processes that want all of the processor
OWN_PROCESSES = 48  # of the session itself: twins, candidates, the first interpreter


def abi():
    """What the kernel knows of Landlock, 0 if nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


# ---------------------------------------------------------------------- in the supervisor


def check(config):
    """See that the session's user can reach what it needs: now there is still someone to tell."""
    for kind, path in config["rules"]:
        mode = os.W_OK if kind == "write" else os.R_OK
        if not os.access(path, mode, effective_ids=True):
            whose = f"user id {config['uid']}, which the session has," if config["uid"] else "the session"
            sys.exit(
                f"{whose} has no way to {os.path.realpath(path)}: open it and the folders above to others"
            )


# ---------------------------------------------------------------------- in the first interpreter


def enter(config, version=None):
    """Landlock and the second filter on this process, for good. `version`: act as on a kernel of that ABI."""
    version = min(version or abi(), NEWEST)
    os.nice(NICE)
    restrict(config["rules"], version)
    confine.install_filter(second_filter(signals=version >= 6 or config["uid"] is not None))
    confine.install_filter(confine.seccomp_filter((os.getppid(), os.getpid())))


def restrict(rules, version):
    """Files by rules; no TCP, no abstract socket, no signal out where the kernel can do that."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        result = libc.syscall(number, *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
        return result

    handled = FILES[version]
    # Fields an older kernel doesn't know may be there as long as they are zero.
    attributes = struct.pack("=QQQ", handled, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0)
    ruleset = call(CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for kind, path in expanded(rules):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = RIGHTS[kind] & handled
        if not os.path.isdir(path):
            rights &= ONLY_FILES
        rule = struct.pack("=Qi", rights, fd)
        call(ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        os.close(fd)
    call(RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(NO_LOGS if version >= 7 else 0))
    os.close(ruleset)


def expanded(rules):
    """Rules can only add, and the standard library's folder may hold site-packages: each entry but those."""
    for kind, path in rules:
        if kind != "modules":
            yield kind, path
            continue
        yield "list", path  # the import system reads the folder; that shows the names of installed packages
        for name in os.listdir(path):
            if name not in INSTALLED:
                yield "read", os.path.join(path, name)


# Landlock does not govern these, and an ordinary user may do them to his own files and processes.
# (x86_64, aarch64); None: the architecture lacks it.
METADATA = {
    "chmod": (90, None), "chown": (92, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54), "futimesat": (261, None),
    "lchown": (94, None), "utime": (132, None), "utimensat": (280, 88), "utimes": (235, None),
    "truncate": (76, 45),  # by path; Landlock governs it from ABI 3 on
}  # fmt: skip
ATTRIBUTES = {
    "fgetxattr": (193, 10), "flistxattr": (196, 13), "fremovexattr": (199, 16), "fsetxattr": (190, 7),
    "getxattr": (191, 8), "getxattrat": (464, 464), "lgetxattr": (192, 9), "listxattr": (194, 11),
    "listxattrat": (465, 465), "llistxattr": (195, 12), "lremovexattr": (198, 15), "lsetxattr": (189, 6),
    "removexattr": (197, 14), "removexattrat": (466, 466), "setxattr": (188, 5), "setxattrat": (463, 463),
}  # fmt: skip
OTHERS = {
    "inotify_add_watch": (254, 27), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "ioprio_set": (251, 30), "mq_unlink": (241, 181), "msgctl": (71, 187), "msgrcv": (70, 188),
    "msgsnd": (69, 189), "semctl": (66, 191), "semop": (65, 193), "semtimedop": (220, 192),
    "setpgid": (109, 154), "setpriority": (141, 140), "setsid": (112, 157), "shmctl": (31, 195),
    "sync": (162, 81), "syncfs": (306, 267),
}  # fmt: skip
OF_ONESELF = {
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
}  # fmt: skip
OPEN, OPENAT, OPENAT2 = (2, None), (257, 56), (437, 437)
PRCTL, SOCKETPAIR = (157, 167), (53, 199)
UNKNOWN = 468  # file_getattr, with file_setattr after it, and what is yet to come
O_TRUNC, ACCESS_MODE = 0o1000, 0o3
F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ = 1024, 1026, 1031
FIONREAD, FIONBIO, FIONCLEX, FIOCLEX = 0x541B, 0x5421, 0x5450, 0x5451
AF_UNIX, SOCK_STREAM, SOCKET_TYPE = 1, 1, 0xF
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def second_filter(signals, machine=None):
    """What this jail denies beyond every jail's filter (confine.py).

    A filter is inherited by forks, whose pids it can't know: "signals to oneself" can't be said by pid. Where
    the kernel holds signals inside the session (`signals`: Landlock's scope, or a user id of its own) they
    are left to it. Else only `kill(0, ...)`, to one's own process group, is left: the supervisor puts every
    interpreter into a group of its own, and nobody can join another one.
    """
    rules = confine.Filter(machine)
    for call in (*METADATA.values(), *OTHERS.values()):
        rules.deny(call)
    for call in ATTRIBUTES.values():
        rules.deny(call, errno.EOPNOTSUPP)  # as on a file system without them: shutil goes on after that
    for call in OF_ONESELF.values():
        rules.deny_unless(call, 0, [0])
    if not signals:
        rules.deny_unless(confine.KILL, 0, [0])
        for call in (confine.TKILL, confine.TGKILL, confine.SIGQUEUE, confine.TGSIGQUEUE):
            rules.deny(call)
    # A pair of stream sockets is a pipe. A datagram socket, once there, can send to any address.
    rules.deny_unless(SOCKETPAIR, 0, [AF_UNIX], error=errno.EACCES)
    rules.deny_unless(SOCKETPAIR, 1, [SOCK_STREAM], SOCKET_TYPE, error=errno.EACCES)
    # Opened to be read and truncated by that: before ABI 3 Landlock would only ask for the right to read.
    rules.deny_if(OPEN, 1, [O_TRUNC], O_TRUNC | ACCESS_MODE, errno.EACCES)
    rules.deny_if(OPENAT, 2, [O_TRUNC], O_TRUNC | ACCESS_MODE, errno.EACCES)
    rules.deny(OPENAT2, errno.ENOSYS)  # its flags are behind a pointer; who uses it falls back to openat
    # ioctl on a file one may only read changes its attributes, on a socket it tells of the network.
    rules.deny_unless(confine.IOCTL, 1, [FIONREAD, FIONBIO, FIONCLEX, FIOCLEX], error=errno.ENOTTY)
    rules.deny_if(confine.FCNTL, 1, [F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ])
    # The supervisor looks at open files, by /proc, and every fork must become its child to get a group.
    rules.deny_if(PRCTL, 0, [PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER])
    rules.deny_from(UNKNOWN)
    return rules.code()


def process_limit(config):
    """RLIMIT_NPROC. A user id that isn't the session's own has other processes: their number comes on top.

    /proc may not show all that the kernel counts (the same id in other containers), so it is found by trying:
    the lowest limit at which a fork still works.
    """
    allowed = config["processes"] + OWN_PROCESSES
    if config["uid"] is not None:
        return allowed
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = 1 << 22 if hard == resource.RLIM_INFINITY else hard
    low, high = 0, 64
    while not can_fork(high, hard):
        if high >= most:
            raise OSError("this user has as many processes as it may have (ulimit -u)")
        low, high = high, min(2 * high, most)
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (low, middle) if can_fork(middle, hard) else (middle, high)
    return high + allowed


def can_fork(limit, hard):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
    try:
        pid = os.fork()
    except BlockingIOError:
        return False
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
