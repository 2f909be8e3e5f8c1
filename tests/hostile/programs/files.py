"""The host's files, other users' files, and ways out of the one folder that may be written to."""

from __future__ import annotations

from arena import Attack, Program, gives, held, played, refused

LOOK = """
import os
def look(path):
    try:
        with open(path, 'rb') as file: print(file.read(4000))
    except OSError as e: print('refused', e)
    try: print(os.listdir(path))
    except OSError as e: print('refused', e)
"""
REACH = """
import os
def reach(do, *args):
    try: do(*args)
    except OSError as e: print('refused', e)
    else: print('ESCAPED', do, args)
"""

READING: list[Program] = [
    held(
        LOOK + "for folder in host['folders']: look(folder + '/secret.txt'); look(folder)",
        "reading the host's files",
    ),
    held(
        LOOK + "look(host['bystander'] + '/mine'); look(host['bystander'])",
        "reading another session's folder",
    ),
    held(LOOK + "for up in range(1, 30): look('../' * up + host['secret'][1:])", "climbing out with .."),
    held(LOOK + "import os\nos.symlink(host['secret'], 'l')\nlook('l')", "a symbolic link to a file"),
    held(
        LOOK + "import os\nos.symlink(host['folder'], 'd')\nlook('d')\nlook('d/secret.txt')",
        "a symbolic link to a folder",
    ),
    refused(
        "import os\nos.link(host['secret'], 'l')\nprint('ESCAPED', open('l').read())", "a hard link to a file"
    ),
    refused(
        "import os, sys\nos.link(sys.modules['wire'].__file__, 'l')\nprint('ESCAPED')",
        "a hard link to our programs",
    ),
    held(
        LOOK
        + """
    for base in ('/proc/self/root', '/proc/1/root', '/proc/2/root', f'/proc/{os.getppid()}/root', '/proc/self/cwd',
                 '/proc/thread-self/root', '/dev/fd/..', '/proc/1/cwd'):
        look(base + host['secret'])
    """,
        "through the links of /proc",
    ),
    held(
        """
    import os
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_DIRECT | os.O_RDONLY):
        try: fd = os.open(host['secret'], flags)
        except OSError as e: print('refused', e); continue
        try: print(os.read(fd, 100))
        except OSError as e: print('refused', e)
        for way in (f'/proc/self/fd/{fd}', f'/dev/fd/{fd}'):
            try: print(open(way).read())
            except OSError as e: print('refused', e)
    """,
        "every way to open",
    ),
    held(
        """
    import os
    try: root = os.open('/', os.O_PATH | os.O_DIRECTORY)
    except OSError as e: print('refused', e)
    else:
        try: print(os.read(os.open(host['secret'][1:], os.O_RDONLY, dir_fd=root), 100))
        except OSError as e: print('refused', e)
        try: os.fchdir(root); print(open(host['secret'][1:]).read())
        except OSError as e: print('refused', e)
    """,
        "from a descriptor of the root",
    ),
    held(
        """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    how = (ctypes.c_uint64 * 3)(0, 0, 0)
    fd = libc.syscall(437, -100, host['secret'].encode(), how, 24)
    print(os.read(fd, 100) if fd >= 0 else f'refused {ctypes.get_errno()}')
    """,
        "openat2",
    ),
    held(
        "import mmap, os\nfd = os.open(host['secret'], os.O_RDONLY)\nprint(mmap.mmap(fd, 0, prot=1)[:])",
        "mapping a file",
    ),
    held(
        "import os\nsource = os.open(host['secret'], os.O_RDONLY)\nos.sendfile(os.open('x', 65, 0o600), source, 0, 99)\nopen('x').read()",
        "sendfile",
    ),
    held(
        "import shutil\nshutil.copytree(host['folder'], 'copy')\nopen('copy/secret.txt').read()",
        "copying a tree",
    ),
    held("import sys\nsys.path[:0] = host['folders']\nimport canary_module", "importing the host's modules"),
    held("import runpy\nrunpy.run_path(host['folder'] + '/canary_module.py')", "running the host's modules"),
    held("import linecache\nlinecache.getlines(host['secret'])", "linecache"),
    held("import fileinput\nlist(fileinput.input(host['secret']))", "fileinput"),
    held("import urllib.request\nurllib.request.urlopen('file://' + host['secret']).read()", "file: URLs"),
    held(
        "import sqlite3\nsqlite3.connect('file:' + host['secret'] + '?mode=ro', uri=True).execute('select * from x')",
        "sqlite3",
    ),
    held("import numpy\nprint(bytes(numpy.fromfile(host['secret'], dtype='u1')))", "numpy.fromfile"),
    held("import numpy\nprint(bytes(numpy.memmap(host['secret'], mode='r')))", "numpy.memmap"),
    held("import numpy\nprint(numpy.loadtxt(host['secret'], dtype=str))", "numpy.loadtxt"),
    held(
        "import subprocess\nprint(subprocess.run(['cat', host['secret']], capture_output=True))",
        "a program that reads",
    ),
    held(
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', f\"print(open({host['secret']!r}).read())\"], capture_output=True))",
        "another Python that reads",
    ),
    held(
        "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', f\"print(open({host['secret']!r}).read())\"])",
        "becoming another Python that reads",
    ),
    held(
        "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', f\"cat {host['secret']} > out\"], {})\nimport time\ntime.sleep(.2)\nopen('out').read()",
        "a shell",
    ),
    held(
        LOOK
        + "for p in ('/etc/shadow', '/root/.ssh', '/root/.bash_history', '/var/run/docker.sock', '/run/secrets'): look(p)\n'root:' in ''",
        "places where treasures usually are",
    ),
    held(LOOK + "look(host['checkout'])", "the checkout"),
    gives(
        "import importlib.util as u\n[u.find_spec(name) for name in ('pytest', 'pip', 'agentdistill', 'torch')]",
        [None] * 4,
        "what else is installed isn't to be seen",
    ),
    held(
        """
    import os
    for top in ('/private', '/private/proc', f'/proc/{os.getppid()}', '/proc/1', '/proc/2'):
        for attempt in (lambda: os.listdir(top + '/fd'), lambda: open(top + '/environ').read(), lambda: os.chdir(top),
                        lambda: open(top + '/mem', 'rb').read(1), lambda: os.listdir(top + '/task/1/fd')):
            try: print(attempt())
            except OSError as e: print('refused', e)
    """,
        "the supervisor's /proc",
    ),
    refused(
        """
    import os
    for name in ('fd', 'environ', 'mem', 'maps', 'auxv', 'cwd', 'exe', 'root'):
        for top in ('/private/proc/2', f'/proc/{os.getppid()}'):
            try: os.open(f'{top}/{name}', os.O_RDONLY); print('ESCAPED', top, name)
            except OSError as e: print('refused', e)
    """,
        "the supervisor's descriptors, memory and environment",
    ),
]

