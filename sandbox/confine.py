"""What narrows a process before model code runs: seccomp filter, resource limits, user ids, capabilities.

The seccomp filter is written as raw BPF, no library needed. It denies by name: calls that look into or
signal other processes by handle, mounts, namespaces, kernel keys, bpf, io_uring, userfaultfd, perf, module
loading, memory outside the address-space limit (memfd, System V), memory that forks would share (writable
shared mappings), every new socket (a socketpair is allowed), and signals to the supervisor and the first
interpreter. Guaranteed: an unknown architecture is refused, other ABIs of the same machine (x32, 32-bit) are
killed. Not guaranteed: that the rest of the kernel has no holes; the filter makes its surface smaller, the
namespaces are the wall.

Who installs it depends on the jail: bubblewrap does for everything in it; in a container the first
interpreter does for itself and its forks, on top of the engine's filter.
"""

import errno
import os
import resource
import struct

# name -> (x86_64, aarch64); None: the architecture lacks it
CALLS = {
    "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217),
    "adjtimex": (159, 171), "bind": (49, 200), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "connect": (42, 203),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "get_mempolicy": (239, 236), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "listen": (50, 201), "listmount": (458, 458),
    "lookup_dcookie": (212, 18), "mbind": (237, 235), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "migrate_pages": (256, 238), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239), "mq_open": (240, 180),
    "msgget": (68, 186), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "semget": (64, 190), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "shmat": (30, 196), "shmget": (29, 194),
    "socket": (41, 198), "statmount": (457, 457), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "vhangup": (153, 58), "vmsplice": (278, 75),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), (435, 435)
KILL, TKILL, TGKILL = (62, 129), (200, 130), (234, 131)
SIGQUEUE, TGSIGQUEUE = (129, 138), (297, 240)
PRLIMIT, FCNTL, IOCTL = (302, 261), (72, 25), (16, 29)
MMAP, MAP_SHARED, PROT_WRITE = (9, 222), 1, 2
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME|NS|CGROUP|UTS|IPC|USER|PID|NET
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15  # they send signals by way of the kernel
FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C
MAX_DESCRIPTORS = 256  # of an interpreter
IN_A_PID_NAMESPACE = (1, 2, 3)  # bubblewrap's init, the supervisor and the first interpreter, always

_LOAD, _JUMP, _JEQ, _JGE, _AND, _RET = 0x20, 0x05, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


class Filter:
    """A seccomp program, rule by rule: a call is allowed unless a rule denies it.

    Calls are given as pairs of numbers (x86_64, aarch64), None where the architecture lacks it.
    """

    def __init__(self, machine=None):
        machine = machine or os.uname().machine
        if machine not in ARCHITECTURES:
            raise OSError(f"no seccomp filter for the architecture {machine}")
        self.column, audit = ARCHITECTURES[machine]
        self.program = []
        self.emit(_LOAD, _ARCHITECTURE)
        self.emit(_JEQ, audit, 1, 0)
        self.emit(_RET, _KILL)
        self.emit(_LOAD, _NUMBER)
        if machine == "x86_64":
            self.emit(_JGE, 0x40000000, 0, 1)  # the x32 ABI has its own numbers
            self.emit(_RET, _KILL)

    def emit(self, code, value, yes=0, no=0):
        self.program.append(struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF))

    def deny(self, call, error=errno.EPERM):
        if call[self.column] is not None:
            self.emit(_JEQ, call[self.column], 0, 1)
            self.emit(_RET, _ERRNO | error)

    def deny_from(self, number, error=errno.ENOSYS):
        """The call with this number and all after it, those that are not invented yet included."""
        self.emit(_JGE, number, 0, 1)
        self.emit(_RET, _ERRNO | error)

    def deny_if(self, call, argument, values, bits=0xFFFFFFFF, error=errno.EPERM):
        """If the argument, or these bits of it, is one of the values."""
        self._compare(call, argument, values, bits, error, otherwise=1)

    def deny_unless(self, call, argument, values, bits=0xFFFFFFFF, error=errno.EPERM):
        self._compare(call, argument, values, bits, error, otherwise=0)

    def _compare(self, call, argument, values, bits, error, otherwise):
        """The low 32 bits of the argument count: those are all the kernel looks at in the calls we name.

        After the last comparison stand a jump over the denial (`otherwise` is 1) or to it, and the denial.
        """
        number = call[self.column]
        if number is None:
            return
        self.emit(_JEQ, number, 0, len(values) + 5)
        self.emit(_LOAD, _ARGUMENTS + 8 * argument)
        self.emit(_AND, bits)
        for index, value in enumerate(values):
            self.emit(_JEQ, value, len(values) - index + 1 - otherwise, 0)
        self.emit(_JUMP, otherwise)
        self.emit(_RET, _ERRNO | error)
        self.emit(_LOAD, _NUMBER)

    def deny_when(self, call, *conditions, error=errno.EPERM):
        """If all of them hold: (argument, bits) that are all set."""
        left = 3 * len(conditions)
        self.emit(_JEQ, call[self.column], 0, left + 2)
        for argument, bits in conditions:
            left -= 3
            self.emit(_LOAD, _ARGUMENTS + 8 * argument)
            self.emit(_AND, bits)
            self.emit(_JEQ, bits, 0, left + 1)
        self.emit(_RET, _ERRNO | error)
        self.emit(_LOAD, _NUMBER)

    def code(self):
        self.emit(_RET, _ALLOW)
        return b"".join(self.program)


