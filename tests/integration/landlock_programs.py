"""Programs of test_landlock.py: what attacks from inside the jail, and what stands around it and looks."""

from __future__ import annotations

import os

# Every line is an expression that must end in an OSError. They share one session.
_ATTACKS = """
# read the host
open("/etc/passwd").read()
open("/etc/hostname").read()
open(scratch + "secret").read()
open("/proc/self/status").read()
open("/proc/1/environ").read()
open("/proc/mounts").read()
open("/sys/kernel/uevent_seqnum").read()
os.readlink("/proc/1/exe")

# list the host
os.listdir("/")
os.listdir("/etc")
os.listdir("/home")
os.listdir(scratch)
os.listdir(os.getcwd() + "/../..")
os.listdir("/proc")
os.listdir("/proc/self/fd")
os.listdir("/dev")
os.listdir("/tmp")
os.listdir("/usr/bin")

# write outside
open(target, "w")
open(target, "r+")
open(target, "a")
open(scratch + "folder/new", "w")
os.mkdir(scratch + "folder/new")
os.mkfifo(scratch + "folder/new")
os.symlink("x", scratch + "folder/new")
open(scratch + "fifo", "r+")
open("/dev/shm/x", "w")
open(library, "r+")

# truncate
os.truncate(target, 0)
os.truncate(library, 0)
os.truncate("mine", 0)
os.open(target, os.O_RDONLY | os.O_TRUNC)
os.open(target, os.O_WRONLY | os.O_TRUNC)
os.open(library, os.O_RDONLY | os.O_TRUNC)

# remove, move and link
os.unlink(target)
os.rmdir(scratch + "folder")
os.rename(target, "got")
os.rename("mine", target)
os.rename("mine", scratch + "folder/new")
os.link(target, "got")
os.link(library, "got")
os.link("mine", scratch + "folder/new")

# by way of links and descriptors
open("link").read()
open("link", "w")
os.listdir("etc")
open("etc/passwd").read()
os.open("etc/passwd", os.O_RDONLY, dir_fd=top)
open(f"/proc/self/fd/{top}/etc/passwd")
open(f"/proc/self/fd/{found}", "w")
os.open("../../target", os.O_RDONLY)

# modes, owners, times and attributes
os.chmod(target, 0)
os.chmod(library, 0o777)
os.chmod("mine", 0o777)
os.chmod(reading, 0o777)
os.chown(target, os.getuid(), -1)
os.chown("mine", -1, -1)
os.chown(reading, -1, -1)
os.lchown("link", -1, -1)
os.utime(target)
os.utime(library)
os.utime("mine")
os.utime(reading)
os.setxattr(target, "user.x", b"1")
os.setxattr("mine", "user.x", b"1")
os.setxattr(reading, "user.x", b"1")
os.listxattr(library)
os.getxattr(target, "user.x")
os.removexattr(reading, "user.x")
fcntl.ioctl(reading, 0x40086602, bytes(8))
fcntl.fcntl(reading, 1024, 0)
fcntl.fcntl(reading, 1026, 1)

# devices
os.open("/dev/tty", os.O_RDWR)
os.open("/dev/ptmx", os.O_RDWR)
os.open("/dev/pts/ptmx", os.O_RDWR)
fcntl.ioctl(random, 0x5206)
os.mknod("zero", 0o20666, 0x105)

# run programs
os.execv("/bin/true", ["true"])
os.execv("/usr/bin/env", ["env"])
os.execv(shutil.copyfile(library, "x"), ["x"])

# sockets
socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
socket.socketpair(socket.AF_INET)
socket.socketpair(30)
pair.sendto(b"x", scratch + "datagrams")
pair.sendto(b"x", b"\\0hidden")
pair.sendmsg([b"x"], [], 0, scratch + "datagrams")
pair.connect(scratch + "datagrams")
pair.bind("x")
pair.listen()
fcntl.ioctl(pair, 0x8912, bytes(64))
SOCKETS

# signals and groups
os.kill(os.getppid(), 9)
os.kill(facts["foreign"], 9)
os.kill(facts["own"], 9)
os.kill(facts["driver"], 0)
os.kill(1, 9)
os.kill(-1, 9)
os.killpg(facts["group"], 9)
os.killpg(os.getsid(0), 9)
os.pidfd_open(facts["own"])
fcntl.fcntl(0, fcntl.F_SETOWN, facts["own"])
os.setsid()
os.setpgid(0, 0)
os.setpgid(0, os.getsid(0))

# other processes
os.sched_setaffinity(facts["own"], {0})
os.sched_setaffinity(os.getppid(), {0})
os.sched_setscheduler(facts["own"], os.SCHED_IDLE, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, facts["own"], 19)
os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
os.setpriority(os.PRIO_USER, 0, 19)
resource.prlimit(facts["own"], resource.RLIMIT_CPU, (1, 1))
resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
os.setuid(0)
os.setgid(0)
os.setgroups([0])
prctl(4, 0)

# calls by number (x86_64)
syscall(101, 16, facts["own"], 0, 0)
syscall(310, facts["own"], 0, 0, 0, 0, 0)
syscall(437, -100, b"mine", bytes(24), 24)
syscall(435, bytes(88), 88)
syscall(469, -100, b"mine", bytes(40), 40, 0)
syscall(600)
NUMBERS
"""

