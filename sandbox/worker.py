"""An interpreter of a session: runs model code, forks on demand. One process, one channel.

It sits in a loop on its own socket to the supervisor. A frame is either a message of the client (`setup`,
`run`, `put`, an answer to a tool call) or the supervisor's order to fork, which carries the sockets, the
log files and the folders of the children. Every fork goes on in the same loop on its own socket.

Guaranteed: stdin is empty, what is printed goes into this process's log, the namespace is that of a real
module `__main__`, `final_answer` ends the step, a traceback shows only lines of the user's code.
Not guaranteed: anything against code that turns on this very process. Model code can patch this module,
lie about its result and break its own session. It has no other channel than this one, and the supervisor
drops what does not come from this process id.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import socket
import stat
import sys
import types
from _ast import Expr, Expression, PyCF_ONLY_AST  # `ast` itself takes 3 ms of a session's start

import channel
import confine
import wire

MAX_TRACEBACK = 2_000
MAX_FRAMES = 5


class FinalAnswer(BaseException):
    """Ends the step. Not an Exception, so that `except Exception` in model code lets it pass."""


class Output:
    """What `print` writes to: straight to the log file, up to the limit, counting what it drops."""

    encoding = "utf-8"
    errors = "replace"
    closed = False

    def __init__(self, limit):
        self.limit = limit
        self.begin()

    def begin(self):
        self.left = self.limit
        self.dropped = 0

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if len(text) > self.left:
            self.dropped += len(text) - self.left
        if self.left:
            kept = text[: self.left]
            self.left -= len(kept)
            data = kept.encode("utf-8", "replace")
            while data:
                data = data[os.write(1, data) :]
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        pass

    def close(self):
        pass

    def isatty(self):
        return False

    def readable(self):
        return False

    def writable(self):
        return True

    def seekable(self):
        return False

    def fileno(self):
        return 1


class Interpreter:
    """The state of a session: the module `__main__` with everything the steps so far have left in it."""

    def __init__(self, channel):
        self.channel = channel
        self.output = Output(20_000)
        self.tools = {}
        self.sources = {}  # file name given to compile() -> lines, for tracebacks into earlier steps
        self.final = None
        self.lost = []  # what could not be carried into this fork
        self.main = types.ModuleType("__main__")
        self.main.__builtins__ = __builtins__
        sys.modules["__main__"] = self.main

    def serve(self):
        while True:
            kind, message, fds = self.channel.request()
            if kind == wire.FORK:
                self.fork(message, fds)
            elif message["op"] == "run":
                self.run(message)
            elif message["op"] == "put":
                self.main.__dict__[message["name"]] = wire.decode_value(message["value"])
            elif message["op"] == "setup":
                self.setup(message)

    def setup(self, message):
        self.output = Output(message["output_chars"])
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = self.output
        for tool in message["tools"]:
            self.tools[tool["name"]] = self.stub(tool["name"], tool["parameters"])
        self.tools["final_answer"] = self.final_answer
        self.main.__dict__.update(self.tools)

    def stub(self, name, parameters):
        def tool(*args, **kwargs):
            return self.channel.call(name, args, kwargs)

        tool.__name__ = tool.__qualname__ = name
        tool.__doc__ = f"{name}({', '.join(parameters)})"
        return tool

    def final_answer(self, answer=None):
        """Give the final answer and end the step."""
        if self.final is None:  # the first one counts, even if a bare `except:` swallows what ends the step
            self.final = (answer,)
        raise FinalAnswer

    # ------------------------------------------------------------------ one step

    def run(self, message):
        reap()
        owner = os.getpid()
        self.output.begin()
        sys.stdout = sys.stderr = self.output
        sys.modules["__main__"] = self.main
        self.main.__dict__.update(self.tools)
        self.final = None
        self.channel.run = message["run"]
        value, error, kind = None, None, None
        try:
            if self.lost:
                raise OSError(self.lost.pop())  # said once; the code has not run
            value = self.execute(message["code"])
        except FinalAnswer:
            pass
        except BaseException as problem:
            if os.getpid() != owner:
                os._exit(1)
            error, kind = self.describe(problem)
            problem = None
        if os.getpid() != owner:
            os._exit(0)  # model code forked and its child came through: it has no result to give
        final = self.final is not None
        if final:
            value, error, kind = self.final[0], None, None
        try:
            encoded = wire.encode_value(value)
        except BaseException as problem:  # a hostile __class__, a MemoryError: still an answer
            encoded = {"$": "opaque", "type": "object", "repr": f"<not readable: {type(problem).__name__}>"}
        value = self.final = self.channel.run = None
        logs, cut = self.logs()
        result = {"op": "result", "run": message["run"], "logs": logs, "cut": cut, "value": encoded}
        self.channel.send({**result, "final": final, "error": error, "kind": kind})

    def execute(self, code):
        """Run like a notebook cell: the value is that of the last statement, if it is an expression."""
        name = f"<code {len(self.sources) + 1}>"
        self.sources[name] = code.splitlines()
        return evaluate(code, name, self.main.__dict__)

    def logs(self):
        size = os.fstat(1).st_size
        if not size:
            return "", self.output.dropped
        window = self.output.limit * 4
        text = os.pread(1, window, 0).decode("utf-8", "replace")
        os.ftruncate(1, 0)
        cut = self.output.dropped + max(0, size - window) + max(0, len(text) - self.output.limit)
        return text[: self.output.limit], cut

    # ------------------------------------------------------------------ errors for a small model

    def describe(self, problem):
        kind = "exception"
        if isinstance(problem, MemoryError):
            kind = "memory"
        elif isinstance(problem, channel.ToolError):
            kind = "tool"
        try:
            text = self.traceback(problem)
        except BaseException as error:
            text = f"{type(problem).__name__} (its text could not be read: {type(error).__name__})"
        if len(text) > MAX_TRACEBACK:
            text = f"{text[: MAX_TRACEBACK // 2]}\n...\n{text[-MAX_TRACEBACK // 2 :]}"
        return text, kind

    def traceback(self, problem):
        frames = []
        step = problem.__traceback__
        while step is not None:
            code = step.tb_frame.f_code
            if code.co_filename in self.sources:
                frames.append((code.co_filename, step.tb_lineno, code.co_name))
            step = step.tb_next
        if isinstance(problem, SyntaxError) and problem.filename in self.sources:
            frames = [(problem.filename, problem.lineno or 0, "<module>")]
            head = f"{type(problem).__name__}: {problem.msg}"
        else:
            words = str(problem)
            head = type(problem).__name__ + (f": {words}" if words else "")
        lines = []
        if len(frames) > MAX_FRAMES:
            lines.append(f"  ... {len(frames) - MAX_FRAMES} more calls")
        newest = f"<code {len(self.sources)}>"
        for name, number, function in frames[-MAX_FRAMES:]:
            where = "" if name == newest else f" (step {name[6:-1]})"
            lines.append(f"  line {number}, in {function}{where}")
            source = self.sources[name]
            if 0 < number <= len(source):
                lines.append(f"    {source[number - 1].strip()[:200]}")
        return "\n".join((["Traceback:"] if lines else []) + lines + [head])

    # ------------------------------------------------------------------ forks

    def fork(self, order, fds):
        """Fork one child per folder. They are made by a child that ends, so the supervisor adopts them."""
        folders = order["folders"]
        sockets, logs = fds[: len(folders)], fds[len(folders) :]
        reap()
        random = sys.modules.get("random")  # it seeds itself anew in a fork; a twin must not
        seed = random.getstate() if random else None
        between = os.fork()
        if between:
            for fd in fds:
                os.close(fd)
            if not order["waiting"]:
                self.rehearse()
            with contextlib.suppress(ChildProcessError):  # model code may have told the kernel to reap
                os.waitpid(between, 0)
            return
        held = open_files()
        for index, folder in enumerate(folders):
            child = os.fork()
            if child == 0:
                try:
                    self.become(sockets[index], logs[index], folder, fds, held)
                    if random:
                        random.setstate(seed)
                except BaseException:
                    os._exit(1)
                return
            with contextlib.suppress(OSError):  # before the step goes on, and kills its group
                os.setpgid(child, child)
        os._exit(0)

    def rehearse(self):
        """Touch what a step touches. A fork has made every page of ours shared, and the first write to each
        copies it: better now, when nobody waits, than in the next step."""
        with contextlib.suppress(Exception):  # model code may have broken json; the next step will say so
            message, _ = channel.read_json('{"code": "x = 1\\nx"}')
            value = evaluate(message["code"], "<code>", {})
            json.dumps({"value": wire.encode_value(value)}).encode()
            self.logs()

    def become(self, sock, log, folder, fds, held):
        """Turn this fresh fork into an interpreter of its own. `held`: its descriptors from 3 on."""
        for fd in fds:
            if fd not in (sock, log):
                os.close(fd)
        gone = {*fds, self.channel.sock.fileno()}
        self.channel.sock.close()
        with contextlib.suppress(PermissionError):  # in the landlock jail the supervisor does it
            os.setpgid(0, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        before = os.environ.get("HOME", "")
        os.environ["HOME"] = os.environ["TMPDIR"] = folder
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = None
        self.separate_files([fd for fd in held if fd not in gone], before, folder)
        os.chdir(folder)
        self.channel = channel.Channel(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, sock))
        self.channel.ready()

    def separate_files(self, held, before, folder):
        """Open files go on in copies of our own, at the same place; sockets and pipes are closed."""
        paths = None
        for fd in held:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                if not stat.S_ISCHR(status.st_mode):
                    os.close(fd)
                continue
            if paths is None:
                paths = inodes(before)
            name = paths.get((status.st_dev, status.st_ino))
            try:
                copy = duplicate(fd, folder) if name is None else reopen(fd, os.path.join(folder, name))
                os.lseek(copy, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
            except OSError as problem:
                self.lost.append(f"an open file could not be copied ({problem.strerror}): close it first")
                copy = os.open(os.devnull, os.O_RDWR)  # better no file than the sibling's
            os.dup2(copy, fd, inheritable=False)
            os.close(copy)


def reopen(fd, path):
    """The file at `path`, opened as `fd` is."""
    import fcntl

    return os.open(path, fcntl.fcntl(fd, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))


def duplicate(fd, folder):
    """A nameless file with the content of one that has no name in our folder, because it was deleted."""
    copy = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
    try:
        place = 0
        while data := os.pread(fd, 1 << 20, place):
            place += os.write(copy, data)
    except OSError:
        os.close(copy)
        raise
    return copy


def evaluate(code, name, space):
    tree = compile(code, name, "exec", PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
    exec(compile(tree, name, "exec", dont_inherit=True), space)
    if last is None:
        return None
    return eval(compile(Expression(last.value), name, "eval", dont_inherit=True), space)


def open_files():
    """Descriptors in use, but for the first three: one call to the kernel instead of one for each."""
    poll = select.poll()
    for fd in range(3, confine.MAX_DESCRIPTORS):
        poll.register(fd, 0)
    closed = {fd for fd, events in poll.poll(0) if events & select.POLLNVAL}
    return [fd for fd in range(3, confine.MAX_DESCRIPTORS) if fd not in closed]


def reap():
    """Collect the children that an earlier step left and the supervisor has killed: zombies are processes."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def inodes(folder):
    """(device, inode) -> path inside the folder, for every regular file in it."""
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            status = os.lstat(path)
            found[status.st_dev, status.st_ino] = os.path.relpath(path, folder)
    return found


def main(sock, preload):
    """The first interpreter of a session; the supervisor has forked us and set the limits.

    Modules loaded here are shared by all forks. Frozen, they are left alone by the garbage collector, whose
    marks would make every fork copy them page by page.
    """
    for name in preload:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            print(f"{name} cannot be preloaded: {problem}", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
    if preload:
        gc.collect()
    gc.freeze()
    interpreter = Interpreter(channel.Channel(sock))
    interpreter.channel.ready()
    interpreter.serve()
