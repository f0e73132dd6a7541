"""The probe child: `python -m catalog_svc.probe.child ADDRESS_SPACE_BYTES PARENT_PID`. Answers one request a line until
its input ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from catalog_svc.domain.clip import Decoder
from catalog_svc.probe.complaints import Complaints
from catalog_svc.probe.decode import ClipReader
from catalog_svc.probe.frame_count import has_decord
from catalog_svc.probe.json_scan import scan_json
from catalog_svc.probe.protocol import outcome_to_json, picture_to_json
from catalog_svc.probe.proxy import make_proxy
from meshkit.sandbox.child import Answer, Heart, serve


def main() -> None:
    """Gives up what is not needed, says so, and answers requests."""
    heart = Heart()
    serve(
        int(sys.argv[2]),
        lambda: _prepare(heart),
        address_space_bytes=int(sys.argv[1]),
        may_start_threads=True,  # decord decodes in threads of its own, and ends the process if it gets none
        heart=heart,
    )


def _prepare(heart: Heart) -> Answer:
    complaints = Complaints()
    decoders = set(Decoder) if has_decord() else {Decoder.PYAV}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        path = Path(request["path"])
        if request["kind"] == "json":
            return {"remote_code": scan_json(path)}
        max_pixels = int(request["max_pixels"])
        if request["kind"] == "proxy":
            return picture_to_json("proxy", make_proxy(path, max_pixels, heart.beat))
        wanted = Decoder(request["decoder"])
        reader = ClipReader(complaints, heart.beat, max_pixels)
        outcome, poster = reader.read(path, wanted if wanted in decoders else Decoder.PYAV)
        return {**outcome_to_json(outcome), **picture_to_json("poster", poster)}

    return answer


if __name__ == "__main__":
    main()
