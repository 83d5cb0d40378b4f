"""Checks the tools that the build needs, and names the commands that install them."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from typing import Optional

# Needs C++17 headers and a C++17 standard library, as libtorch's headers do.
CPP17_PROGRAM = """
#include <filesystem>
#include <optional>
template <typename T> bool known(std::optional<T> it) { if constexpr (sizeof(T) > 0) return it.has_value(); }
int main() { auto [a, b] = std::pair{1, 2}; return known<int>(a + b) && std::filesystem::path("x").empty(); }
"""
C_PROGRAM = "#include <stdio.h>\nint main(void) { return 0; }\n"

RUSTUP = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh  &&  . ~/.cargo/env"
COMPILER = "gcc 9 or newer, or clang; set CC and CXX if they are not named cc and c++"


def missing(rust_version: str, pip: Optional[list[str]]) -> list[str]:
    """Returns a text for each missing tool. `pip` is the pip command, or None if pip is not needed."""
    problems = [
        problem_text("C compiler", compiler_problem("CC", "cc", "c", C_PROGRAM), "gcc libc6-dev", "gcc", COMPILER),
        problem_text("C++17 compiler", compiler_problem("CXX", "c++", "c++", CPP17_PROGRAM), "g++", "gcc-c++", COMPILER),
        problem_text("make", command_problem(["make", "--version"]), "make", "make", "GNU make"),
        rust_problem_text(rust_version),
    ]
    if pip:
        bundled = f"{shlex.join(pip[:-1])} ensurepip --user"
        problems.append(problem_text("pip", command_problem([*pip, "--version"]), "python3-pip", "python3-pip", bundled))
    if os.environ.get("CC"):
        # Rust links with the command cc, even if CC is set.
        problems.append(problem_text("linker", command_problem(["cc", "--version"]), "gcc", "gcc", "a symbolic link named cc to the compiler"))
    return [text for text in problems if text]


def problem_text(what: str, problem: Optional[str], debian: str, fedora: str, elsewhere: str) -> Optional[str]:
    if problem is None:
        return None
    return (
        f"{what}: {problem}\n"
        f"    Debian, Ubuntu:  sudo apt-get install {debian}\n"
        f"    Fedora:          sudo dnf install {fedora}\n"
        f"    elsewhere:       {elsewhere}"
    )


def rust_problem_text(required: str) -> Optional[str]:
    # Most distribution packages are too old, so the command is the same for all distributions.
    problem = rust_problem(required)
    if problem is None:
        return None
    command = RUSTUP if shutil.which("rustup") is None else "rustup update stable && rustup default stable"
    return f"Rust {required} or newer: {problem}\n    all systems:     {command}"


def rust_problem(required: str) -> Optional[str]:
    problem = command_problem(["cargo", "--version"]) or command_problem(["rustc", "--version"])
    if problem:
        return problem
    found = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, universal_newlines=True).stdout
    return None if numbers(found) >= numbers(required) else f"found {found.strip()}"


def numbers(version: str) -> list[int]:
    """Returns the major and minor number of the first version in a text."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def compiler_problem(variable: str, default: str, language: str, program: str) -> Optional[str]:
    """Compiles and links `program`, because a compiler without its headers is not enough."""
    command = shlex.split(os.environ.get(variable) or default)
    if language == "c++":
        command.append("-std=c++17")
    with tempfile.TemporaryDirectory() as folder:
        return command_problem([*command, "-x", language, "-", "-o", f"{folder}/program"], input=program)


def command_problem(command: list[str], input: str = "") -> Optional[str]:
    """Runs a command. Returns None on success, otherwise one line that describes the problem."""
    try:
        done = subprocess.run(command, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, errors="replace")
    except OSError as error:
        return f"{command[0]} not found" if shutil.which(command[0]) is None else f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    message = next((line for line in lines if "error" in line.lower()), lines[-1])
    return f"{command[0]} failed: {message}"
