"""The probe child: `python -m catalog_svc.probe.child PARENT_PID`. Answers one request a line until its input ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from catalog_svc.probe.decode import decode_clip
from catalog_svc.probe.json_scan import scan_json
from catalog_svc.probe.protocol import outcome_to_json
from meshkit.sandbox.child import serve

ADDRESS_SPACE_BYTES = 3 << 30


def main() -> None:
    """Gives up what is not needed, says so, and answers requests."""
    serve(int(sys.argv[1]), lambda: _answer, address_space_bytes=ADDRESS_SPACE_BYTES, may_start_threads=False)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    path = Path(request["path"])
    if request["kind"] == "json":
        return {"remote_code": scan_json(path)}
    return outcome_to_json(decode_clip(path, int(request["max_pixels"])))


if __name__ == "__main__":
    main()
