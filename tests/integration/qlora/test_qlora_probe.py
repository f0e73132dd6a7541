from __future__ import annotations

import json
import subprocess

import torch

from trainer_svc.qlora.launch import child_environment, probe_command


def test_the_probe_tells_what_this_machine_really_does() -> None:
    result = subprocess.run(probe_command(), capture_output=True, text=True, timeout=120, env=child_environment(1))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["device_class"] == ("CUDA" if torch.cuda.is_available() else "CPU")
    assert found["can_4bit"] is True
    assert found["four_bit_reason"] == found["decoder_reason"] == ""
    assert found["decoder"] == "decord"
    assert {"fp32", "bf16"} <= set(found["compute_dtypes"])
    assert found["memory_bytes"] > 1 << 28
    assert found["matmul_flops"] > 1e7, "operations a second, measured"
    assert found["decode_pixels_per_second"] > 1e4
    assert bool(found["driver_version"]) == torch.cuda.is_available()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
