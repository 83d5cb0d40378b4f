#!/usr/bin/env python3
"""Packs neva-run, neva-rank and the libtorch that they need into one tarball, with completions, man pages, recipes, licences
and a bill of materials. `make dist` builds the programs first.

The tarball runs from any folder: the programs find libtorch in `../lib`. Of equal inputs it has equal bytes.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("dist: Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2])

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

sys.dont_write_bytecode = True

import elf
import packages

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ["neva-run", "neva-rank"]
# Libraries of every Linux with glibc; they are not packed.
SYSTEM = set(
    "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 ld-linux-x86-64.so.2".split()
    + "libgcc_s.so.1 libstdc++.so.6 libz.so.1".split()
)
COMPLETIONS = {
    "bash": "share/bash-completion/completions/neva-run",
    "zsh": "share/zsh/site-functions/_neva-run",
    "fish": "share/fish/vendor_completions.d/neva-run.fish",
}
README = """neva-run {version} for Linux on x86_64

Unpack this folder anywhere, and run bin/neva-run. Nothing has to be installed or exported:

    bin/neva-run doctor
    bin/neva-run recipes/neva_tiny.yaml

It needs glibc {glibc} or newer (`ldd --version`), libstdc++ with GLIBCXX_{glibcxx} or newer, and zlib.
docs/install.md of the sources tells how to set up completions and man pages.

bin/        neva-run, the launcher, and neva-rank, which it starts for each rank
lib/        libtorch
share/      completions for bash, zsh and fish, and man pages
recipes/    recipe files to start from
licenses/   licences of every package in the programs
sbom.cdx.json   bill of materials, CycloneDX 1.5
SHA256SUMS  checksum of every file
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="folder of the built programs")
    parser.add_argument("--libtorch", type=Path, required=True, help="folder of libtorch")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tarball")
    parser.add_argument("--tree-only", action="store_true", help="write the folder, and no tarball")
    arguments = parser.parse_args()
    try:
        tree = write_tree(arguments.programs, arguments.libtorch / "lib", arguments.out)
        print(tree if arguments.tree_only else pack(tree))
        return 0
    except (OSError, ValueError) as error:
        print(f"dist: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"dist: {' '.join(map(str, error.cmd))} failed: {error.stderr or error}", file=sys.stderr)
    return 1


def write_tree(programs: Path, libtorch: Path, out: Path) -> Path:
    """Writes the folder of the tarball."""
    version = version_of(programs / "neva-run")
    name = f"neva-run-{version}-x86_64-linux"
    tree, part = out / name, out / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        copy = part / "bin" / program
        shutil.copy2(programs / program, copy)
        subprocess.run(["strip", "--strip-unneeded", copy], check=True, capture_output=True, text=True)
    elf.keep_own_run_path(part / "bin" / "neva-rank")
    libraries = copy_libraries([part / "bin" / program for program in PROGRAMS], libtorch, part / "lib")
    write_shell_files(part)
    shutil.copytree(ROOT / "recipes", part / "recipes", ignore=lambda folder, names: [name for name in names if not name.endswith(".yaml")])
    shutil.copy2(ROOT / "LICENSE", part / "LICENSE")
    listed = packages.packages()
    write_licenses(listed, part / "licenses")
    bill = packages.sbom(listed, version, libraries)
    (part / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    newest: dict[str, tuple[int, ...]] = {}
    for file in [*(part / "bin").iterdir(), *libraries]:
        for prefix, number in elf.newest_versions(file).items():
            newest[prefix] = max(newest.get(prefix, ()), number)
    text = {prefix: ".".join(map(str, number)) for prefix, number in newest.items()}
    (part / "README").write_text(README.format(version=version, glibc=text["GLIBC"], glibcxx=text["GLIBCXX"]))
    write_sums(part)
    shutil.rmtree(tree, ignore_errors=True)
    part.rename(tree)
    return tree


def version_of(program: Path) -> str:
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return output.split()[1]


def copy_libraries(programs: list[Path], folder: Path, out: Path) -> list[Path]:
    """Copies the libraries that the programs need, and those that they need, out of `folder`."""
    out.mkdir()
    waiting, copied = [name for program in programs for name in elf.needed(program)], {}
    while waiting:
        name = waiting.pop()
        if name in SYSTEM or name in copied:
            continue
        if not (folder / name).exists():
            raise ValueError(f"{name} is not in {folder}: only a libtorch with all of its libraries in one folder can be packed")
        shutil.copy2((folder / name).resolve(), out / name)
        copied[name] = out / name
        waiting += elf.needed(out / name)
    return sorted(copied.values())


def write_shell_files(tree: Path) -> None:
    """Writes completions and man pages, which the launcher makes."""
    program = tree / "bin" / "neva-run"
    for shell, place in COMPLETIONS.items():
        file = tree / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(subprocess.run([program, "completions", shell], check=True, capture_output=True).stdout)
    subprocess.run([program, "man", tree / "share/man/man1"], check=True, capture_output=True, text=True)


def write_licenses(listed: list[packages.Package], out: Path) -> None:
    """Copies the licences of all packages. A package without a file has its expression in the list."""
    out.mkdir()
    lines = []
    for package in listed:
        texts = packages.license_texts(package)
        if not texts and not package.license:
            raise ValueError(f"{package.name} {package.version} names no licence")
        folder = out / f"{package.name}-{package.version}"
        for text in texts:
            folder.mkdir(exist_ok=True)
            shutil.copyfile(text, folder / "-".join(text.relative_to(package.folder).parts))
        lines.append(f"{package.name} {package.version}\t{package.license}\t{len(texts)} files\n")
    lines.append("libtorch 2.11\tBSD-3-Clause, https://github.com/pytorch/pytorch/blob/v2.11.0/LICENSE\n")
    (out / "LIST").write_text("".join(lines))


def files_of(tree: Path) -> list[Path]:
    return sorted(path for path in tree.rglob("*") if path.is_file())


def sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_sums(tree: Path) -> None:
    lines = [f"{sha256(file)}  {file.relative_to(tree)}\n" for file in files_of(tree)]
    (tree / "SHA256SUMS").write_text("".join(lines))


def pack(tree: Path) -> Path:
    """Writes the tarball and its checksum."""
    tarball = tree.with_name(f"{tree.name}.tar.gz")
    part = tarball.with_name(f".{tarball.name}.part")
    with open(part, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in [tree, *sorted(tree.rglob("*"))]:
                archive.add(path, path.relative_to(tree.parent), recursive=False, filter=without_owner)
    os.replace(part, tarball)
    tarball.with_name(f"{tarball.name}.sha256").write_text(f"{sha256(tarball)}  {tarball.name}\n")
    return tarball


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Removes from a member what differs between two machines."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


if __name__ == "__main__":
    sys.exit(main())
