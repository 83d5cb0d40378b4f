"""Tests the set-up of libtorch through its `main`, with a fake pip and small wheels."""

import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Optional
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import prerequisites
import setup_libtorch
import wheels

# A fake pip: copies the wheel of its --requirement from $SHELF to --dest, and logs the call.
# It fails if the file $SHELF/offline exists, and removes the file, so that the next call succeeds.
FAKE_PIP = """
import os, pathlib, shutil, sys
shelf = pathlib.Path(os.environ["SHELF"])
if sys.argv[1] == "download":
    option = lambda name: sys.argv[sys.argv.index(name) + 1]
    requirement, hash = pathlib.Path(option("--requirement")).read_text().split()
    with open(shelf / "calls", "a") as calls:
        print(requirement, option("--platform"), hash, file=calls)
    if (shelf / "offline").exists():
        (shelf / "offline").unlink()
        sys.exit(1)
    if not (shelf / requirement).exists():
        sys.exit(1)
    shutil.copy(shelf / requirement, pathlib.Path(option("--dest"), requirement + "-py3.whl"))
"""

HEADER = "torch/include/torch/headeronly/version.h"
CONTENTS = {
    "torch==2.11.0": ["torch/include/", HEADER, "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1", "torch/nn.py"],
    "nvidia-cuda-runtime==13.0.96": ["nvidia/cu13/lib/libcudart.so.13"],
    "nvidia-cuda-cupti==13.0.85": ["nvidia/cu13/lib/libcupti.so.13", "nvidia/cu13/lib/libpcsamplingutil.so"],
}
INSTALLED = [f"lib/{name}" for name in ("libc10.so", "libcudart.so.13", "libcupti.so.13", "libgomp.so", "libgomp.so.1", "libtorch.so", "libtorch_cpu.so")]
INSTALLED = sorted([*INSTALLED, HEADER[len("torch/") :], setup_libtorch.STAMP_FILE])


def version_header(version: str) -> str:
    return "".join(f"#define TORCH_VERSION_{part} {number}\n" for part, number in zip(("MAJOR", "MINOR", "PATCH"), version.split(".")))


