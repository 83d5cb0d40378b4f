#!/usr/bin/env python3
"""mkimage.py OUT.tar NAME:TAG ROOT [--env NAME=VALUE]... [--user UID] [CMD...]

Packs the folder ROOT as an image of one layer, in the format of `docker load` and `ctr images import`. The same files give the
same bytes. Needs nothing but Python.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile


def root_owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("root")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--user", default="")
    parser.add_argument("cmd", nargs="*")
    args = parser.parse_args()

    layer = args.out + ".layer"
    with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in sorted(os.listdir(args.root)):
            tar.add(os.path.join(args.root, entry), entry, filter=root_owned)
    digest = hashlib.sha256()
    with open(layer, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    layer_id = digest.hexdigest()

    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": args.cmd or None, "Env": [path, *args.env], "User": args.user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + layer_id]},
        "history": [{"created_by": "mkimage.py"}],
    }
    config = json.dumps(config).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [args.name], "Layers": [layer_id + "/layer.tar"]}]
    with tarfile.open(args.out + ".partial", "w") as tar:
        for name, data in ((config_name, config), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo(layer_id + "/layer.tar")
        entry.size = os.path.getsize(layer)
        with open(layer, "rb") as file:
            tar.addfile(entry, file)
    os.remove(layer)
    os.replace(args.out + ".partial", args.out)


if __name__ == "__main__":
    main()
