"""Unpacks PyTorch's wheel without CUDA.

PyPI's wheel for Linux needs 3 GB of CUDA libraries to be imported, although a CPU uses none. Here `libtorch_cuda.so` and the
libraries beside it are replaced by small ones that define the symbols that PyTorch's Python module looks for. A call to any
of them ends the process (`ud2`), so none can compute something wrong.
"""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

# Members of the wheel that a CPU does not need.
LEFT_OUT = re.compile(
    r"torch/(include|test|share)/"
    r"|torch/bin/(?!torch_shm_manager)"
    r"|torch/lib/lib(torch_cuda|torch_nvshmem|caffe2_nvrtc|torch_cuda_linalg|torch)\.so"
)
# Libraries of other wheels that the wheel's own libraries name.
LIBRARIES = ("libcudart.so.13", "libcupti.so.13")
# Libraries whose symbols need no replacement.
SYSTEM = ("libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0")
OWN = ("libtorch_cpu.so", "libc10.so", "libc10_cuda.so", "libshm.so")
# The module stores a pointer in the place that this function returns when it is loaded.
RETURNS_MEMORY = "_ZN4c10d15get_gil_checkerEv"


def remove_cuda(wheel: Path, others: list[Path], target: Path) -> None:
    """Unpacks PyTorch's `wheel` to `target`, with libraries of `others`."""
    with zipfile.ZipFile(wheel) as opened:
        for member in opened.infolist():
            if not LEFT_OUT.match(member.filename):
                opened.extract(member, target)
    (target / "torch/bin/torch_shm_manager").chmod(0o755)
    libraries = target / "torch/lib"
    for other in others:
        with zipfile.ZipFile(other) as opened:
            for name in opened.namelist():
                if name.rpartition("/")[2] in LIBRARIES:
                    with opened.open(name) as source, open(libraries / name.rpartition("/")[2], "wb") as file:
                        shutil.copyfileobj(source, file)
    add_stand_ins(libraries)


def add_stand_ins(libraries: Path) -> None:
    """Links libraries with the symbols that `libtorch_python.so` looks for and no other library has."""
    found = {name for library in OWN for name, _ in symbols(libraries / library, "--defined-only")}
    for library in SYSTEM:
        path = subprocess.run(["cc", f"-print-file-name={library}"], check=True, capture_output=True, text=True).stdout.strip()
        found |= {name for name, _ in symbols(Path(path), "--defined-only")}
    missing: dict[str, list[str]] = {"libtorch_cuda.so": [], "libcudnn.so.9": [], "libcufile.so.0": []}
    for name, version in symbols(libraries / "libtorch_python.so", "--undefined-only"):
        if version in missing:
            missing[version].append(name)
        elif name.startswith("cuFile"):
            missing["libcufile.so.0"].append(name)
        elif not version and name not in found and not re.match("_?Py", name):
            missing["libtorch_cuda.so"].append(name)
    for library, names in missing.items():
        link(libraries / library, names)
    link(libraries / "libtorch.so", [])


def symbols(library: Path, which: str) -> list[tuple[str, str]]:
    """Returns names and versions of a library's dynamic symbols, except weak ones."""
    lines = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout.splitlines()
    found = [line.split()[-2:] for line in lines]
    plain = [name for kind, name in found if kind not in ("w", "v") or which == "--defined-only"]
    return [(name.partition("@")[0], name.rpartition("@")[2] if "@" in name else "") for name in plain]


def link(library: Path, names: list[str]) -> None:
    code, data = [".text"], [".data", ".balign 16", "memory: .zero 4096"]
    for name in sorted(names):
        if name.startswith("_ZTI"):
            # A type without bases: its name is read when the module is loaded.
            fields = f".quad _ZTVN10__cxxabiv117__class_type_infoE+16, 1f, 0, 0, 0, 0\n1: .asciz \"{name[4:]}\"\n.balign 16"
            data += [f".globl {name}", f".type {name},@object", f"{name}: {fields}", f".size {name},48"]
        elif name.startswith("_ZTV"):
            data += [f".globl {name}", f".type {name},@object", f"{name}: .zero 1024", f".size {name},1024"]
        else:
            body = "lea memory(%rip), %rax; ret" if name == RETURNS_MEMORY else "ud2"
            code += [f".globl {name}", f".type {name},@function", f"{name}: {body}"]
    text = "\n".join([*data, *code, '.section .note.GNU-stack,"",@progbits', ""])
    version = library.with_name(f"{library.name}.map")
    # The symbols of cuDNN have a version of its name.
    version.write_text(f"{library.name} {{ global: *; }};\n")
    versioned = [f"-Wl,--version-script={version}"] if library.name.startswith("libcudnn") else []
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{library.name}", *versioned, "-o", library, "-x", "assembler", "-"]
    subprocess.run(command, input=text, check=True, text=True)
    version.unlink()
