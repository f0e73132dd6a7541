"""Previews as messages of the contract."""

from __future__ import annotations

from reeltune.catalog.v1 import sample_preview_pb2 as pb
from reeltune.catalog.v1.sample_service_pb2 import GetSamplePreviewRequest

from catalog_svc.domain.preview import DEFAULT_SHOWN_FRAMES, PreviewClip, PreviewSettings, SamplePreview


def settings_from_proto(request: GetSamplePreviewRequest) -> PreviewSettings:
    return PreviewSettings(
        max_frames=request.max_frames if request.HasField("max_frames") else None,
        fps=request.fps if request.HasField("fps") else None,
        max_pixels=request.max_pixels if request.HasField("max_pixels") else None,
        shown_frames=request.max_preview_frames or DEFAULT_SHOWN_FRAMES,
    )


def preview_to_proto(made: SamplePreview) -> pb.SamplePreview:
    return pb.SamplePreview(
        sampling=pb.PreviewSampling(max_frames=made.max_frames, fps=made.fps, max_pixels=made.max_pixels),
        clips=[_clip_to_proto(clip) for clip in made.clips],
        rendered_text=made.text,
        token_count=made.tokens,
        text_token_count=made.tokens - made.video_tokens,
        video_token_count=made.video_tokens,
        label_token_count=made.label_tokens,
        token_limit=made.token_limit,
        spans=[
            pb.TokenSpan(
                is_label=span.is_label,
                is_video=span.is_video,
                token_count=span.count,
                token_ids=span.ids,
                text=span.text,
            )
            for span in made.spans
        ],
        warnings=[
            pb.PreviewWarning(reason=warning.reason, message=warning.message, remedy=warning.remedy)
            for warning in made.warnings
        ],
    )


def _clip_to_proto(clip: PreviewClip) -> pb.PreviewClip:
    return pb.PreviewClip(
        path=clip.path,
        frame_count=clip.frame_count,
        clip_frame_count=clip.clip_frame_count,
        decoder=clip.decoder,
        width=clip.width,
        height=clip.height,
        model_width=clip.model_width,
        model_height=clip.model_height,
        as_seen=clip.as_seen,
        frames=[
            pb.PreviewFrame(
                position=frame.position,
                frame_index=frame.index,
                time_seconds=frame.seconds,
                width=frame.width,
                height=frame.height,
                jpeg=frame.jpeg,
            )
            for frame in clip.frames
        ],
    )
