"""`python -m trainer_svc.qlora.probe`: what this machine can really do, as one JSON object on stdout.

Nothing is believed from versions or imports: wheels of bitsandbytes for aarch64 import on a Jetson and fail at their
first kernel. So every claim here is a run: a matrix product, a 4-bit forward and backward, a clip encoded and decoded.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_svc.qlora.machine import machine_memory_bytes
from trainer_svc.qlora.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch

    from trainer_svc.qlora.decode_pool import DecodePool

_TEGRA = Path("/etc/nv_tegra_release")
_VERSIONED = ("torch", "transformers", "peft", "bitsandbytes", "decord", "av")
_DECODE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found. A `can_…` that is False comes with its reason."""

    device_class: str
    """CPU, CUDA or JETSON."""
    device_name: str
    memory_bytes: int
    """Of the GPU; of the machine (or its cgroup) on CPU and Jetson, where memory is shared."""
    can_4bit: bool
    four_bit_reason: str
    decoder: str
    """`decord` or `pyav`; empty when neither decodes."""
    decoder_reason: str
    compute_dtypes: list[str]
    device_count: int = 1
    """GPUs that are visible; 1 elsewhere."""
    versions: dict[str, str] = field(default_factory=dict)
    driver_version: str = ""
    """Of the GPU; empty where there is none, or it is not told."""
    matmul_flops: float = 0.0
    """Operations a second of a large matrix product in the type that training computes in."""
    decode_pixels_per_second: float = 0.0
    """Of one decode process, all frames of a clip."""


def main() -> int:
    quiet_libraries()
    sys.stdout.write(json.dumps(asdict(probe_machine()), sort_keys=True) + "\n")
    return 0


def probe_machine() -> Probe:
    """Runs every check. Never raises for a machine that lacks something: that is an answer."""
    import torch

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    matmul_reason = _attempt(lambda: _matmul(device, torch.float32))
    four_bit_reason = matmul_reason or _attempt(lambda: _four_bit(device))
    decoder, decoder_reason, decode_speed = _working_decoder()
    return Probe(
        device_class=_device_class(device),
        device_name=_device_name(device),
        memory_bytes=_memory_bytes(device),
        can_4bit=not four_bit_reason,
        four_bit_reason=four_bit_reason,
        decoder=decoder,
        decoder_reason=decoder_reason,
        compute_dtypes=_compute_dtypes(device),
        device_count=torch.cuda.device_count() if device.type == "cuda" else 1,
        versions=_versions(),
        driver_version=_driver_version() if device.type == "cuda" else "",
        matmul_flops=0.0 if matmul_reason else _matmul_flops(device),
        decode_pixels_per_second=decode_speed,
    )


def _matmul(device: torch.device, dtype: torch.dtype) -> None:
    import torch

    left = torch.arange(64 * 64, device=device, dtype=torch.float32).reshape(64, 64) / 4096
    product = (left.to(dtype) @ torch.eye(64, device=device, dtype=dtype)).float()
    if not torch.allclose(product, left, atol=1e-2):
        raise RuntimeError("a matrix product came out wrong")


def _matmul_flops(device: torch.device) -> float:
    """The best of a few products of square matrices: 2 n³ operations each.

    On a CPU in the time that its threads had a processor: what else the machine does while a trainer starts says
    nothing of how long its jobs will take.
    """
    import torch

    size = 4096 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    left = torch.ones(size, size, device=device, dtype=dtype)
    clock, threads = (time.perf_counter, 1) if device.type == "cuda" else (time.process_time, torch.get_num_threads())
    seconds = []
    for _ in range(8):
        began = clock()
        # Read back, so that a GPU is waited for.
        float((left @ left)[0, 0])
        seconds.append((clock() - began) / threads)
    return 2.0 * size**3 / max(min(seconds), 1e-9)


def _driver_version() -> str:
    for file in (Path("/sys/module/nvidia/version"), _TEGRA):
        try:
            return file.read_text(encoding="utf-8").splitlines()[0].strip()[:100]
        except (OSError, IndexError):
            continue
    return ""