def seccomp_filter(protected, machine=None):
    """The filter of every jail as bytes, as `bwrap --seccomp FD` and prctl take it. `protected`: pids no
    signal may be sent to, nor to the process groups they lead."""
    rules = Filter(machine)
    for name, call in CALLS.items():
        rules.deny(call, errno.EACCES if name == "socket" else errno.EPERM)
    rules.deny(CLONE3, errno.ENOSYS)  # its flags are behind a pointer; libc then falls back to clone
    rules.deny_unless(CLONE, 0, [0], NEW_NAMESPACES)
    everyone = -1
    rules.deny_if(KILL, 0, [*protected, everyone, *(-pid for pid in protected if pid > 1)])
    for call in (TKILL, TGKILL, SIGQUEUE, TGSIGQUEUE):
        rules.deny_if(call, 0, list(protected))
    rules.deny_if(FCNTL, 1, [F_SETOWN, F_SETSIG, F_SETOWN_EX])
    rules.deny_if(IOCTL, 1, [FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX])
    # What is written to a shared mapping would be seen by other candidates and by twins.
    rules.deny_when(MMAP, (3, MAP_SHARED), (2, PROT_WRITE))
    rules.deny_unless(PRLIMIT, 0, [0])  # limits of others; one's own can only go down
    return rules.code()


# ---------------------------------------------------------------------- inside the jail

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 36, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def _libc():
    import ctypes  # not above: launch.py only wants the filter

    return ctypes.CDLL(None, use_errno=True), ctypes.get_errno


def _prctl(option, value=0):
    libc, error = _libc()
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(error(), f"prctl {option}")


def settle_supervisor(config):
    """Adopt orphans; in a jail also shut out tracers and give up every capability.

    As root there is no user namespace: the supervisor takes the real id uid+1 and the effective id uid,
    the interpreters all ids uid. So it can signal them and make their folders, and they can't signal it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if config["jail"] == "process":
        return
    libc, error = _libc()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    uid = config["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid + 1, uid, uid + 1)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(error(), "capset")
    _prctl(_PR_SET_DUMPABLE, 0)
    if config["jail"] == "landlock":
        import landlock_rules

        os.setsid()  # the session by which the launcher finds what is left when we are killed
        landlock_rules.check(config)


def settle_interpreter(config):
    """Limits, ids and filters of the first interpreter. Forks inherit all of it."""
    megabyte = 1 << 20
    ceilings = {
        resource.RLIMIT_AS: config["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: config["folder_mb"] * megabyte,
        resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if config["jail"] == "bubblewrap":
        # Interpreters of the session (twins, candidates) count too. Elsewhere the id isn't the session's own.
        ceilings[resource.RLIMIT_NPROC] = config["processes"] + 48
    if config["jail"] == "landlock":
        import landlock_rules

        ceilings[resource.RLIMIT_NPROC] = landlock_rules.process_limit(config)
        ceilings[resource.RLIMIT_SIGPENDING] = landlock_rules.SIGNALS
    for name, ceiling in ceilings.items():
        hard = resource.getrlimit(name)[1]
        if hard != resource.RLIM_INFINITY:
            ceiling = min(ceiling, hard)
        resource.setrlimit(name, (ceiling, ceiling))
    uid = config["uid"]
    if uid is not None:
        os.setresuid(uid, uid, uid)
    if config["jail"] == "docker":
        install_filter(seccomp_filter((os.getppid(), os.getpid())))
    if config["jail"] == "landlock":
        _prctl(_PR_SET_DUMPABLE, 1)  # or the supervisor could not count the files that are open
        landlock_rules.enter(config)
    elif config["jail"] != "process":
        _prctl(_PR_SET_DUMPABLE, 0)  # changing ids has reset it


def install_filter(program):
    """Put the filter on this process; it must be the only thread. Needs no_new_privs, for good."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc, error = _libc()
    code = Program(len(program) // 8, program)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(code), 0, 0) != 0:
        raise OSError(error(), "seccomp")


# ---------------------------------------------------------------------- outside, as root


def session_uid():
    """An id nobody uses, another one for each session: the kernel counts processes by it."""
    with open("/proc/self/uid_map", encoding="utf-8") as lines:
        ranges = [tuple(map(int, line.split())) for line in lines]
    start, _, length = max(ranges, key=lambda row: row[2])
    if start + length > 2_100_000_000:
        return 2_000_000_000 + 2 * (int.from_bytes(os.urandom(4), "big") % 50_000_000)
    if length < 4_000:
        raise OSError(f"root is mapped to only {length} user ids here, so processes cannot be limited")
    return start + 2_000 + 2 * (int.from_bytes(os.urandom(4), "big") % ((length - 2_000) // 2 - 1))
