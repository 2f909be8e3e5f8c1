"""The first interpreter of a session: from a fork of the supervisor to a process that may run model code.

It never runs any: it imports what is to be preloaded and is forked. Whatever confines the session's
interpreters is put on it here, while it has one thread and before it imports a package.
"""

import os
import signal
import socket
import sys

import confine
import worker

HERE = os.path.dirname(os.path.abspath(__file__))


def become(sock, log, folder, config):
    """Serve on `sock` in `folder`; never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    empty = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((empty, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    fd = os.dup(sock.detach())
    os.closerange(3, fd)
    os.closerange(fd + 1, confine.MAX_DESCRIPTORS)
    os.set_inheritable(fd, False)
    environment = {"PATH": "/nonexistent", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder}
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    os.environ.clear()
    os.environ.update(environment, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", **kept)
    os.chdir(folder)
    confine.settle_interpreter(config)
    sys.path[:] = [entry for entry in sys.path if entry != HERE]
    sys.path += config["packages"]
    sys.argv[:] = [""]
    worker.main(socket.socket(fileno=fd), config["preload"])
