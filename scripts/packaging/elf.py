"""The needs of a program: shared libraries, and the oldest glibc that has its symbols."""

import re
from pathlib import Path

from .release import output

# Whatever else a program is linked with has to be told to the packages first.
KNOWN = {"libc.so.6", "libm.so.6", "libgcc_s.so.1"}
LOADERS = re.compile(r"ld-linux.*\.so\.\d")


def libraries(program):
    """The names of the shared libraries that the program is linked with, its loader left out."""
    names = set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", "--wide", str(program))))
    names = {name for name in names if not LOADERS.fullmatch(name)}
    if names - KNOWN:
        raise SystemExit(f"{program.name} needs {', '.join(sorted(names - KNOWN))}, which no package of ours asks for")
    return names


def glibc(program):
    """The oldest glibc that the program starts with, such as `2.34`."""
    found = re.findall(r"\bGLIBC_(\d+)\.(\d+)", output("readelf", "--version-info", "--wide", str(program)))
    return "{}.{}".format(*max((int(major), int(minor)) for major, minor in found))


def loader(program):
    """The path of the program's loader; none where it is static."""
    found = re.search(r"program interpreter: (.*)\]", output("readelf", "--program-headers", "--wide", str(program)))
    return found and found[1]


def files(program):
    """The loader and the libraries, as this machine has them: path in the image to the file."""
    found = {loader(program).removeprefix("/"): Path(loader(program)).resolve()}
    for name, path in re.findall(r"^\s*(\S+) => (/\S+)", output("ldd", str(program)), re.M):
        if name in KNOWN:
            found[f"lib/{Path(path).resolve().parent.name}/{name}"] = Path(path).resolve()
    return found
