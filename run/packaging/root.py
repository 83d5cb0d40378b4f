#!/usr/bin/env python3
"""Makes the root of the image of examples/container/Containerfile: the folder of `make dist` in /opt/neva-run, the C and C++
libraries of this machine, busybox for a shell, certificates, and a user without root.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

# What scripts of jobs and of users need.
TOOLS = """sh cat chmod cp cut date dirname basename echo env expr false find grep head hostname id kill ln ls mkdir mkfifo mktemp mv
nproc printf ps pwd readlink rm sed seq sleep sort stat tail tar tee test timeout touch tr true uname uniq wc which xargs [""".split()
USER = "neva:x:1000:1000:neva-run:/home/neva:/bin/sh\n"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="folder that `make dist` packs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the root")
    arguments = parser.parse_args()
    busybox = shutil.which("busybox")
    if busybox is None:
        print("image: busybox is missing, the image's shell: sudo apt-get install busybox-static", file=sys.stderr)
        return 1
    root = arguments.out.resolve()
    shutil.rmtree(root, ignore_errors=True)
    write_root(arguments.tree, Path(busybox), root)
    print(arguments.out)
    return 0


def write_root(tree: Path, busybox: Path, root: Path) -> None:
    for folder in ["bin", "etc/ssl/certs", "home/neva", "opt", "tmp", "work", "usr"]:
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    # Any user may be chosen for a job.
    (root / "work").chmod(0o777)
    shutil.copy2(busybox, root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    (root / "usr/bin").symlink_to("../bin")
    shutil.copytree(tree, root / "opt/neva-run", symlinks=True)
    programs = [root / "bin/busybox", *(root / "opt/neva-run/bin").iterdir(), *(root / "opt/neva-run/lib").iterdir()]
    for library in sorted(set().union(*map(libraries, programs))):
        # Libraries in the root itself are there already.
        if not library.resolve().is_relative_to(root):
            place = root / str(library).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library.resolve(), place)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n" + USER)
    (root / "etc/group").write_text("root:x:0:\nneva:x:1000:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    if Path("/", CERTIFICATES).exists():
        shutil.copy2(Path("/", CERTIFICATES), root / CERTIFICATES)


def libraries(program: Path) -> set[Path]:
    """Returns the libraries of this machine that a program or library loads, and the loader."""
    output = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", output, re.MULTILINE)}


if __name__ == "__main__":
    sys.exit(main())
