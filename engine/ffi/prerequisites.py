"""What the build needs from the machine: looks for it, and says what installs it."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from typing import Optional

# Needs headers and a library of its own time, as libtorch's headers do.
CPP17_PROGRAM = """
#include <filesystem>
#include <optional>
template <typename T> bool known(std::optional<T> it) { if constexpr (sizeof(T) > 0) return it.has_value(); }
int main() { auto [a, b] = std::pair{1, 2}; return known<int>(a + b) && std::filesystem::path("x").empty(); }
"""
C_PROGRAM = "#include <stdio.h>\nint main(void) { return 0; }\n"

RUSTUP = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh  &&  . ~/.cargo/env"
COMPILER = "gcc from version 9 or clang, with CC and CXX set where they are not called cc and c++"


def missing(rust_version: str, pip: Optional[list[str]]) -> list[str]:
    """A text for each thing that is not there. `pip` is the command to look for, None where it is not needed."""
    found = [
        need("C compiler", compiler_problem("CC", "cc", "c", C_PROGRAM), "gcc libc6-dev", "gcc", COMPILER),
        need("C++17 compiler", compiler_problem("CXX", "c++", "c++", CPP17_PROGRAM), "g++", "gcc-c++", COMPILER),
        need("make", problem_of(["make", "--version"]), "make", "make", "GNU make"),
        need_rust(rust_version),
    ]
    if pip:
        bundled = f"{shlex.join(pip[:-1])} ensurepip --user"
        found.append(need("pip", problem_of([*pip, "--version"]), "python3-pip", "python3-pip", bundled))
    if os.environ.get("CC"):
        # Rust links by this name, whatever CC says.
        found.append(need("linker", problem_of(["cc", "--version"]), "gcc", "gcc", "a link named cc to the compiler"))
    return [text for text in found if text]


def need(what: str, problem: Optional[str], debian: str, fedora: str, elsewhere: str) -> Optional[str]:
    if problem is None:
        return None
    return (
        f"{what}: {problem}\n"
        f"    Debian, Ubuntu:  sudo apt-get install {debian}\n"
        f"    Fedora:          sudo dnf install {fedora}\n"
        f"    elsewhere:       {elsewhere}"
    )


def need_rust(wanted: str) -> Optional[str]:
    # Distributions' own packages are mostly too old, so there is one way for all of them.
    problem = rust_problem(wanted)
    if problem is None:
        return None
    command = RUSTUP if shutil.which("rustup") is None else "rustup update stable && rustup default stable"
    return f"Rust {wanted} or newer: {problem}\n    anywhere:        {command}"


def rust_problem(wanted: str) -> Optional[str]:
    problem = problem_of(["cargo", "--version"]) or problem_of(["rustc", "--version"])
    if problem:
        return problem
    found = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, universal_newlines=True).stdout
    return None if numbers(found) >= numbers(wanted) else f"there is {found.strip()}"


def numbers(version: str) -> list[int]:
    """Major and minor number of the first version in a text."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def compiler_problem(variable: str, default: str, language: str, program: str) -> Optional[str]:
    """Compiles and links `program`: a compiler without its headers is none."""
    command = shlex.split(os.environ.get(variable) or default)
    if language == "c++":
        command.append("-std=c++17")
    with tempfile.TemporaryDirectory() as folder:
        return problem_of([*command, "-x", language, "-", "-o", f"{folder}/program"], input=program)


def problem_of(command: list[str], input: str = "") -> Optional[str]:
    """Runs a command. None where it succeeds, else what is wrong, in a line."""
    try:
        done = subprocess.run(command, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, errors="replace")
    except OSError as error:
        return f"{command[0]} is not found" if shutil.which(command[0]) is None else f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    telling = next((line for line in lines if "error" in line.lower()), lines[-1])
    return f"{command[0]} fails: {telling}"
