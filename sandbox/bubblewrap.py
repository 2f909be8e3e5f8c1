"""The bubblewrap jail: namespaces, read-only binds of what Python needs, a tmpfs, the seccomp filter.

Two ways in. An ordinary user gets a user namespace. As root there is none, because the kernel doesn't
enforce RLIMIT_NPROC on root, whatever the namespace: the jail starts as root with three capabilities and
gives them up for an unused user id before model code runs (confine.settle_supervisor).
"""

import contextlib
import functools
import importlib.util
import os
import sys
import sysconfig

import confine
import folders
import python_files

DEVICES = ("null", "zero", "full", "random", "urandom")


def command(config):
    """A function that gives the command line when it is called in the jail's process, and its environment."""
    uid = confine.session_uid() if os.geteuid() == 0 else None
    # /proc lies below a folder nobody may enter; the supervisor opens it with CAP_DAC_READ_SEARCH, and gives
    # that up. So interpreters have no /proc, and the supervisor can find the processes they leave behind.
    config.update(folder="/session", proc="/private/proc", uid=uid, packages=["/packages"])
    files, program = filesystem()
    ids = ["--unshare-user"] if uid is None else ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    size = ["--size", str(folders.COPIES * config["folder_mb"] << 20)]
    tmpfs = [*size, "--perms", "0700" if uid is None else "0777", "--tmpfs", "/session"]
    supervisor = python_files.supervisor(config, program, "/sandbox")
    before = [config["bwrap"], *namespaces(), *ids, *files, *tmpfs]
    before += ["--remount-ro", "/", "--chdir", "/session", "--seccomp"]
    rules = system_calls()

    def in_the_jail():
        return [*before, str(readable(rules)), "--", *supervisor]

    return in_the_jail, {}


def namespaces():
    command = ["--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--new-session", "--die-with-parent", "--hostname", "sandbox"]
    return [*command, "--clearenv", "--cap-drop", "ALL", "--cap-add", "CAP_DAC_READ_SEARCH"]


@functools.cache
def filesystem():
    """(bwrap's arguments, path of the interpreter in the jail): the same for every session."""
    command = ["--perms", "0000", "--dir", "/private", "--proc", "/private/proc", *folder("/dev")]
    for name in DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    environment = {"PYTHONHASHSEED": "0"}
    program = python(command, environment)
    command += folder("/packages")
    for name, path in python_files.package_folders().items():
        command += bind(path, f"/packages/{name}")
    command += folder("/sandbox")
    for name in python_files.PROGRAMS:
        command += bind(os.path.join(python_files.HERE, name), f"/sandbox/{name}")
    command += compiled_programs()
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return command, program


def folder(path):
    """An empty directory others may enter; bubblewrap's own parents of binds are closed to them."""
    command = []
    parts = path.strip("/").split("/")
    for depth in range(len(parts)):
        command += ["--perms", "0755", "--dir", "/" + "/".join(parts[: depth + 1])]
    return command


def bind(source, target):
    return ["--ro-bind", source, target]


def python(command, environment):
    """Bind the interpreter to /python, wherever it is installed; returns the program's path in the jail."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    stdlib = os.path.realpath(sysconfig.get_paths()["stdlib"])
    base = os.path.realpath(sys.base_prefix)
    library = f"/python/{sys.platlibdir}"
    command += folder("/python/bin") + folder("/python/lib") + folder(library)
    if base in ("/usr", "/usr/local"):
        command += bind(stdlib, f"{library}/{version}")
        covered = stdlib
    else:  # an installation of its own: its lib folder holds the libraries of its extension modules, too
        covered = os.path.realpath(os.path.join(base, sys.platlibdir))
        command += bind(covered, library)
    for name in ("site-packages", "dist-packages"):
        if os.path.isdir(os.path.join(stdlib, name)):
            command += ["--tmpfs", f"{library}/{version}/{name}"]
            command += ["--remount-ro", f"{library}/{version}/{name}"]
    program = f"/python/bin/{version}"
    command += bind(python_files.program(), program)
    system, single = python_files.shared_libraries()
    for path in system:
        if os.path.isdir(path):
            command += [*folder(os.path.dirname(path)), *bind(path, path)]
    loader = python_files.program_loader()
    if loader:
        real = os.path.realpath(loader)
        if os.path.dirname(real) not in system:
            command += [*folder(os.path.dirname(real)), *bind(real, real)]
        if real != loader:
            command += [*folder(os.path.dirname(loader)), "--symlink", real, loader]
    command += [*folder("/etc"), "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in single:
        if not path.startswith(covered + "/"):
            command += bind(path, f"{library}/{os.path.basename(path)}")
    environment["LD_LIBRARY_PATH"] = library
    return program


def compiled_programs():
    """Bind the byte code of our programs, if it is there or can be written: it saves 20 ms a start."""
    command = []
    for name in python_files.PROGRAMS:
        source = os.path.join(python_files.HERE, name)
        target = importlib.util.cache_from_source(source)
        with contextlib.suppress(Exception):
            if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
                import py_compile

                py_compile.compile(source, doraise=True)
            if not command:
                command += folder("/sandbox/__pycache__")
            command += bind(target, f"/sandbox/__pycache__/{os.path.basename(target)}")
    return command


@functools.cache
def system_calls():
    """The seccomp filter, the same for every session."""
    return confine.seccomp_filter(confine.IN_A_PID_NAMESPACE)


def readable(data):
    """A descriptor, for the program that comes after exec, to read these few bytes from."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    os.set_inheritable(reader, True)
    return reader
