"""Stand-ins for the CUDA libraries that PyTorch's package on PyPI asks the linker for (see setup.sh).

Usage: stand_ins.py TORCH_LIB_FOLDER OUTPUT_FOLDER

The package is one build for GPU and CPU. On a CPU nothing of CUDA is ever called, but the loader wants
every library and symbol that is named.
"""

import collections
import pathlib
import re
import subprocess
import sys

CUDA = re.compile(r"lib(cu|nv|nccl)")
LOOSE = re.compile(r"(cu|nv|nccl)")
OBJECTS = ("*.so", "*.so.*", "../_C*.so")


def readelf(flag, path):
    return subprocess.run(["readelf", "-W", flag, path], capture_output=True, text=True, check=True).stdout


def wanted(folder):
    """Libraries that are asked for, and the symbols of each version tag; of tag "" those without one."""
    libraries, symbols, defined = set(), collections.defaultdict(set), set()
    shipped = [path for pattern in OBJECTS for path in folder.glob(pattern)]
    for path in shipped:
        libraries |= set(re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path)))
        for fields in (line.split() for line in readelf("--dyn-syms", path).splitlines()):
            if len(fields) >= 8 and fields[6] == "UND":
                name, _, tag = fields[7].partition("@")
                symbols[tag.lstrip("@")].add(name)
            elif len(fields) >= 8:
                defined.add(fields[7].split("@")[0])
    symbols[""] = {name for name in symbols[""] - defined if LOOSE.match(name)}
    missing = {name for name in libraries if CUDA.match(name)} - {path.name for path in shipped}
    return missing, symbols


def build(library, tags, folder):
    """A library whose functions all return 100, CUDA's own code for "no device"."""
    names = sorted(name for _, group in tags for name in group)
    source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in names)
    versions = "".join(
        f"{tag} {{ global: {' '.join(f'{n};' for n in sorted(group))} }};\n" for tag, group in tags if tag
    )
    (folder / "standin.c").write_text(source)
    (folder / "standin.map").write_text(versions)
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-w",
        f"-Wl,-soname,{library}",
        "-o",
        folder / library,
        folder / "standin.c",
    ]
    if versions:
        command.append(f"-Wl,--version-script={folder / 'standin.map'}")
    subprocess.run(command, check=True)


def main():
    folder = pathlib.Path(sys.argv[1])
    into = pathlib.Path(sys.argv[2])
    into.mkdir(parents=True, exist_ok=True)
    missing, symbols = wanted(folder)
    for library in sorted(missing):
        # Symbols without a version may be found anywhere: they lie in the one that is loaded first.
        loose = [("", symbols[""])] if library.startswith("libnccl") else []
        tag = "NVSHMEM" if "nvshmem" in library else library
        build(library, loose + [(tag, symbols.get(tag, set()))] if symbols.get(tag) else loose, into)


if __name__ == "__main__":
    main()