WRITING: list[Program] = [
    held("for folder in host['folders']:\n    try: open(folder + '/open.txt', 'a').write('x'); print('ESCAPED')\n    except OSError as e: print('refused', e)",
         "writing to a file of the host that all may write to"),
    held("for folder in host['folders']:\n    try: open(folder + '/drop/x', 'w'); print('ESCAPED')\n    except OSError as e: print('refused', e)",
         "making a file in a folder of the host that all may write to"),
    held(REACH + """
    path, drop = host['open'], host['drop']
    reach(os.truncate, path, 0); reach(os.chmod, path, 0o600); reach(os.chown, path, os.getuid(), -1)
    reach(os.utime, path, (0, 0)); reach(os.rename, path, drop + '/x'); reach(os.unlink, path); reach(os.rmdir, drop)
    reach(os.setxattr, path, 'user.x', b'x'); reach(os.mkdir, drop + '/d'); reach(os.mkfifo, drop + '/p')
    reach(os.symlink, 'x', drop + '/l'); reach(os.link, path, drop + '/h'); reach(os.mknod, drop + '/n')
    reach(os.chmod, drop, 0o700); reach(os.utime, drop, (0, 0)); reach(os.replace, drop, drop + '2')
    """, "changing the host's files by name"),
    held(REACH + """
    open('f', 'w').close()
    reach(os.rename, 'f', host['drop'] + '/f'); reach(os.link, 'f', host['drop'] + '/g')
    """, "moving a file out"),
    held(REACH + """
    import sys
    programs = os.path.dirname(sys.modules['wire'].__file__)
    reach(open, programs + '/worker.py', 'a'); reach(os.unlink, programs + '/wire.py'); reach(open, programs + '/x', 'w')
    reach(os.chmod, programs + '/worker.py', 0o777); reach(os.rename, programs, 'x')
    """, "changing our programs"),
    held(REACH + """
    import json, sys
    for module in (json, os, sys.modules['encodings']):
        reach(open, module.__file__, 'a'); reach(open, os.path.dirname(module.__file__) + '/x.py', 'w')
    reach(open, sys.executable, 'r+b')
    for entry in sys.path: reach(open, entry + '/x.pth', 'w')
    """, "changing the Python of others"),
    held("""
    import os, sys
    home = os.path.realpath(os.environ['HOME'])
    tops = ['/', '/dev', '/dev/shm', '/dev/mqueue', '/tmp', '/var/tmp', '/run', '/run/lock', '/var/lock', '/home', '/root', '/etc',
            '/private', '/sandbox', '/packages', '/python', '/session', '/opt', '/srv', '/mnt', '/sys/fs/cgroup', '/proc/self',
            os.path.dirname(home), sys.prefix, host['folder'], host['drop']]
    for top in tops:
        try: entries = [top, *(e.path for e in os.scandir(top) if e.is_dir(follow_symlinks=False))]
        except OSError: entries = [top]
        for folder in entries:
            if os.path.realpath(folder).startswith(os.path.dirname(home)): continue
            try: open(folder + '/hostile', 'x'); print('ESCAPED', folder)
            except OSError: pass
    """, "a folder to write to, anywhere"),
    refused("import os, stat\nos.mknod('d', stat.S_IFBLK | 0o600, os.makedev(254, 0))\nprint('ESCAPED')", "a block device"),
    refused("import os, stat\nos.mknod('d', stat.S_IFCHR | 0o600, os.makedev(1, 1))\nprint('ESCAPED')", "a character device"),
    held("""
    import os
    for name in os.listdir('/dev'):
        if name in ('null', 'zero', 'full', 'random', 'urandom', 'fd', 'stdin', 'stdout', 'stderr', 'core'): continue
        try: os.open('/dev/' + name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as e: print('refused', e)
        else: print('there is', name) if name in ('ptmx', 'tty') or os.path.isdir('/dev/' + name) else print('ESCAPED', name)
    """, "devices that do something"),
]  # fmt: skip