class Setup(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.target, self.cache, self.shelf = self.folder / ".libtorch", self.folder / "cache/neva-run/wheels", self.folder / "shelf"
        self.shelf.mkdir()
        (self.shelf / "pip.py").write_text(FAKE_PIP)
        pinned = []
        for wheel in wheels.WHEELS:
            path = self.shelf / wheel.requirement
            with zipfile.ZipFile(path, "w") as file:
                for name in CONTENTS[wheel.requirement]:
                    file.writestr(name, version_header("2.11.0") if name == HEADER else "")
            data = path.read_bytes()
            pinned.append(wheel._replace(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
        self.patch(wheels, WHEELS=pinned, PIP=[sys.executable, str(self.shelf / "pip.py")], SECONDS_BETWEEN_ATTEMPTS=0)
        self.patch(setup_libtorch, TARGET=self.target, UNPACKED_SIZE=0)
        self.patch(prerequisites, missing=lambda *_: [])
        self.environment(LIBTORCH=None, XDG_CACHE_HOME=str(self.folder / "cache"), SHELF=str(self.shelf))

    def patch(self, module: ModuleType, **values: object) -> None:
        self.enter(mock.patch.multiple(module, **values))

    def environment(self, **values: Optional[str]) -> None:
        self.enter(mock.patch.dict(os.environ, {name: value or "" for name, value in values.items()}))
        for name in [name for name, value in values.items() if value is None]:
            del os.environ[name]

    def enter(self, patcher) -> None:
        patcher.start()
        self.addCleanup(patcher.stop)

    def check(self, code: int, *phrases: str) -> None:
        """Runs the set-up and checks its exit code and that it prints each of the phrases."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            found = setup_libtorch.main([])
        self.assertEqual(found, code, output.getvalue())
        for phrase in phrases:
            self.assertIn(phrase, output.getvalue())

    def calls(self) -> list[str]:
        """Returns and clears the log of pip's downloads."""
        path = self.shelf / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def assert_set_up(self) -> None:
        files = [str(path.relative_to(self.target)) for path in self.target.rglob("*") if not path.is_dir()]
        self.assertEqual(sorted(files), INSTALLED)
        beside = {path.name for path in self.folder.iterdir()}
        self.assertEqual(beside, {".libtorch", "cache", "shelf"})
        self.assertEqual({path.name for path in self.cache.iterdir()}, {".lock", *(wheel.file_name for wheel in wheels.WHEELS)})

    def test_a_second_set_up_does_nothing(self) -> None:
        self.check(0, "downloading torch==2.11.0", "is ready")
        self.assert_set_up()
        pinned = [f"{wheel.requirement} {wheel.platform} --hash=sha256:{wheel.sha256}" for wheel in wheels.WHEELS]
        self.assertEqual(self.calls(), pinned)
        before = self.target.stat().st_ino
        self.check(0, "is already installed")
        self.assertEqual((self.calls(), self.target.stat().st_ino), ([], before))

    def test_another_layout_is_replaced_without_downloads(self) -> None:
        self.check(0)
        self.calls()
        (self.target / setup_libtorch.STAMP_FILE).write_text("libtorch 2.10.0, layout 1\n")
        (self.target / "lib/stale.so").touch()
        self.check(0, "is ready")
        self.assert_set_up()
        self.assertEqual(self.calls(), [])

    def test_a_damaged_wheel_is_downloaded_again(self) -> None:
        self.check(0)
        self.calls()
        shutil.rmtree(self.target)
        damaged = self.cache / wheels.WHEELS[1].file_name
        damaged.write_bytes(damaged.read_bytes()[:-1])
        self.check(0, "is damaged", "is ready")
        self.assert_set_up()
        self.assertEqual([call.split()[0] for call in self.calls()], [wheels.WHEELS[1].requirement])

    def test_a_failed_download_is_retried(self) -> None:
        (self.shelf / "offline").touch()
        self.check(0, "attempt 2 of 3", "is ready")
        self.assert_set_up()

    def test_a_wheel_that_cannot_be_downloaded(self) -> None:
        (self.shelf / wheels.WHEELS[2].requirement).unlink()
        self.check(1, "could not download nvidia-cuda-cupti==13.0.85 in 3 attempts")
        self.assertFalse(self.target.exists())
        self.assertEqual(len(self.calls()), 5)

    def test_a_wheel_with_a_wrong_hash_is_rejected(self) -> None:
        with open(self.shelf / wheels.WHEELS[0].requirement, "ab") as file:
            file.write(b"more")
        self.check(1, "is damaged", "could not download torch==2.11.0")
        self.assertFalse(self.target.exists())

    def test_an_interrupted_unpacking_starts_over(self) -> None:
        copy = setup_libtorch.copy_member

        def interrupted(wheel, member, path):
            copy(wheel, member, path)
            if path.name == "libc10.so":
                raise KeyboardInterrupt

        with mock.patch.object(setup_libtorch, "copy_member", interrupted):
            self.check(1, "interrupted")
        self.assertFalse(self.target.exists())
        self.calls()
        # Leftovers of a killed set-up.
        (self.folder / ".libtorch.partial/lib").mkdir(parents=True)
        (self.folder / ".libtorch.partial/lib/half.so").touch()
        self.check(0, "is ready")
        self.assert_set_up()
        self.assertEqual(self.calls(), [])

    def test_a_full_disk_is_reported_before_downloads(self) -> None:
        self.patch(setup_libtorch, UNPACKED_SIZE=10**18)
        self.check(1, "GB of disk space", "Free another")
        self.assertEqual(self.calls(), [])

    def test_an_existing_libtorch_is_checked(self) -> None:
        existing = self.folder / "own"
        for library in ("libtorch_cpu.so", "libtorch.so", "libc10.so"):
            (existing / "lib").mkdir(parents=True, exist_ok=True)
            (existing / "lib" / library).touch()
        header = existing / HEADER[len("torch/") :]
        header.parent.mkdir(parents=True)
        cases = [
            ("2.11.0", str(existing), 0, "using libtorch 2.11.0"),
            ("2.11.1", str(existing), 0, "using libtorch 2.11.1"),
            ("2.9.1", str(existing), 1, "contains libtorch 2.9.1, but 2.11 is required"),
            ("3.11.0", str(existing), 1, "contains libtorch 3.11.0, but 2.11 is required"),
            ("2.11.0", str(self.shelf), 1, "contains no libtorch"),
            ("2.11.0", "own", 1, "not an absolute path"),
            ("2.11.0", "", 1, "not an absolute path"),
        ]
        for version, named, code, phrase in cases:
            with self.subTest(version=version, named=named):
                header.write_text(version_header(version))
                self.environment(LIBTORCH=named)
                self.check(code, phrase)
        (existing / "lib/libc10.so").unlink()
        self.environment(LIBTORCH=str(existing))
        self.check(1, "has no lib/libc10.so")
        self.assertEqual((self.calls(), self.target.exists()), ([], False))


class Prerequisites(unittest.TestCase):
    """All missing tools are reported together, with the commands that install them."""

    def check(self, environment: dict, rust: str, pip: list, expected: dict) -> None:
        with mock.patch.dict(os.environ, environment):
            missing = prerequisites.missing(rust, pip)
        self.assertEqual([text.split(":")[0] for text in missing], list(expected))
        for text, phrases in zip(missing, expected.values()):
            for phrase in phrases:
                self.assertIn(phrase, text)

    def test_missing_tools_are_reported(self) -> None:
        none = [sys.executable, "-m", "no_such_pip"]
        gcc, gxx, rust = "apt-get install gcc", "apt-get install g++", "sh.rustup.rs"
        bare = {
            "C compiler": ["cc not found", gcc],
            "C++17 compiler": ["c++ not found", gxx, "dnf install gcc-c++"],
            "make": ["make not found", "apt-get install make"],
            "Rust 1.88 or newer": ["cargo not found", rust],
            "pip": ["No module named no_such_pip", "apt-get install python3-pip"],
        }
        self.check({}, "1.88", [], {})
        self.check({"PATH": "no-such-folder", "CC": "", "CXX": ""}, "1.88", none, bare)
        self.check({"CXX": "c++ -include no_such_header.h"}, "1.88", [], {"C++17 compiler": ["no_such_header.h", gxx]})
        self.check({}, "9.1", [], {"Rust 9.1 or newer": ["found rustc 1."]})


if __name__ == "__main__":
    unittest.main()
