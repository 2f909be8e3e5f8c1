"""The landlock jail, seen from the launcher: for machines where namespaces and Docker are both shut.

Landlock (the kernel's own, for any process, Linux 5.13 and later) says which files can be opened; a seccomp
filter takes away what Landlock does not govern (both: landlock_rules.py); a process group for each
interpreter takes the place of the pid namespace: nothing in the jail can leave its group, so one signal ends
all of it. Guaranteed and not guaranteed: README.md, "landlock".

Model code never runs as uid 0: as root every session gets a user id of its own. What that id can't reach
because a folder above is closed to it (an interpreter under /root), it reaches by a descriptor of that
folder, opened by root: /proc/self/fd/N/... needs no way through the folders above.
"""

import contextlib
import functools
import os
import shutil
import signal
import sys
import sysconfig
import tempfile

import confine
import folders
import landlock_rules
import processes
import python_files

DEVICES = ("null", "zero", "full", "random", "urandom")
CAPABILITIES = {"CHOWN": 0, "KILL": 5, "SETGID": 6, "SETUID": 7}
PASSAGE = 900  # descriptors from here on; interpreters close those below their limit of 256 when they fork
ROUNDS = 200


def command(config):
    """A function that gives the command line when it is called in the jail's process, and its environment."""
    if landlock_rules.abi() == 0:
        raise OSError("this kernel has no Landlock")
    uid = own_uid()
    made = tempfile.mkdtemp(prefix="agentdistill-")
    config.update(made=made, folder=f"{made}/session", packages=[f"{made}/packages"], proc="/proc", uid=uid)
    config["leaving"] = f"{made}/leaving"  # for what is being removed: no rule lets interpreters in
    for folder in (config["folder"], config["leaving"], *config["packages"]):
        os.mkdir(folder, 0o700)
    if uid is not None:
        for folder in (made, *config["packages"]):
            os.chmod(folder, 0o711 if folder == made else 0o755)
        for folder in (config["folder"], config["leaving"]):
            os.chown(folder, uid, uid)
    closed = closed_folders() if uid is not None else {}
    for name, path in python_files.package_folders().items():
        os.symlink(through(closed, path), f"{made}/packages/{name}")
    config["rules"] = [[kind, through(closed, path)] for kind, path in readable()]
    config["rules"] += [["list", f"{made}/packages"], ["write", config["folder"]]]
    environment = {"PYTHONHASHSEED": "0"}
    base = os.path.realpath(sys.base_prefix)
    if base in closed:
        home = through(closed, base)
        environment.update(PYTHONHOME=home, LD_LIBRARY_PATH=f"{home}/{sys.platlibdir}")
    program, programs = through(closed, python_files.program()), through(closed, python_files.HERE)

    def in_the_jail():
        for folder, number in closed.items():
            os.dup2(os.open(folder, os.O_PATH | os.O_DIRECTORY), number)
        return python_files.supervisor(config, program, programs)

    return in_the_jail, environment


def own_uid():
    """The session's own user id if we are root, else None. OSError if root can't become somebody else."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/status", encoding="ascii") as lines:
        held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    missing = [f"CAP_{name}" for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise OSError(f"as root the landlock jail needs {', '.join(missing)}; or run as an ordinary user")
    return confine.session_uid()


@functools.cache
def readable():
    """(kind, path) of all that an interpreter needs, the same for every session."""
    stdlib = os.path.realpath(sysconfig.get_paths()["stdlib"])
    found = [("modules", stdlib), ("run", python_files.program())]
    base = os.path.realpath(sys.base_prefix)
    if base not in ("/usr", "/usr/local"):  # an installation of its own brings libraries for its modules
        library = os.path.join(base, sys.platlibdir)
        found += [("read", os.path.join(library, name)) for name in os.listdir(library) if ".so" in name]
    folders, files = python_files.shared_libraries()
    found += [("read", path) for path in (*folders, *files, "/etc/ld.so.cache") if os.path.exists(path)]
    loader = python_files.program_loader()
    if loader:
        found.append(("run", loader))
    found += [("read", path) for path in python_files.package_folders().values()]
    return found + [("device", f"/dev/{name}") for name in DEVICES]


@functools.cache
def closed_folders():
    """folder -> number of the descriptor that leads there, for those that not everybody can reach."""
    base = os.path.realpath(sys.base_prefix)
    wanted = [base, os.path.dirname(python_files.program()), python_files.HERE]
    wanted += python_files.package_parents()
    closed = {}
    for folder in wanted:
        if through(closed, folder) == folder and not open_to_all(folder):
            closed[folder] = PASSAGE + len(closed)
    return closed


def through(closed, path):
    for folder, number in closed.items():
        if path == folder or path.startswith(folder + "/"):
            return f"/proc/self/fd/{number}{path[len(folder) :]}"
    return path


def open_to_all(folder):
    while os.stat(folder).st_mode & 0o001:
        if folder == "/":
            return True
        folder = os.path.dirname(folder)
    return False


def clean(supervisor, config):
    """When the supervisor has ended, in whatever way: kill what is left of its session, remove its files.

    The session's id is the supervisor's pid, which the kernel gives to nobody else as long as one process is
    left in it. The groups in it are known from /proc, and nobody can leave them or make new ones.
    """
    proc = processes.Processes("/proc")
    for _ in range(ROUNDS):
        groups = proc.groups(supervisor)
        if not groups:
            break
        for group in groups:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
    left = [folder for folder in (config["folder"], config["leaving"]) if not removed(folder)]
    if not left:
        shutil.rmtree(config["made"], ignore_errors=True)
    elif os.fork() == 0:  # not emptied by the supervisor; a slow disk is not to keep others waiting
        with contextlib.suppress(BaseException):
            for folder in left:
                remove_as(config["uid"], folder)
            shutil.rmtree(config["made"], ignore_errors=True)
        os._exit(0)


def removed(folder):
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not os.path.exists(folder)


def remove_as(uid, folder):
    """Root without CAP_DAC_OVERRIDE, as in a hardened container, can't remove another user's files."""
    if uid is None:
        folders.remove_tree(folder)
        return
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            folders.remove_tree(folder)
        os._exit(0)
    os.waitpid(pid, 0)
    removed(folder)  # it lies in a folder of ours