OWN: list[Program] = [
    held("import os\nos.mkfifo('pipe')\nos.symlink('loop', 'loop')\nos.symlink('.', 'dot')\nos.symlink('/', 'root')", "odd things in the folder"),
    held("import os\nfor name in (b'\\xff\\xfe', b'a\\nb', b'x' * 255, b' ', b'-rf', b'*'): open(name, 'w').close()", "odd names in the folder"),
    held("import os\nopen('f', 'w').close()\nos.chmod('f', 0)\nos.mkdir('d')\nos.chmod('d', 0)", "files nobody may read", may_lose_state=True),
    held("import os\nos.chmod('.', 0)", "a folder nobody may enter", may_lose_state=True),
    held("import os, shutil\nshutil.rmtree(os.getcwd())", "a folder that is gone", may_lose_state=True),
    held("import os\nhere = os.getcwd()\nos.chdir('/')\nos.rename(here, here + 'x')", "a folder that was renamed", may_lose_state=True),
    held("import os\nhere = os.getcwd()\nos.chdir('/')\nos.rmdir(here)\nos.symlink(host['folder'], here)", "a folder that has become a link out",
         may_lose_state=True),
    held("import fcntl\nf = open('f', 'w')\nfcntl.flock(f, fcntl.LOCK_EX)\nfcntl.lockf(f, fcntl.LOCK_EX)\nfcntl.fcntl(f, 1024, 1)",
         "locks and a lease that are kept", may_lose_state=True),
    held("import os\nfds = [os.open('f', os.O_RDWR | os.O_CREAT) for _ in range(200)]", "descriptors left open"),
    held("import os\nos.closerange(0, 3)\nprint('x')", "standard descriptors closed"),
    held("import os\nfor fd in (0, 1, 2): os.dup2(os.open('/dev/zero', os.O_RDWR), fd)", "standard descriptors replaced", may_lose_state=True),
]  # fmt: skip


@played("links out are copied as links")
def links_are_copied_as_links(attack: Attack) -> None:
    attack.one("import os\nos.symlink(host['folder'], 'd')\nos.symlink(host['secret'], 's')\nos.mkfifo('p')")
    listing = "import os\n[(n, os.path.islink(n)) for n in sorted(os.listdir())]"
    first, second = attack.run(listing, listing)
    assert first.value == second.value == [("d", True), ("s", True)], first


@played("a link that takes a folder's place while it is copied", may_lose_state=True)
def link_race(attack: Attack) -> None:
    """A thread of the session goes on between its steps; the supervisor copies its folder for candidates."""
    attack.one("""
    import os, threading
    os.mkdir('d'); open('d/own', 'w').close()
    os.symlink(host['folder'], 'l'); os.mkdir('e')
    def swap():
        while True:
            try:
                os.rename('d', 'e/d'); os.rename('l', 'd'); os.rename('d', 'l'); os.rename('e/d', 'd')
            except OSError: pass
    threading.Thread(target=swap, daemon=True).start()
    """)
    look = """
    import os
    for top, folders, names in os.walk('.', followlinks=False):
        for name in names:
            try: print(top, name, open(os.path.join(top, name)).read()) if not os.path.islink(os.path.join(top, name)) else None
            except OSError: pass
        print([n for n in folders if not os.path.islink(os.path.join(top, n))])
    """  # fmt: skip
    for _ in range(15):
        attack.run(look, look)


@played("a link that takes a file's place while it is copied", may_lose_state=True)
def file_race(attack: Attack) -> None:
    attack.one("""
    import os, threading
    open('f', 'w').close()
    os.symlink(host['secret'], 'l')
    def swap():
        while True:
            try: os.rename('f', 'g'); os.rename('l', 'f'); os.rename('f', 'l'); os.rename('g', 'f')
            except OSError: pass
    threading.Thread(target=swap, daemon=True).start()
    """)
    look = """
    import os
    for name in os.listdir():
        try: print(name, open(name).read()) if not os.path.islink(name) else None
        except OSError: pass
    """
    for _ in range(15):
        attack.run(look, look)


PROGRAMS = [*READING, *WRITING, *OWN, links_are_copied_as_links, link_race, file_race]
