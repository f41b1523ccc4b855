"""An image with one static program in it, as a docker-archive.

image.py PROGRAM NAME ARCHITECTURE ARCHIVE
"""

import hashlib
import io
import json
import os
import sys
import tarfile


def tar(files):
    """Files by name, as bytes and mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def main(program, name, architecture, archive):
    path = os.path.basename(program)
    with open(program, "rb") as file:
        layer = tar({path: (file.read(), 0o755)})
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [f"/{path}"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    contents = {
        "manifest.json": (json.dumps(manifest).encode(), 0o644),
        config_name: (config, 0o644),
        "layer.tar": (layer, 0o644),
    }
    with open(archive, "wb") as file:
        file.write(tar(contents))


if __name__ == "__main__":
    main(*sys.argv[1:])
