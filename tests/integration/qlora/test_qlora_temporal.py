"""LoRA that mixes along time: nothing before the first step, clips kept apart, and never read as plain LoRA."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import decoded, one_batch, question
from peft import PeftModel
from recording_run import RecordingRun
from safetensors.torch import load_file, save_file
from tiny_families import save_llava_onevision, save_smolvlm, save_video_llama_3

from benchmarks.order_blind import OrderBlindModel, draw
from benchmarks.temporal_lora import adapted as adapted_benchmark
from trainer_svc.qlora.adapter_files import check_adapter, write_adapter
from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.errors import BadDataError, ModelAuditError
from trainer_svc.qlora.families import FAMILIES
from trainer_svc.qlora.frame_index import FrameIndex
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.messages import Completed, StopReason
from trainer_svc.qlora.model_loader import BaseModel, load_base_model
from trainer_svc.qlora.qlora_injector import check_gradients, inject, trainable
from trainer_svc.qlora.spec import LoraSpec, QuantizationSpec, SpecError, TrainingSpec
from trainer_svc.qlora.static_export import export_static
from trainer_svc.qlora.static_export import main as static_export
from trainer_svc.qlora.temporal_aware_lora import NotMergeableError, TemporalMix, check_offered
from trainer_svc.qlora.trainer import train

PLAIN = LoraSpec(rank=4, dropout=0.0, target_groups=("language", "vision"))
TEMPORAL = LoraSpec(rank=4, dropout=0.0, target_groups=("language", "vision"), temporal_groups=("language", "vision"))
CPU = torch.device("cpu")


def adapted(model: Path, lora: LoraSpec, *, checkpointing: bool = False) -> tuple[BaseModel, Any]:
    base = load_base_model(model, QuantizationSpec())
    return base, inject(base, lora, seed=0, gradient_checkpointing=checkpointing)[0]


def randomise(model: Any, *, mixing: bool = True) -> Any:
    """B and w are zero at first: give them something to say. A and B get the same values whether w is there or not."""
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            generator = torch.Generator().manual_seed(sum(name.encode()))
            if mixing or "lora_temporal" not in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        result = model(**inputs, use_cache=False).logits
    assert isinstance(result, torch.Tensor)
    return result


def slowly(bottleneck: torch.Tensor, weight: torch.Tensor, offsets: list[int]) -> torch.Tensor:
    """The formula, one frame at a time; (T, P, r)."""
    mixed = bottleneck.clone()
    for time in range(len(bottleneck)):
        for tap, offset in enumerate(offsets):
            if 0 <= time + offset < len(bottleneck):
                mixed[time] += weight[:, tap] * bottleneck[time + offset]
    return mixed


@pytest.mark.parametrize(("is_causal", "offsets"), [(False, [-1, 0, 1]), (True, [-2, -1, 0])])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_mixing_is_a_convolution_over_the_frames_of_each_clip(is_causal: bool, offsets: list[int], times: int) -> None:
    torch.manual_seed(1)
    mix = TemporalMix(4, 3, is_causal=is_causal)
    torch.nn.init.normal_(mix.weight)
    tokens = torch.randn(3 + 2 * times * 6, 4)
    # Two clips of `times` frames of six tokens, backwards in the sequence, behind three tokens of text.
    index = torch.arange(3, 3 + 2 * times * 6).flip(0).view(2, times, 6)
    mixed = mix(tokens, [index])
    for clip in index:
        assert torch.allclose(mixed[clip], slowly(tokens[clip], mix.weight, offsets), atol=1e-5)
    assert torch.equal(mixed[:3], tokens[:3])


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_before_the_first_step_the_model_is_its_base(model: str, request: pytest.FixtureRequest) -> None:
    base = load_base_model(request.getfixturevalue(model), QuantizationSpec())
    inputs = one_batch(base).inputs
    before = logits(base.model, inputs)
    tuned, report = inject(base, TEMPORAL, seed=0, gradient_checkpointing=True)
    assert torch.equal(before, logits(tuned, inputs))
    plain = adapted(request.getfixturevalue(model), PLAIN)[1]
    # A language layer must not see the answer's frames before they are shown; a tower sees past and future.
    padding = {
        ("visual" in name, module._padding) for name, module in tuned.named_modules() if isinstance(module, TemporalMix)
    }
    assert padding == {(False, (2, 0)), (True, (1, 1))}
    mixing = sum(value.numel() for name, value in trainable(tuned).items() if "lora_temporal" in name)
    assert mixing == 4 * 3 * sum(report.layers.values())
    assert report.parameters == mixing + sum(value.numel() for value in trainable(plain).values())


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_with_its_mixing_at_zero_it_is_plain_lora(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    base, plain = adapted(folder, PLAIN)
    inputs = one_batch(base).inputs
    expected = logits(randomise(plain), inputs)
    temporal = adapted(folder, TEMPORAL)[1]
    assert torch.allclose(logits(randomise(temporal, mixing=False), inputs), expected, atol=1e-5)
    assert not torch.allclose(logits(randomise(temporal), inputs), expected, atol=1e-2)


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_a_clip_is_never_mixed_with_another_of_its_batch(model: str, request: pytest.FixtureRequest) -> None:
    base, tuned = adapted(request.getfixturevalue(model), TEMPORAL)
    randomise(tuned)
    processor = DataProcessor(base.processor)
    one = processor.encode(question("s1", "left"), [decoded(seed=1)])
    two = processor.encode(question("s2", "left"), [decoded((0.0, 0.5), seed=2)])
    together = logits(tuned, processor.collate([one, two]).inputs)
    for row, sample in enumerate((one, two)):
        alone = logits(tuned, processor.collate([sample]).inputs)[0]
        assert torch.allclose(together[row, : sample.length], alone, atol=1e-4)


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_recomputed_activations_give_the_same_gradients(model: str, request: pytest.FixtureRequest) -> None:
    results = []
    for checkpointing in (False, True):
        base, tuned = adapted(request.getfixturevalue(model), TEMPORAL, checkpointing=checkpointing)
        randomise(tuned).train()
        batch = one_batch(base)
        summed_loss(tuned, batch, CPU).backward()
        check_gradients(tuned)
        results.append({name: value.grad for name, value in trainable(tuned).items()})
    mixing = [name for name in results[0] if "lora_temporal" in name]
    assert mixing
    assert all(results[0][name].abs().max() > 0 for name in mixing if "visual" in name)
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


@pytest.mark.parametrize("save", [save_smolvlm, save_llava_onevision, save_video_llama_3])
def test_towers_of_other_families_are_mixed_clip_by_clip(save: Callable[[Path], Path], tmp_path: Path) -> None:
    tower = LoraSpec(rank=4, dropout=0.0, target_groups=("vision",), temporal_groups=("vision",))
    base, tuned = adapted(save(tmp_path / "model"), tower)
    processor = DataProcessor(base.processor)
    samples = [processor.encode(question(f"s{seed}", "left"), [decoded(seed=seed)]) for seed in (1, 2)]
    batch = processor.collate(samples)
    before = logits(base.model, batch.inputs)
    plain = logits(randomise(tuned, mixing=False), batch.inputs)
    mixed = logits(randomise(tuned), batch.inputs)
    assert not torch.allclose(before, plain, atol=1e-3)
    assert not torch.allclose(mixed, plain, atol=1e-3)
    for row, sample in enumerate(samples):
        alone = logits(tuned, processor.collate([sample]).inputs)[0]
        assert torch.allclose(mixed[row, : sample.length], alone, atol=1e-4)


def test_text_alone_passes_as_through_plain_lora(qwen3: Path) -> None:
    base, plain = adapted(qwen3, PLAIN)
    ids = base.processor.tokenizer("no clip here", return_tensors="pt")["input_ids"]
    expected = logits(randomise(plain), {"input_ids": ids})
    temporal = randomise(adapted(qwen3, TEMPORAL)[1])
    logits(temporal, one_batch(base).inputs)  # a pass with clips leaves nothing behind
    assert torch.allclose(logits(temporal, {"input_ids": ids}), expected, atol=1e-6)


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_generation_with_its_cache_says_what_it_says_without(model: str, request: pytest.FixtureRequest) -> None:
    base, tuned = adapted(request.getfixturevalue(model), TEMPORAL)
    randomise(tuned).eval()
    processor = DataProcessor(base.processor)
    inputs = processor.encode_prompt(question().turns[:1], [decoded()])
    told = [
        tuned.generate(**copy.deepcopy(inputs), do_sample=False, max_new_tokens=8, use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(told[0], told[1])


@pytest.mark.parametrize("after_a_batch", [False, True], ids=["fresh", "after a batch"])
@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_an_answer_is_mixed_as_training_is(model: str, after_a_batch: bool, request: pytest.FixtureRequest) -> None:
    """`generate` of transformers runs the encoder apart by itself, where no layer would know the frames."""
    base, tuned = adapted(request.getfixturevalue(model), TEMPORAL)
    randomise(tuned).eval()
    inputs = DataProcessor(base.processor).encode_prompt(question().turns[:1], [decoded()])
    expected = logits(tuned, copy.deepcopy(inputs))[:, -1]
    plain = logits(randomise(adapted(request.getfixturevalue(model), PLAIN)[1]).eval(), copy.deepcopy(inputs))[:, -1]
    assert not torch.allclose(expected, plain, atol=1e-2), "the mixing says nothing here"
    base, tuned = adapted(request.getfixturevalue(model), TEMPORAL)
    randomise(tuned).eval()
    if after_a_batch:
        logits(tuned, one_batch(base).inputs)
    said = tuned.generate(
        **copy.deepcopy(inputs), do_sample=False, max_new_tokens=2, return_dict_in_generate=True, output_logits=True
    )
    assert torch.allclose(said.logits[0], expected, atol=1e-4)


def test_it_trains_goes_on_and_answers_bit_for_bit(
    qwen3: Path, new_run: Callable[..., RecordingRun], spec: TrainingSpec
) -> None:
    spec = spec.with_overrides(["lora.target_groups=vision,language", "lora.temporal_groups=vision,language"])
    whole, broken = new_run("whole"), new_run("broken")
    train(whole, spec)
    broken.stop_after = (3, StopReason.DRAIN)
    train(broken, spec)
    broken.stop_after = None
    train(broken, spec)
    assert isinstance(broken.last, Completed)
    one, two = (load_file(run.folders.adapter / "adapter_model.safetensors") for run in (whole, broken))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    mixing = [name for name in one if "lora_temporal" in name]
    assert mixing
    assert all(one[name].abs().max() > 0 for name in mixing if "visual" in name)
    assert check_adapter(whole.folders.adapter, load_base_model(qwen3, QuantizationSpec()).fingerprint).temporal_groups


@pytest.fixture
def saved(qwen3: Path, tmp_path: Path) -> tuple[Path, Path, torch.Tensor]:
    """A temporal adapter, a plain one, and the logits that the temporal one gave when it was written."""
    folders = []
    given = torch.empty(0)
    for name, lora in (("plain", PLAIN), ("temporal", TEMPORAL)):
        base, tuned = adapted(qwen3, lora)
        randomise(tuned)
        write_adapter(tmp_path / name, tuned, base, TrainingSpec(lora=lora), {"steps": 1})
        folders.append(tmp_path / name)
        given = logits(tuned, one_batch(base).inputs)
    return folders[1], folders[0], given


def test_it_is_swapped_with_plain_adapters_on_one_base(qwen3: Path, saved: tuple[Path, Path, torch.Tensor]) -> None:
    temporal, plain, given = saved
    base = load_base_model(qwen3, QuantizationSpec())
    inputs = one_batch(base).inputs
    adapters = AdapterSet(base, limit=2)
    with adapters.active(str(plain)) as model:
        as_plain = logits(model, inputs)
    for folder in (temporal, plain, temporal):
        with adapters.active(str(folder)) as model:
            expected = given if folder == temporal else as_plain
            assert torch.equal(logits(model, inputs), expected), folder.name
    assert not torch.allclose(given, as_plain, atol=1e-2)


def test_stock_peft_would_drop_the_mixing_without_a_word(qwen3: Path, saved: tuple[Path, Path, torch.Tensor]) -> None:
    """Why the sidecar names the plugin, and why our loader asks for it."""
    temporal, _, given = saved
    base = load_base_model(qwen3, QuantizationSpec())
    inputs = one_batch(base).inputs
    assert not torch.allclose(logits(PeftModel.from_pretrained(base.model, temporal), inputs), given, atol=1e-2)


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ({"name": "temporal_aware_lora", "version": 2, "groups": ["vision"], "kernel_size": 3}, "version 2"),
        ({"name": "something_else", "version": 1}, "something_else"),
        (None, "not those of its layers"),
    ],
)
def test_it_is_refused_where_it_would_be_read_as_something_else(
    qwen3: Path, saved: tuple[Path, Path, torch.Tensor], plugin: dict[str, Any] | None, words: str
) -> None:
    temporal, plain, _ = saved
    sidecar = json.loads((temporal / "reeltune_adapter.json").read_text())
    sidecar["plugin"] = plugin
    (temporal / "reeltune_adapter.json").write_text(json.dumps(sidecar))
    adapters = AdapterSet(load_base_model(qwen3, QuantizationSpec()), limit=2)
    with pytest.raises(BadDataError, match=words), adapters.active(str(temporal)):
        pass
    with adapters.active(str(plain)) as model:
        assert len(model.peft_config) == 1


def test_an_adapter_that_lacks_its_mixing_is_refused(
    qwen3: Path, saved: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    cut = Path(shutil.copytree(saved[0], tmp_path / "cut"))
    weights = load_file(cut / "adapter_model.safetensors")
    kept = {name: value for name, value in weights.items() if "lora_temporal" not in name}
    assert len(kept) < len(weights)
    save_file(kept, cut / "adapter_model.safetensors", metadata={"format": "pt"})
    adapters = AdapterSet(load_base_model(qwen3, QuantizationSpec()), limit=2)
    with pytest.raises(BadDataError, match="not those of its layers"), adapters.active(str(cut)):
        pass


@pytest.mark.parametrize("bits", [4, 16])
def test_it_cannot_be_merged(qwen3: Path, bits: int) -> None:
    base = load_base_model(qwen3, QuantizationSpec(bits=bits))
    tuned, _ = inject(base, TEMPORAL, seed=0, gradient_checkpointing=False)
    with pytest.raises(NotMergeableError, match="export it as plain LoRA"):
        tuned.merge_adapter()


def test_tokens_that_no_clip_made_are_refused(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    index = FrameIndex(base.family, base.model.config)
    handle = index.watch(base.model)
    inputs = one_batch(base).inputs
    logits(base.model, inputs)
    grid = inputs["video_grid_thw"]
    patches = int(grid.prod(dim=1).sum())
    assert sum(part.numel() for part in index.of("vision", patches)) == patches
    assert sum(part.numel() for part in index.of("language", inputs["input_ids"].numel())) == patches // 4
    with pytest.raises(ModelAuditError, match="frames cannot be told"):
        index.of("vision", patches + 1)
    with pytest.raises(ModelAuditError, match="frames cannot be told"):
        index.of("language", patches // 4 - 1)
    handle.remove()


@pytest.mark.parametrize(
    ("family", "group"), [("internvl", "vision"), ("video_llama_3", "language"), ("smolvlm", "language")]
)
def test_a_part_whose_frames_are_not_known_is_refused(family: str, group: Any) -> None:
    lora = LoraSpec(target_groups=("language", "vision"), temporal_groups=(group,))
    with pytest.raises(SpecError, match=f"{group} is not offered for {family}"):
        check_offered(lora, FAMILIES[family])


def test_only_temporal_lora_can_tell_a_clip_from_its_reversal_when_frames_are_averaged() -> None:
    """The tower of the benchmark `temporal_lora`, with adapters of chance: what training could ever make of them."""
    clips = draw(16, torch.Generator().manual_seed(1), moving=True).pixel_values
    torch.manual_seed(0)
    base = OrderBlindModel()
    differences = {}
    for temporal in (False, True):
        model = adapted_benchmark(base, rank=4, temporal=temporal, seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
            told, reversed_ = model(pixel_values=clips), model(pixel_values=clips.flip(1))
        differences[temporal] = float((told - reversed_).abs().max())
    assert differences[False] < 1e-5
    assert differences[True] > 1e-2


def test_exported_as_plain_lora_it_keeps_what_concerns_a_token_alone(
    qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = adapted(qwen3, TEMPORAL)
    randomise(tuned)
    with torch.no_grad():
        for name, weight in trainable(tuned).items():
            if "lora_temporal" in name:
                weight[:, [0, 2] if "visual" in name else [0, 1, 2]] = 0.0
    write_adapter(tmp_path / "temporal", tuned, base, TrainingSpec(lora=TEMPORAL), {"steps": 1})
    inputs = one_batch(base).inputs
    expected = logits(tuned, inputs)
    assert static_export(["--adapter", str(tmp_path / "temporal"), "--out", str(tmp_path / "plain")]) == 0
    assert "0.00% of the mixing is lost in the worst layer" in capsys.readouterr().out
    stock = PeftModel.from_pretrained(load_base_model(qwen3, QuantizationSpec()).model, tmp_path / "plain")
    assert torch.allclose(logits(stock, inputs), expected, atol=1e-3)


def test_the_export_tells_what_it_loses(saved: tuple[Path, Path, torch.Tensor], tmp_path: Path) -> None:
    lost = export_static(saved[0], tmp_path / "exported")
    weights = load_file(saved[0] / "adapter_model.safetensors")
    name = next(name for name in weights if "visual" in name and name.endswith("lora_temporal.weight"))
    taps = weights[name]
    others = float((taps[:, 0].square().sum() + taps[:, 2].square().sum()).sqrt())
    whole = float((others**2 + (1 + taps[:, 1]).square().sum()) ** 0.5)
    layer = name.removeprefix("base_model.model.").removesuffix(".lora_temporal.weight")
    assert lost[layer] == pytest.approx(others / whole)
    assert json.loads((tmp_path / "exported" / "reeltune_adapter.json").read_text())["plugin"] is None


def test_what_is_no_temporal_adapter_is_not_exported(
    saved: tuple[Path, Path, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, words in ((saved[1], "a plain one needs no export"), (tmp_path / "nowhere", "holds no adapter")):
        assert static_export(["--adapter", str(folder), "--out", str(tmp_path / "out")]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(BadDataError, match="exists"):
        export_static(saved[0], saved[1])
    assert not (tmp_path / "out").exists()
