"""System calls that a jail has no use for, by number: denied, whatever their arguments."""

from __future__ import annotations

import os

from arena import Attack, Program, ends, held, played, refused

SYSCALL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def syscall(name, number, *args):
    result = libc.syscall(number, *args)
    code = ctypes.get_errno()
    print(f"ESCAPED {name}: {result}" if result >= 0 else f"refused: {name}: {errno.errorcode[code]}")
"""
DENIED = {"EPERM", "EACCES", "ENOSYS"}  # any other error says that the kernel looked at the arguments
PARENT = "os.getppid()"

# name -> (number on x86_64, arguments)
CALLS = {
    "acct": (163, "b'x'"),
    "add_key": (248, "b'user', b'k', b'v', 1, -3"),
    "adjtimex": (159, "bytes(208)"),
    "bpf": (321, "0, bytes(120), 120"),
    "bpf BPF_PROG_LOAD": (321, "5, bytes(120), 120"),
    "chroot": (161, "b'.'"),
    "clock_adjtime": (305, "0, bytes(208)"),
    "clock_settime": (227, "0, bytes(16)"),
    "clone3": (435, "bytes(88), 88"),
    "delete_module": (176, "b'x', 0"),
    "fanotify_init": (300, "0, 0"),
    "fcntl F_SETOWN": (72, f"0, 8, {PARENT}"),
    "fcntl F_SETSIG": (72, "0, 10, 9"),
    "finit_module": (313, "0, b'', 0"),
    "fsconfig": (431, "0, 0, 0, 0, 0"),
    "fsmount": (432, "0, 0, 0"),
    "fsopen": (430, "b'proc', 0"),
    "fspick": (433, "-100, b'.', 0"),
    "init_module": (175, "bytes(8), 8, b''"),
    "ioctl FIOSETOWN": (16, "0, 0x8901, bytes(8)"),
    "ioctl TIOCLINUX": (16, "0, 0x541C, b'x'"),
    "ioctl TIOCSTI": (16, "0, 0x5412, b'x'"),
    "io_uring_enter": (426, "0, 0, 0, 0, 0, 0"),
    "io_uring_register": (427, "0, 0, 0, 0"),
    "io_uring_setup": (425, "1, bytes(120)"),
    "ioperm": (173, "0, 1, 1"),
    "iopl": (172, "3"),
    "kcmp": (312, f"os.getpid(), {PARENT}, 0, 0, 0"),
    "kexec_file_load": (320, "0, 0, 0, 0, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "keyctl": (250, "0, -3, 0, 0, 0"),
    "keyctl KEYCTL_JOIN_SESSION_KEYRING": (250, "1, 0"),
    "listmount": (458, "bytes(24), bytes(8), 1, 0"),
    "lookup_dcookie": (212, "0, bytes(8), 8"),
    "mbind": (237, "0, 0, 0, 0, 0, 0"),
    "memfd_create": (319, "b'x', 0"),
    "memfd_secret": (447, "0"),
    "migrate_pages": (256, f"{PARENT}, 0, 0, 0"),
    "modify_ldt": (154, "0, bytes(8), 8"),
    "mount": (165, "b'proc', b'.', b'proc', 0, 0"),
    "mount, bind": (165, "b'/', b'.', 0, 4096, 0"),
    "mount, remount": (165, "b'', b'/', b'', 32 | 4096, 0"),
    "mount_setattr": (442, "-100, b'.', 0, bytes(32), 32"),
    "move_mount": (429, "-100, b'/', -100, b'.', 0"),
    "move_pages": (279, f"{PARENT}, 0, 0, 0, 0, 0"),
    "mq_open": (240, "b'q', 0o102, 0o600, 0"),
    "msgget": (68, "0, 0o1600"),
    "name_to_handle_at": (303, "-100, b'.', bytes(8), bytes(4), 0"),
    "open_by_handle_at": (304, "-100, bytes(16), 0"),
    "open_tree": (428, "-100, b'/', 1"),
    "open_tree_attr": (467, "-100, b'/', 1, 0, 0"),
    "perf_event_open": (298, "bytes(112), 0, -1, -1, 0"),
    "personality": (135, "0x40000"),
    "pidfd_getfd": (438, "0, 0, 0"),
    "pidfd_open": (434, f"{PARENT}, 0"),
    "pidfd_send_signal": (424, "0, 9, 0, 0"),
    "pivot_root": (155, "b'.', b'.'"),
    "prlimit of the supervisor": (302, f"{PARENT}, 7, bytes(16), 0"),
    "process_madvise": (440, "0, 0, 0, 0, 0"),
    "process_mrelease": (448, "0, 0"),
    "process_vm_readv": (310, f"{PARENT}, 0, 0, 0, 0, 0"),
    "process_vm_writev": (311, f"{PARENT}, 0, 0, 0, 0, 0"),
    "ptrace PTRACE_ATTACH": (101, f"16, {PARENT}, 0, 0"),
    "ptrace PTRACE_SEIZE": (101, f"0x4206, {PARENT}, 0, 0"),
    "ptrace PTRACE_TRACEME": (101, "0, 0, 0, 0"),
    "quotactl": (179, "0, 0, 0, 0"),
    "quotactl_fd": (443, "0, 0, 0, 0"),
    "reboot": (169, "0, 0, 0, 0"),
    "request_key": (249, "b'user', b'k', 0, 0"),
    "semget": (64, "0, 1, 0o1600"),
    "set_mempolicy": (238, "0, 0, 0"),
    "setdomainname": (171, "b'x', 1"),
    "sethostname": (170, "b'x', 1"),
    "setns": (308, "0, 0"),
    "settimeofday": (164, "bytes(16), 0"),
    "shmat": (30, "0, 0, 0"),
    "shmget": (29, "0, 4096, 0o1600"),
    "socket": (41, "1, 1, 0"),
    "statmount": (457, "bytes(24), bytes(512), 512, 0"),
    "swapoff": (168, "b'x'"),
    "swapon": (167, "b'x', 0"),
    "syslog": (103, "3, bytes(8), 8"),
    "umount2": (166, "b'/', 2"),
    "unshare of all": (272, "0x7E020000"),
    "userfaultfd": (323, "1"),
    "vhangup": (153, ""),
    "vmsplice": (278, "1, 0, 0, 0"),
}
NAMESPACES = {
    "user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "network": 0x40000000, "ipc": 0x8000000,
    "uts": 0x4000000, "cgroup": 0x2000000,
}  # fmt: skip


def denied(name: str, number: int, args: str) -> Program:
    @played(f"the system call {name}", shared=True)
    def play(attack: Attack) -> None:
        call = f"syscall({name!r}, {number}, {args})" if args else f"syscall({name!r}, {number})"
        logs = attack.one(SYSCALL + call).logs.strip()
        assert logs.startswith("refused") and logs.rpartition(" ")[2] in DENIED, logs

    return play


PROGRAMS: list[Program] = []
if os.uname().machine == "x86_64":  # the numbers are
    PROGRAMS += [denied(name, number, args) for name, (number, args) in CALLS.items()]
    PROGRAMS += [
        denied(f"clone, new {name} namespace", 56, f"{flag | 17}, 0, 0, 0, 0")
        for name, flag in NAMESPACES.items()
    ]
    PROGRAMS += [
        denied(f"unshare, new {name} namespace", 272, f"{flag}") for name, flag in NAMESPACES.items()
    ]
    PROGRAMS += [
        ends(SYSCALL + "syscall('x32 getpid', 0x40000000 + 39)", "died", name="the x32 ABI"),
        ends("""
        import ctypes, mmap
        m = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
        m.write(bytes.fromhex('b814000000' 'cd80' 'c3'))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(m))
        print('ESCAPED', ctypes.CFUNCTYPE(ctypes.c_int)(address)())
        """, "died", "exception", name="the 32-bit ABI"),
    ]  # fmt: skip

PROGRAMS += [
    held("""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    caps = (ctypes.c_uint32 * 6)(*[9] * 6)
    libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), caps)
    ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
    print('no privileges' if not any(caps) and libc.prctl(39, 0, 0, 0, 0) == 1 and os.getuid() else 'ESCAPED', list(caps), ids)
    """, "capabilities and user ids", shared=True),
    *(refused(f"import os\nos.{call}\nprint('ESCAPED')", shared=True)
      for call in ("setuid(0)", "setgid(0)", "seteuid(0)", "setgroups([0])", "setreuid(0, 0)", "setresuid(0, 0, 0)")),
    held("""
    import ctypes, struct
    libc = ctypes.CDLL(None, use_errno=True)
    sets = struct.pack('=6I', *[0xffffffff] * 6)
    print('ESCAPED' if libc.capset(struct.pack('=Ii', 0x20080522, 0), sets) == 0 else 'refused')
    """, "capset", shared=True),
    held("""
    import os, sys
    os.chmod(sys.executable, 0o4755) if os.access(sys.executable, os.W_OK) else None
    with open('s', 'wb') as f: f.write(open('/proc/self/exe', 'rb').read(1000) if os.path.exists('/proc/self/exe') else b'#!')
    os.chmod('s', 0o6755)
    os.stat('s').st_uid == 0 and 'ESCAPED'
    """, "a file that gives its user's rights"),
    held("import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\nprint('ESCAPED')", "real-time scheduling", shared=True),
    held("import os\nos.setpriority(os.PRIO_PROCESS, 0, -20)\nprint('ESCAPED' if os.getpriority(os.PRIO_PROCESS, 0) < 0 else '')", "a higher priority",
         shared=True),
    held("import ctypes\nlibc = ctypes.CDLL(None)\nbuffer = ctypes.create_string_buffer(1 << 20)\nprint('ESCAPED' if libc.mlock(buffer, 1 << 20) == 0 else '')",
         "locked memory", shared=True),
    held("import resource\nfor l in range(16):\n    soft, hard = resource.getrlimit(l)\n    try: resource.setrlimit(l, (hard + 1, hard + 1)) if hard > 0 else 0\n    except (ValueError, OSError): continue\n    if hard > 0 and resource.getrlimit(l)[1] > hard: print('ESCAPED', l)",
         "higher limits", shared=True),
]  # fmt: skip