def _four_bit(device: torch.device) -> None:
    """A 4-bit layer against its own dequantised weights, forward and backward."""
    import bitsandbytes as bnb
    import torch

    generator = torch.Generator().manual_seed(0)
    layer = bnb.nn.Linear4bit(
        128, 128, bias=False, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
    )
    layer.weight.data.copy_(torch.randn(128, 128, generator=generator))
    layer = layer.to(device)
    layer.support_avx512bf16_for_cpu = False
    inputs = torch.randn(4, 128, generator=generator).to(device).requires_grad_(True)
    outputs = layer(inputs)
    outputs.square().sum().backward()
    dense = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    expected = inputs.detach() @ dense.T
    if not torch.allclose(outputs, expected, atol=1e-2, rtol=1e-2):
        raise RuntimeError("a 4-bit layer's output differs from that of its own dequantised weights")
    if inputs.grad is None or not torch.allclose(inputs.grad, 2 * expected @ dense, atol=1e-1, rtol=1e-2):
        raise RuntimeError("a 4-bit layer's gradient differs from that of its own dequantised weights")


def _working_decoder() -> tuple[str, str, float]:
    """(the first decoder that reads a clip back, why the preferred one does not, pixels that it decodes a second)."""
    from trainer_svc.qlora.decode_pool import DecodePool
    from trainer_svc.qlora.errors import BadClipError, DecodeProcessError
    from trainer_svc.qlora.frame_decoder import best_decoder
    from trainer_svc.qlora.frame_sampling import FrameRequest

    reasons = []
    with tempfile.TemporaryDirectory(prefix="reeltune-probe-") as folder:
        clip = Path(folder) / "probe.mp4"
        encode_error = _attempt(lambda: _encode(clip))
        if encode_error:
            return "", f"no clip could be encoded to try with: {encode_error}", 0.0
        for name in dict.fromkeys((best_decoder(), "pyav")):
            with DecodePool(decoder=name, fallback=None, timeout_seconds=_DECODE_SECONDS) as pool:
                try:
                    decoded = pool.decode(clip, FrameRequest(max_frames=4)).result(timeout=2 * _DECODE_SECONDS + 60)
                except (BadClipError, DecodeProcessError) as error:
                    reasons.append(f"{name}: {error}")
                    continue
                speed = _decode_speed(pool, Path(folder))
            if decoded.frame_count == 8 and decoded.frames.shape == (4, 32, 32, 3):
                return name, "; ".join(reasons), speed
            reasons.append(f"{name}: {decoded.frame_count} frames of a clip of 8")
    return "", "; ".join(reasons), 0.0


def _decode_speed(pool: DecodePool, folder: Path) -> float:
    """Pixels a second, with a decode process that has started already; 0 when it cannot be told."""
    from trainer_svc.qlora.frame_sampling import FrameRequest

    clip, frames, side = folder / "speed.mp4", 48, 256

    def decode() -> float:
        _encode(clip, frames=frames, side=side)
        began = time.perf_counter()
        pool.decode(clip, FrameRequest(max_frames=8)).result(timeout=_DECODE_SECONDS)
        return frames * side * side / max(time.perf_counter() - began, 1e-9)

    found: list[float] = []
    _attempt(lambda: found.append(decode()))
    return found[0] if found else 0.0


def _encode(clip: Path, *, frames: int = 8, side: int = 32) -> None:
    import av
    import numpy as np

    with av.open(str(clip), "w") as container:
        stream: Any = container.add_stream("libx264", rate=4)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((side, side, 3), index * 30 % 255, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _compute_dtypes(device: torch.device) -> list[str]:
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        del kinds["bf16"]
    return [name for name, dtype in kinds.items() if not _attempt(lambda dtype=dtype: _matmul(device, dtype))]


def _device_class(device: torch.device) -> str:
    if device.type != "cuda":
        return "CPU"
    return "JETSON" if platform.machine() == "aarch64" and _TEGRA.exists() else "CUDA"


def _device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory_bytes()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _attempt(action: Any) -> str:
    """Why `action` does not work here; empty when it does."""
    try:
        action()
    # A missing kernel shows as whatever its library raises; the reason is the answer, not hidden.
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""


if __name__ == "__main__":
    sys.exit(main())
