"""PresetService: the sets of values that a job can start from."""

from __future__ import annotations

from reeltune.scheduler.v1 import preset_service_pb2 as pb
from reeltune.scheduler.v1 import training_options_pb2
from reeltune.scheduler.v1.preset_service_pb2_grpc import PresetServiceServicer

from scheduler_svc.domain.parameters import resolve_parameters
from scheduler_svc.domain.presets import PRESETS
from scheduler_svc.domain.training_options import Preset
from scheduler_svc.rpc.caller import Context
from scheduler_svc.rpc.parameters_convert import parameters_to_proto


class PresetServicer(PresetServiceServicer):
    """Serves the rpc."""

    async def ListPresets(self, request: pb.ListPresetsRequest, context: Context) -> pb.ListPresetsResponse:
        return pb.ListPresetsResponse(presets=map(_to_proto, PRESETS))


def _to_proto(preset: Preset) -> pb.PresetDescription:
    known = PRESETS[preset]
    return pb.PresetDescription(
        preset=training_options_pb2.Preset.Value(f"PRESET_{preset}"),
        description=known.description,
        parameters=parameters_to_proto(resolve_parameters({"preset": preset})),
        sets=known.names,
    )
