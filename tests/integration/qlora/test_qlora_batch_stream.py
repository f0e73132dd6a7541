"""Whatever goes wrong in the thread that makes batches reaches the one that waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.data_processor import DataProcessor, EncodedSample
from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.spec import SamplingSpec

_LOOKS = 120  # a minute


class _Failing(DataProcessor):
    error: BaseException

    def encode(self, *_: Any) -> EncodedSample:
        raise self.error


@pytest.fixture(scope="module")
def source() -> Iterator[FrameSource]:
    with DecodePool() as pool:
        yield FrameSource(pool, SamplingSpec(), cache_bytes=1 << 30)


def first_batch(dataset: Path, source: FrameSource, processor: DataProcessor) -> object:
    looks = iter(range(_LOOKS))
    with BatchStream(
        load_samples(dataset), [[0]], source, processor, ahead=1, look_up=lambda: _give_up(next(looks, None))
    ) as stream:
        return next(stream)


def _give_up(look: int | None) -> None:
    assert look is not None, "nothing came"


@pytest.mark.parametrize("kind", [KeyError, IndexError, AttributeError, AssertionError, RuntimeError, BadDataError])
def test_any_error_of_the_thread_is_raised_where_batches_are_awaited(
    qwen3: Path, dataset: Path, source: FrameSource, kind: type[Exception]
) -> None:
    processor = _Failing(AutoProcessor.from_pretrained(qwen3))
    processor.error = kind("odd", "change it") if kind is BadDataError else kind("odd")
    with pytest.raises(kind, match="odd"):
        first_batch(dataset, source, processor)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit(), CancelledError()], ids=lambda error: type(error).__name__)
def test_a_thread_that_ends_without_a_word_is_noticed(
    qwen3: Path, dataset: Path, source: FrameSource, error: BaseException
) -> None:
    processor = _Failing(AutoProcessor.from_pretrained(qwen3))
    processor.error = error
    with pytest.raises(RuntimeError, match="without a word"):
        first_batch(dataset, source, processor)


def test_a_template_that_refuses_a_row_ends_the_wait(qwen3: Path, dataset: Path, source: FrameSource) -> None:
    loaded = AutoProcessor.from_pretrained(qwen3)
    loaded.chat_template = loaded.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadDataError, match=r"sample .*: the model's chat template refuses it: roles must alternate"):
        first_batch(dataset, source, DataProcessor(loaded))
