"""How a parent starts the child processes of this package: command line, environment, socket.

Standard library only; works with `subprocess.Popen` and `asyncio.create_subprocess_exec` alike:

    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        *training_command(job, theirs.fileno()), env=child_environment(threads=1),
        pass_fds=(theirs.fileno(),), stdin=DEVNULL, start_new_session=True)
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_ADAPTER_BYTES = 1024**3
"""Memory that an inference process gives to adapters, unless it is told otherwise."""

_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES",
    "MALLOC_MMAP_THRESHOLD_",
    "GOMP_SPINCOUNT",
)


def training_command(job: Path, message_fd: int) -> list[str]:
    """Trains the job in folder `job` (spec.json, model/, dataset/, out/), speaking on `message_fd`.

    The child sends `TrainingUp` and takes `TrainingDown`; SIGTERM means Stop(drain). It exits 0 after
    Completed or Stopped, 1 after Failed, 3 when the socket's other end is gone.
    """
    return [sys.executable, "-m", "trainer_svc.qlora.child", "--job", str(job), "--message-fd", str(message_fd)]


def warm_command(message_fd: int) -> list[str]:
    """Trains each job that a `Train` on `message_fd` names, one after the other: see `warm_child`."""
    return [sys.executable, "-m", "trainer_svc.qlora.warm_child", "--message-fd", str(message_fd)]


def after_training_command(job: Path, message_fd: int) -> list[str]:
    """Evaluates or merges the adapter in source/ of the job in folder `job`; speaks as `training_command` does."""
    command = [sys.executable, "-m", "trainer_svc.qlora.after_training_child"]
    return [*command, "--job", str(job), "--message-fd", str(message_fd)]


def inference_command(
    model: Path,
    message_fd: int,
    quantization: Mapping[str, Any] | None = None,
    *,
    max_adapters: int = 4,
    max_adapter_bytes: int = DEFAULT_ADAPTER_BYTES,
) -> list[str]:
    """Holds the base model in folder `model` and answers `Generate` requests on `message_fd`, with at most
    `max_adapters` adapters and `max_adapter_bytes` of their weights in memory."""
    options = ["--quantization", json.dumps(dict(quantization or {}))]
    options += ["--max-adapters", str(max_adapters), "--max-adapter-bytes", str(max_adapter_bytes)]
    command = [sys.executable, "-m", "trainer_svc.qlora.inference_child"]
    return [*command, "--model", str(model), "--message-fd", str(message_fd), *options]


def probe_command() -> list[str]:
    """Prints one JSON object about what this machine can do; see `trainer_svc.qlora.probe`."""
    return [sys.executable, "-m", "trainer_svc.qlora.probe"]


def child_environment(threads: int = 0, *, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child: no credentials of the parent, no hub, `threads` for OpenMP (0: its choice)."""
    base = os.environ if base is None else base
    kept = {key: base[key] for key in _KEPT if key in base}
    if threads:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return SHARING_CORES | kept | QUIET_OFFLINE


SHARING_CORES: dict[str, str] = {"GOMP_SPINCOUNT": "3000"}
"""Unless the operator says otherwise, threads of OpenMP that wait for one another soon sleep. By default they spin a
hundred times as long, which takes the core from whoever would end the wait as soon as anything else runs; not to
spin at all costs an idle machine much of its pace. See `benchmarks.busy_machine`."""

QUIET_OFFLINE: dict[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
    "PYTHONUNBUFFERED": "1",
    # Nothing of ours is compiled; without this, importing bitsandbytes imports the compiler as well.
    "TORCHDYNAMO_DISABLE": "1",
}
"""Set in every process of this package before transformers is imported."""
