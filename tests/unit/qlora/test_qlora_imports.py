from __future__ import annotations

import subprocess
import sys

LIGHT = (
    *("spec", "messages", "launch", "run_context", "request_queue", "dataset_rows", "sampler", "frame_sampling"),
    *(
        "model_folder",
        "families",
        "child",
        "inference_child",
        "probe",
        "__main__",
        "decode_pool",
        "quiet",
        "errors",
        "failures",
    ),
)
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "decord", "av")


def test_what_a_service_or_a_decode_process_imports_loads_no_training_library() -> None:
    code = (
        f"import importlib, sys\nfor name in {LIGHT!r}: importlib.import_module('trainer_svc.qlora.' + name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_the_protocol_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys\nfrom trainer_svc.qlora import spec, messages, launch\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)"
        " - {'trainer_svc', '__main__', '__mp_main__'}))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": "."},
    )
    assert result.stdout.strip() == "[]"
