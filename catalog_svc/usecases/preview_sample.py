"""Shows what training would feed a model for one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catalog_svc.clients.local_content import LocalContent, LocalUnit
from catalog_svc.clients.model_tool import ModelTool, ToolFolders
from catalog_svc.domain.clip import Clip
from catalog_svc.domain.entry import EntryId, Viewer
from catalog_svc.domain.errors import PreviewUnavailable
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.model import Model
from catalog_svc.domain.preview import PreviewSettings, PreviewWarning, SamplePreview
from catalog_svc.domain.sample import Message, Sample, VideoPart
from catalog_svc.domain.upload import StoredFile
from catalog_svc.usecases.read_content import ReadContent


@dataclass(frozen=True, slots=True)
class PreviewSample:
    """Makes previews with the code that trains, in the model tool."""

    content: ReadContent
    local: LocalContent
    tool: ModelTool

    async def preview(
        self, dataset_id: EntryId, sample_id: str, model_id: EntryId, viewer: Viewer, settings: PreviewSettings
    ) -> SamplePreview:
        """Returns the preview of a READY dataset's sample for a READY model.

        Raises:
            EntryNotFound, SampleNotFound: the viewer may not see it, or it does not exist.
            StateConflict: the dataset or the model is not READY.
            PreviewUnavailable, PreviewsBusy, InvalidField, PreviewRefused, PreviewFailed: see `ModelTool.preview`.
        """
        sample, clips = await self.content.find_sample(dataset_id, viewer, sample_id)
        model, files = await self.content.model_files(model_id, viewer)
        if not self.tool.is_available:
            raise PreviewUnavailable
        units = {clip.path: LocalUnit(f"clips/{clip.sha256}", {"": clip}) for clip in clips.values()}
        model_unit = _model_unit(model, files)
        folders = ToolFolders(str(self.local.root / model_unit.key), str(self.local.root))
        async with self.local.holding(model_unit, *units.values()):
            paths = [video.path for video in sample.videos()]
            made = await self.tool.preview(folders, _renamed(sample, clips), paths, settings)
        return replace(made, warnings=(*made.warnings, *_frame_warnings(made, model)))


def _model_unit(model: Model, files: Sequence[StoredFile]) -> LocalUnit:
    assert model.facts is not None
    # The weights are not needed to say what the model would be fed.
    kept = {file.path: file for file in files if extension(file.path) != ".safetensors"}
    return LocalUnit(f"models/{model.facts.fingerprint}", kept)


def _renamed(sample: Sample, clips: Mapping[str, Clip]) -> Sample:
    """Returns the sample with its clips named by their content, as they lie on this machine."""

    def named(message: Message) -> Message:
        parts = (
            replace(part, path=clips[part.path].sha256) if isinstance(part, VideoPart) else part
            for part in message.content
        )
        return replace(message, content=tuple(parts))

    return replace(sample, messages=tuple(named(message) for message in sample.messages))


def _frame_warnings(made: SamplePreview, model: Model) -> Sequence[PreviewWarning]:
    assert model.facts is not None
    most = model.facts.max_frames
    if not most or made.max_frames <= most:
        return ()
    what = f"max_frames is {made.max_frames}, the model takes at most {most}: a job with it would be refused"
    return (PreviewWarning("TOO_MANY_FRAMES", what, f"lower max_frames to {most}"),)
