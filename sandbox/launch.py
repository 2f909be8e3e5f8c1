"""Start a session's jail: build the command line of the backend and become it.

    python -I launch.py --jail bubblewrap|process --limits '{"memory_mb": ...}' --bwrap FILE|--folder DIR

The session's stream is this program's stdin and stdout. The interpreter that runs this file is the one
that runs in the jail, with its standard library, the shared libraries of the system and the few packages
of PACKAGES; the rest of site-packages, /home, /etc and everything else of the host isn't there.

Two ways into bubblewrap. An ordinary user gets a user namespace. As root there is none, because the
kernel doesn't enforce RLIMIT_NPROC on root, whatever the namespace: the jail starts as root with three
capabilities and gives them up for an unused user id before model code runs (confine.settle_supervisor).
"""

import contextlib
import importlib.util
import json
import os
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import confine  # noqa: E402

PACKAGES = ("numpy", "numpy.libs", "sympy", "mpmath")
PROGRAMS = ("wire.py", "confine.py", "folders.py", "processes.py", "worker.py", "supervisor.py")
DEVICES = ("null", "zero", "full", "random", "urandom")
COPIES = 4  # the folders of a session, its candidates and its twins share this many times `folder_mb`
FLAGS = ("-s", "-S", "-P", "-B")  # -I would ignore PYTHONHASHSEED; the environment is ours anyway


def main():
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))  # argparse takes 8 ms to import
    jail = given.get("--jail")
    try:
        config = {**json.loads(given["--limits"]), "jail": jail}
        if jail == "process":
            command, environment = process_command(config, given["--folder"])
        elif jail == "bubblewrap":
            command, environment = bubblewrap_command(config, given["--bwrap"])
        else:
            sys.exit(f"launch.py: no jail is called {jail!r}")
    except KeyError as missing:
        sys.exit(f"launch.py: {missing.args[0]} is missing")
    try:
        os.execve(command[0], command, environment)  # noqa: S606
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


# ---------------------------------------------------------------------- no jail


def process_command(config, folder):
    packages = sorted({os.path.dirname(path) for path in package_folders().values()})
    config.update(folder=folder, proc="/proc", uid=None, jailed=False, packages=packages)
    program = os.path.realpath(sys.executable)
    command = [program, *FLAGS, os.path.join(HERE, "supervisor.py"), json.dumps(config)]
    return command, {"PYTHONHASHSEED": "0", "PATH": os.defpath}


# ---------------------------------------------------------------------- bubblewrap


def bubblewrap_command(config, bwrap):
    uid = session_uid() if os.geteuid() == 0 else None
    # /proc lies below a folder nobody may enter; the supervisor opens it with CAP_DAC_READ_SEARCH, and gives
    # that up. So interpreters have no /proc, and the supervisor can find the processes they leave behind.
    config.update(folder="/session", proc="/private/proc", uid=uid, jailed=True, packages=["/packages"])
    command = [bwrap, "--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--new-session", "--die-with-parent", "--hostname", "sandbox"]
    command += ["--cap-drop", "ALL", "--cap-add", "CAP_DAC_READ_SEARCH", "--clearenv"]
    if uid is None:
        command += ["--unshare-user"]
    else:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    command += ["--perms", "0000", "--dir", "/private", "--proc", "/private/proc"]
    command += folder("/dev")
    for name in DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    environment = {"PYTHONHASHSEED": "0"}
    program = python_files(command, environment)
    command += folder("/packages")
    for name, path in package_folders().items():
        command += bind(path, f"/packages/{name}")
    command += folder("/sandbox")
    for name in PROGRAMS:
        command += bind(os.path.join(HERE, name), f"/sandbox/{name}")
    command += compiled_programs()
    size = COPIES * config["folder_mb"] << 20
    command += ["--size", str(size), "--perms", "0777" if uid is not None else "0700", "--tmpfs", "/session"]
    command += ["--remount-ro", "/", "--chdir", "/session", "--seccomp", str(seccomp_fd())]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--", program, *FLAGS, "/sandbox/supervisor.py", json.dumps(config)], dict(os.environ)


def folder(path):
    """An empty directory others may enter; bubblewrap's own parents of binds are closed to them."""
    command = []
    parts = path.strip("/").split("/")
    for depth in range(len(parts)):
        command += ["--perms", "0755", "--dir", "/" + "/".join(parts[: depth + 1])]
    return command


def bind(source, target):
    return ["--ro-bind", source, target]


def python_files(command, environment):
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
    command += bind(os.path.realpath(sys.executable), program)
    system, single = shared_libraries()
    for path in system:
        if os.path.isdir(path):
            command += [*folder(os.path.dirname(path)), *bind(path, path)]
    loader = program_loader()
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


def shared_libraries():
    """(system library folders, single files) that this very interpreter has mapped."""
    folders, files = set(), set()
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            path = line.rstrip("\n").partition("/")[2]
            name = os.path.basename(path)
            if ".so" not in name or "/lib-dynload/" in path:
                continue
            path = os.path.realpath("/" + path)
            where = os.path.dirname(path)
            if where.startswith(("/usr/lib", "/lib")) and "python" not in where:
                folders.add(where)
            else:
                files.add(path)
    return sorted(folders), sorted(files)


def program_loader():
    """The ELF interpreter as the executable names it; it must be found at just that path."""
    with open(os.path.realpath(sys.executable), "rb") as file:
        head = file.read(1 << 16)
    if head[:5] != b"\x7fELF\x02":
        return None
    start, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    for index in range(count):
        entry = head[start + index * size : start + (index + 1) * size]
        if int.from_bytes(entry[:4], "little") == 3:  # PT_INTERP
            offset, length = (int.from_bytes(entry[a : a + 8], "little") for a in (8, 32))
            return head[offset : offset + length].rstrip(b"\0").decode()
    return None


def package_folders():
    """name -> path of the packages that are installed; they aren't imported here."""
    found = {}
    for name in PACKAGES:
        if "." in name:
            path = os.path.join(os.path.dirname(found.get(name.split(".")[0], "")), name)
            if os.path.isdir(path):
                found[name] = path
            continue
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations:
                found[name] = os.path.realpath(next(iter(spec.submodule_search_locations)))
    return found


def compiled_programs():
    """Bind the byte code of our programs, if it is there or can be written: it saves 20 ms a start."""
    command = []
    for name in PROGRAMS:
        source = os.path.join(HERE, name)
        target = importlib.util.cache_from_source(source)
        with contextlib.suppress(Exception):
            if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
                import py_compile

                py_compile.compile(source, doraise=True)
            if not command:
                command += folder("/sandbox/__pycache__")
            command += bind(target, f"/sandbox/__pycache__/{os.path.basename(target)}")
    return command


def seccomp_fd():
    reader, writer = os.pipe()
    os.write(writer, confine.seccomp_filter())
    os.close(writer)
    os.set_inheritable(reader, True)
    return reader


def session_uid():
    """An id nobody uses, another one for each session: the kernel counts processes by it."""
    with open("/proc/self/uid_map", encoding="utf-8") as lines:
        ranges = [tuple(map(int, line.split())) for line in lines]
    start, _, length = max(ranges, key=lambda row: row[2])
    if start + length > 2_100_000_000:
        return 2_000_000_000 + 2 * (int.from_bytes(os.urandom(4), "big") % 50_000_000)
    if length < 4_000:
        sys.exit(f"root is mapped to only {length} user ids here, so processes cannot be limited")
    return start + 2_000 + 2 * (int.from_bytes(os.urandom(4), "big") % ((length - 2_000) // 2 - 1))


if __name__ == "__main__":
    main()
