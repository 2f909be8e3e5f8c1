"""Runs while the image is built: puts Python, what it links, and the packages into a folder of their own.

    python3 pack.py /image

Beside this file lie wheels/, requirements.txt (what model code may import, into /packages) and
gateway-requirements.txt (into Python's own site-packages, which a session's interpreter never looks at).
Files keep the paths they have in the base image, so that Python and the loader find them where they were.
Guaranteed: nothing is fetched, and nothing that pip and the loader don't name gets in.
"""

import compileall
import glob
import os
import py_compile
import shutil
import site
import subprocess
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
# Of the standard library: no use without a display, a compiler or an installer, or only for its own tests.
LEFT_OUT = (
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "_tkinter*",
    "_test*",
    "_ctypes_test*",
    "_xxtestfuzz*",
)


class LibraryMissing(Exception):
    pass


def main():
    image = sys.argv[1]
    packages, gateway = f"{image}/packages", image + site.getsitepackages()[0]
    install("requirements.txt", packages)
    install("gateway-requirements.txt", gateway)
    with open(f"{gateway}/packages.pth", "w", encoding="utf-8") as file:
        file.write("/packages\n")
    library = sysconfig.get_path("stdlib")
    skip = shutil.ignore_patterns("__pycache__", f"config-{sys.version_info[0]}*", "*.a", *LEFT_OUT)
    shutil.copytree(library, image + library, ignore=skip, symlinks=False, dirs_exist_ok=True)
    program = os.path.realpath(sys.executable)
    copy(program, image)
    os.makedirs(f"{image}/bin", exist_ok=True)
    os.symlink(program, f"{image}/bin/python")
    needed = linked(program)
    for path in glob.glob(f"{packages}/**/*.so", recursive=True):
        needed |= linked(path)
    for path in glob.glob(f"{image}{library}/lib-dynload/*.so"):
        try:
            needed |= linked(path)
        except LibraryMissing as problem:  # so it can't be imported in the base image either
            print(f"left out: {problem}")  # noqa: T201
            os.remove(path)
    for path in sorted(needed):
        if not path.startswith(image):
            copy(path, image)
    if os.path.exists("/etc/ld.so.cache"):
        copy("/etc/ld.so.cache", image)
    # Not by time stamp: a copy between stages may change those, and a session can't write byte code.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for folder in (image + library, packages, gateway):
        compileall.compile_dir(folder, quiet=2, stripdir=image, invalidation_mode=mode)


def install(requirements, target):
    """By pip's own wheel: the base image needn't have pip, and may forbid to install into it."""
    [pip] = glob.glob(f"{HERE}/wheels/pip-*.whl")
    command = [sys.executable, f"{pip}/pip", "install", "--no-index", "--find-links", f"{HERE}/wheels"]
    command += ["--no-deps", "--no-compile", "--no-cache-dir", "--quiet", "--root-user-action", "ignore"]
    subprocess.run([*command, "--target", target, "-r", f"{HERE}/{requirements}"], check=True)


def linked(binary):
    """The paths where a program or library will look for its loader and its shared libraries."""
    run = subprocess.run([loader(), "--list", binary], capture_output=True, text=True, check=False)
    if run.returncode != 0 or "not found" in run.stdout:
        raise LibraryMissing(
            f"the base image lacks what {os.path.basename(binary)} links: {run.stderr.strip()}"
        )
    words = run.stdout.replace("=>", " ").split()
    return {word for word in words if word.startswith("/")}


def loader():
    """The ELF interpreter that has loaded this Python."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        paths = {line.split()[-1] for line in lines}
    return next(path for path in sorted(paths) if os.path.basename(path).startswith(("ld-", "ld64")))


def copy(path, image):
    target = image + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy2(os.path.realpath(path), target)


if __name__ == "__main__":
    main()