_SOCKETS = "\n".join(f"socket.socket({family}, {kind})" for family in range(1, 46) for kind in (1, 2, 3, 5))
_NUMBERS = "253 294 254 300 29 30 31 64 65 66 68 69 70 71 220 240 241 165 272 308"
_NUMBERS += " 319 321 250 425 323 298 303 304 434 447 135 162 306 251"
_CALLS = "\n".join(f"syscall({number}, 0, 0, 0, 0)" for number in _NUMBERS.split())


def _attacks() -> dict[str, list[str]]:
    text = _ATTACKS.replace("SOCKETS", _SOCKETS).replace("NUMBERS", _CALLS)
    found = {}
    for section in text.split("\n# ")[1:]:
        name, *lines = section.strip().splitlines()
        if "x86_64" not in name or os.uname().machine == "x86_64":
            found[name] = lines
    return found


ATTACKS = _attacks()

PREAMBLE = """
import ctypes, errno, fcntl, os, resource, shutil, socket
facts = FACTS
scratch = "/mnt/"
target = scratch + "target"
library = os.__file__
open("mine", "w").write("mine")
os.symlink(target, "link"), os.symlink("/etc", "etc")
reading, random = os.open("mine", os.O_RDONLY), os.open("/dev/random", os.O_RDWR)
top, found = os.open("/", os.O_PATH), os.open(target, os.O_PATH)
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
def syscall(number, *arguments):
    checked(libc.syscall(number, *arguments))
def prctl(*arguments):
    checked(libc.prctl(*arguments))
def attempt(lines):
    outcome = {}
    for line in lines:
        try:
            eval(line, globals())
        except OSError as problem:
            outcome[line] = errno.errorcode[problem.errno]
        else:
            outcome[line] = "ESCAPED"
    return outcome
pair, other = socket.socketpair()
"""

DRIVER = """
import json, os, socket, stat, subprocess, sys, threading, time
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits

os.umask(0)
open("target", "w").write("as it was")
open("secret", "w").write("secret")
os.mkdir("folder"), os.mkfifo("fifo")
os.utime("target", (1e9, 1e9))
alone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); alone.bind("datagrams")
hidden = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); hidden.bind(b"\\0hidden")
server = socket.create_server(("127.0.0.1", 0))
ids = {} if os.getuid() else {"user": 1234}
foreign = subprocess.Popen(["sleep", "60"], **ids)
own = subprocess.Popen(["sleep", "60"], process_group=0)
facts = {"foreign": foreign.pid, "own": own.pid, "driver": os.getpid(), "group": own.pid}

def state():
    def look(name):
        found = os.stat(name)
        return [found.st_mode, found.st_uid, found.st_mtime, found.st_size, os.listxattr(name)]
    return [look("target"), look("secret"), open("target").read(), sorted(os.listdir("folder")),
            [os.sched_getaffinity(p.pid) == os.sched_getaffinity(0) for p in (foreign, own)],
            [os.getpriority(os.PRIO_PROCESS, p.pid) for p in (foreign, own)]]

before, results = state(), {}
limits = Limits(seconds=5, memory_mb=512, folder_mb=8, processes=16)
with open_sandbox("landlock", limits=limits) as session:
    preamble, attacks = json.load(sys.stdin)
    [execution] = session.run([preamble.replace("FACTS", repr(facts))])
    assert execution.error is None, execution.error
    for name, code in attacks.items():
        [execution] = session.run([f"attempt({code!r})"])
        results[name] = execution.value or {"the step": execution.error}
    running = [p.poll() is None for p in (foreign, own)]
after = state()
heard = []
for sock in (alone, hidden, server):
    sock.setblocking(False)
    try:
        heard.append(str(sock.accept() if sock is server else sock.recv(100)))
    except BlockingIOError:
        pass
until = time.monotonic() + 5  # the launcher removes the folder after the last process has ended
while time.monotonic() < until and any(name.startswith("agentdistill-") for name in os.listdir(".")):
    time.sleep(0.01)
left = sorted(os.listdir("."))
foreign.kill(), own.kill()
print(json.dumps({"results": results, "same": json.dumps(before) == json.dumps(after), "running": running,
                  "heard": heard, "left": left}))
"""

BOMBS = {
    "bytes": "for i in range(40): open(f'f{i}', 'wb').write(bytes(4 << 20))",
    "deleted files": """
files = []
for i in range(40):
    files.append(open('f', 'wb', 0))
    files[-1].write(bytes(4 << 20))
    os.unlink('f')
""",
    "files": "for i in range(25_000): os.close(os.open(f'f{i}', os.O_CREAT))",
    "a closed folder": "os.mkdir('closed', 0o300)\nopen('closed/f', 'wb').write(b'x')",
    "deep folders": "for i in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    "forks": """
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.1)
""",
}

BOMB_DRIVER = """
import json, os, sys, time
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits

def processes():
    return sum(name.isdigit() for name in os.listdir("/proc"))

def soon(true, seconds=5):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()

