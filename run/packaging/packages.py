"""The packages whose code is in the programs: from `cargo metadata`."""

import hashlib
import json
import re
import subprocess
import uuid
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TARGET = "x86_64-unknown-linux-gnu"
# The packages of neva-run and neva-rank.
PROGRAMS = ["neva-run", "neva-engine"]
TEXTS = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)


class Package(NamedTuple):
    name: str
    version: str
    license: str
    # Folder of its sources.
    folder: Path
    # SHA-256 of its archive; None for one of this repository.
    checksum: "str | None"
    # Identifiers of the packages that it uses.
    uses: list[str]
    id: str


def packages() -> list[Package]:
    """Returns all packages in the programs, sorted, those of this repository included."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return sorted(walk(metadata, checksums((ROOT / "Cargo.lock").read_text())))


def walk(metadata: dict, sums: dict[tuple[str, str], str]) -> Iterator[Package]:
    known = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting = [id for id, package in known.items() if package["name"] in PROGRAMS]
    seen = set(waiting)
    while waiting:
        id = waiting.pop()
        package = known[id]
        uses = [dependency["pkg"] for dependency in nodes[id]["deps"] if is_in_program(dependency, known)]
        waiting += [use for use in uses if use not in seen]
        seen.update(uses)
        yield Package(
            name=package["name"],
            version=package["version"],
            license=(package["license"] or "").replace("/", " OR "),
            folder=Path(package["manifest_path"]).parent,
            checksum=sums.get((package["name"], package["version"])),
            uses=sorted(uses),
            id=id,
        )


def is_in_program(dependency: dict, known: dict) -> bool:
    """Returns whether the code of a dependency is in the program. Sources in C are build dependencies, as `openssl-src`."""
    kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
    return None in kinds or ("build" in kinds and known[dependency["pkg"]]["name"].endswith("-src"))


def checksums(lock: str) -> dict[tuple[str, str], str]:
    """Returns the checksums of Cargo.lock by name and version."""
    found = re.findall(r'name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "([0-9a-f]{64})"', lock)
    return {(name, version): checksum for name, version, checksum in found}


def license_texts(package: Package) -> list[Path]:
    """Returns the files with licences in a package, also those of sources in C within it."""
    files = [file for pattern in ("*", "*/*", "*/*/*") for file in package.folder.glob(pattern)]
    skipped = {"target", ".git", "tests", "benches", "examples"}
    own = [file for file in files if not skipped & set(file.relative_to(package.folder).parts)]
    return sorted(file for file in own if file.is_file() and TEXTS.match(file.name) and file.suffix not in (".rs", ".py", ".h", ".c"))


def sbom(listed: list[Package], version: str, libraries: list[Path]) -> dict:
    """Returns the bill of materials, in CycloneDX 1.5. Of equal packages it is equal."""
    reference = {package.id: f"pkg:cargo/{package.name}@{package.version}" for package in listed}
    components = [cargo_component(package, reference[package.id]) for package in listed]
    components += [library_component(library) for library in libraries]
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, content).urn,
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "neva-run", "name": "neva-run", "version": version}},
        "components": components,
        "dependencies": [
            {"ref": reference[package.id], "dependsOn": [reference[use] for use in package.uses]} for package in listed
        ],
    }


def cargo_component(package: Package, reference: str) -> dict:
    component = {
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "licenses": [{"expression": package.license}] if package.license else [],
        "purl": reference,
    }
    if package.checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": package.checksum}]
    return component


def library_component(library: Path) -> dict:
    with open(library, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    is_gcc = library.name.startswith("libgomp")
    return {
        "type": "library",
        "bom-ref": f"lib/{library.name}",
        "name": library.name,
        "version": "gcc" if is_gcc else "2.11",
        "licenses": [{"expression": "GPL-3.0-only WITH GCC-exception-3.1" if is_gcc else library_license(library.name)}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def library_license(name: str) -> str:
    """Returns the licence of a library that libtorch's wheels contain."""
    return "LicenseRef-NVIDIA-CUDA-EULA" if name.startswith(("libcu", "libnv")) else "BSD-3-Clause"