results = {}
session = open_sandbox("landlock", limits=Limits(seconds=5, memory_mb=512, folder_mb=8, processes=16))
session.run(["x = 5"])
time.sleep(0.2)
quiet = processes()
for name, code in json.load(sys.stdin).items():
    [execution] = session.run([f"import os, time\\n{code}\\ntime.sleep(4)"])
    [after] = session.run(["x"])
    few = soon(lambda: processes() <= quiet + len(results) + 1)  # one twin more for each step that went well
    results[name] = [execution.error_kind, after.value, execution.seconds, few]
session.run(["import threading, time\\ndef work():\\n    time.sleep(0.3)\\n    for i in range(40):"
             " open(f'f{i}', 'wb').write(bytes(4 << 20))\\n    time.sleep(60)\\n"
             "threading.Thread(target=work, daemon=True).start()"])
used = lambda: os.statvfs(".").f_blocks - os.statvfs(".").f_bfree
before = used() * os.statvfs(".").f_frsize
soon(lambda: used() * os.statvfs(".").f_frsize > before + (100 << 20))
results["idle"] = soon(lambda: used() * os.statvfs(".").f_frsize < before + (8 << 20))
[after] = session.run(["'works'"])
results["afterwards"] = after.value
session.close()
results["clean"] = soon(lambda: os.listdir(".") == [])
print(json.dumps(results))
"""

ORPHANS = """
import json, os, signal, time
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits

def supervisors():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"/supervisor.py\\0" in open(f"/proc/{name}/cmdline", "rb").read():
                found.append(int(name))
        except OSError:
            pass
    return found

session = open_sandbox("landlock", limits=Limits(seconds=20, processes=16))
[supervisor] = [pid for pid in supervisors() if os.getsid(pid) == pid]
chain = "import os\\nif os.fork() == 0:\\n    while True:\\n        if os.fork(): os._exit(0)"
leave = "if os.fork() == 0:\\n    if os.fork(): os._exit(0)\\n    import time; time.sleep(60)"
session.run([chain])
[alive] = session.run(["import os\\n" + leave + "\\nos.mkdir('shut', 0)\\n1"])
os.kill(supervisor, signal.SIGKILL)
session.close()
until = time.monotonic() + 8
while (left := [supervisors(), os.listdir(".")]) != [[], []] and time.monotonic() < until:
    time.sleep(0.02)
print(json.dumps([alive.value, left]))
"""

OLDER = """
import ctypes, errno, json, os, signal, subprocess, sys, sysconfig
sys.path.insert(0, json.load(sys.stdin))
import confine, landlock_rules

open("target", "w").write("as it was")
os.mkdir("own")
foreign = subprocess.Popen(["sleep", "60"])
libc = ctypes.CDLL(None, use_errno=True)
results = {}

def attempt(call):
    try:
        call()
    except OSError as problem:
        return errno.errorcode[problem.errno]
    return "done"

def inside(version):
    os.setsid()
    os.chdir("own")
    rules = [["read", os.path.dirname(os.__file__)], ["write", os.getcwd()]]
    landlock_rules.enter({"rules": rules, "uid": None}, version)
    if os.fork():  # we are what the first interpreter is in a session: signals to it are always denied
        os.wait()
        os._exit(0)
    target = "../target"
    return {
        "open": attempt(lambda: open(target)),
        "write": attempt(lambda: open(target, "w")),
        "truncate": attempt(lambda: os.truncate(target, 0)),
        "truncate what may be read": attempt(lambda: os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)),
        "kill": attempt(lambda: os.kill(foreign.pid, 9)),
        "thread": attempt(lambda: signal.raise_signal(0)),
        "own group": attempt(lambda: os.kill(0, 0)),
        "own file": attempt(lambda: open("mine", "w").write("x")),
        "socket": attempt(lambda: __import__("socket").socket()),
    }

for version in range(1, min(landlock_rules.abi(), landlock_rules.NEWEST) + 1):
    reading, writing = os.pipe()
    if os.fork() == 0:
        confine._prctl(confine._PR_SET_NO_NEW_PRIVS, 1)
        try:
            os.write(writing, json.dumps(inside(version)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    results[version] = json.loads(os.read(reading, 9999) or b"null")
    os.wait()
alive = foreign.poll() is None
foreign.kill()
print(json.dumps([results, open("target").read(), alive]))
"""

EVERYDAY = """
import asyncio, multiprocessing, os, shutil, tempfile, threading, zipfile
open("a", "w").write("1")
os.makedirs("x/y")
shutil.copyfile("a", "x/b"), shutil.move("x/b", "x/y/c"), shutil.rmtree("x")
with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(folder + "/z", "w") as archive:
    archive.writestr("n", "1")
made = []
thread = threading.Thread(target=lambda: made.append(1)); thread.start(); thread.join()
there, back = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=lambda: back.send("from a fork")); child.start()
said = there.recv(); child.join()
async def main():
    await asyncio.sleep(0)
    return "async"
try:
    shutil.copy2("a", "b")
except PermissionError:
    pass
asyncio.run(main()), said, made, open("b").read(), sorted(os.listdir())
"""
