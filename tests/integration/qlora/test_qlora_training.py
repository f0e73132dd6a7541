from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import one_batch
from peft import PeftModel
from recording_run import RecordingRun
from safetensors.torch import load_file, save_file
from tiny_models import row, write_clip, write_dataset
from transformers import AutoModelForImageTextToText, AutoTokenizer, BitsAndBytesConfig

from trainer_svc.qlora.adapter_files import SIDECAR
from trainer_svc.qlora.errors import (
    AllStepsLostError,
    BadDataError,
    CheckpointMismatchError,
    GradientAuditError,
    NonFiniteLossError,
)
from trainer_svc.qlora.failures import as_failure
from trainer_svc.qlora.folder_files import is_whole
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    FailureReason,
    Log,
    Progress,
    Started,
    Starting,
    Stopped,
    StopReason,
    encode,
)
from trainer_svc.qlora.model_loader import BaseModel, guard_cpu_quantization, load_base_model
from trainer_svc.qlora.optimizers import learning_rate_at, make_optimizer
from trainer_svc.qlora.qlora_injector import inject, trainable
from trainer_svc.qlora.spec import OptimizationSpec, QuantizationSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

NewRun = Callable[..., RecordingRun]


def weights(run: RecordingRun) -> dict[str, torch.Tensor]:
    return load_file(run.folders.adapter / "adapter_model.safetensors")


def assert_same_weights(one: RecordingRun, two: RecordingRun) -> None:
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def unbroken(qwen3: Path, dataset: Path, spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> RecordingRun:
    """The run that all others are compared with. Nobody writes to its folder."""
    run = RecordingRun(qwen3, dataset, tmp_path_factory.mktemp("unbroken"))
    train(run, spec)
    return run


def test_a_run_tells_its_life_in_order(unbroken: RecordingRun) -> None:
    phases = [message.phase for message in unbroken.messages if isinstance(message, Starting)]
    assert phases == ["dataset", "model", "adapter", "first_step"]
    (started,) = (message for message in unbroken.messages if isinstance(message, Started))
    assert (started.total_steps, started.start_step, started.samples) == (6, 0, 8)
    assert (started.decoder, started.quantized_layers) == ("decord", 14)
    progress = [message for message in unbroken.messages if isinstance(message, Progress)]
    assert [(entry.step, entry.epoch) for entry in progress] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert [entry.step for entry in unbroken.messages if isinstance(entry, CheckpointSaved)] == [2, 4]
    assert isinstance(unbroken.last, Completed)
    assert unbroken.last.steps == 6
    for message in unbroken.messages:
        encode(message)


def test_the_loss_falls_and_every_figure_is_told(unbroken: RecordingRun) -> None:
    losses = unbroken.series("loss")
    assert losses[6] < losses[1] - 0.5
    assert set(unbroken.series("learning_rate")) == {1, 2, 3, 4, 5, 6}
    rates = ("samples_per_second", "tokens_per_second", "clips_per_second")
    phases = ("forward_seconds", "backward_seconds", "optimizer_seconds")
    for name in ("grad_norm", *rates, "step_seconds", *phases, "peak_memory_bytes"):
        assert len(unbroken.series(name)) == 6, name
        assert all(value > 0 for value in unbroken.series(name).values()), name
    assert unbroken.series("clips_per_second") == unbroken.series("samples_per_second")
    assert all(0 <= value <= 1 for value in unbroken.series("data_wait_fraction").values())
    for step, whole in unbroken.series("step_seconds").items():
        parts = sum(unbroken.series(name)[step] for name in ("data_seconds", *phases))
        assert 0 < parts <= 1.001 * whole


def test_the_adapter_folder_is_whole_and_says_what_it_was_made_from(unbroken: RecordingRun, spec: TrainingSpec) -> None:
    folder = unbroken.folders.adapter
    assert is_whole(folder)
    assert isinstance(unbroken.last, Completed)
    assert unbroken.last.manifest == json.loads((folder / "manifest.json").read_bytes())
    sidecar = json.loads((folder / SIDECAR).read_bytes())
    assert sidecar["base"]["model_type"] == "qwen3_vl"
    assert sidecar["base"]["fingerprint"].startswith("sha256:")
    assert (sidecar["quantization"]["scheme"], sidecar["quantization"]["compute_dtype"]) == ("nf4", "float32")
    assert TrainingSpec.from_dict(sidecar["spec"]) == spec
    assert sidecar["training"]["steps"] == 6
    assert set(sidecar["versions"]) == {"torch", "transformers", "peft", "bitsandbytes"}
    assert sidecar["training"]["loss"] == unbroken.series("loss")[6]
    card = (folder / "README.md").read_text()
    for words in (
        "library_name: peft",
        "| steps | 6 |",
        "| samples | 8 |",
        "NF4, double-quantised",
        "`lora.rank` | 4 |",
    ):
        assert words in card
    # Nothing about the machine that trained leaks out.
    for file in folder.iterdir():
        assert str(unbroken.folders.model).encode() not in file.read_bytes()


def test_the_cards_own_lines_load_the_adapter(unbroken: RecordingRun, qwen3: Path) -> None:
    card = (unbroken.folders.adapter / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"BASE_MODEL": str(qwen3), "ADAPTER": str(unbroken.folders.adapter)}
    exec(code, names)
    trained = load_file(unbroken.folders.adapter / "adapter_model.safetensors")
    loaded = {name: value for name, value in names["model"].named_parameters() if "lora_" in name}
    assert len(loaded) == len(trained)
    for name, value in trained.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")].float(), value.float())
    assert sum(type(module).__name__ == "Linear4bit" for module in names["base"].modules()) > 0


def test_plain_transformers_and_peft_load_it_and_give_the_same_logits(unbroken: RecordingRun, qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    batch = one_batch(base)
    ours, _ = inject(base, TrainingSpec().lora, seed=0, gradient_checkpointing=False)
    ours = PeftModel.from_pretrained(ours.unload(), str(unbroken.folders.adapter)).eval()
    plain = PeftModel.from_pretrained(load_plain(qwen3), str(unbroken.folders.adapter)).eval()
    # Where the CPU has AVX512-BF16, bitsandbytes gives plain another kernel, in half the precision.
    with torch.no_grad():
        expected = ours(**batch.inputs).logits
        difference = plain(**batch.inputs).logits - expected
        assert difference.norm() < 0.03 * expected.norm()
    plain = PeftModel.from_pretrained(load_plain(qwen3), str(unbroken.folders.adapter)).eval()
    guard_cpu_quantization(plain)
    with torch.no_grad():
        assert torch.equal(plain(**batch.inputs).logits, expected)
    with torch.no_grad(), ours.disable_adapter():
        assert not torch.equal(ours(**batch.inputs).logits, plain(**batch.inputs).logits)


def load_plain(model: Path) -> Any:
    """A 4-bit model as any user of transformers loads it."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )
    return AutoModelForImageTextToText.from_pretrained(model, quantization_config=config, dtype=torch.float32)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(
    unbroken: RecordingRun, new_run: NewRun, spec: TrainingSpec
) -> None:
    again, other = new_run("again"), new_run("other")
    train(again, spec)
    assert again.series("loss") == unbroken.series("loss")
    assert_same_weights(again, unbroken)
    train(other, spec.with_overrides(["optimization.seed=7", "optimization.max_steps=1"]))
    assert other.series("loss")[1] != unbroken.series("loss")[1]


@pytest.mark.parametrize(
    ("optimizer", "stop_at"), [("adamw", 1), ("adamw", 3), ("adamw_8bit", 1), ("adamw_8bit", 3), ("lion_8bit", 3)]
)
def test_a_run_that_was_drained_and_goes_on_equals_one_that_never_stopped(
    new_run: NewRun, spec: TrainingSpec, unbroken: RecordingRun, stop_at: int, optimizer: str
) -> None:
    # Large enough that the 8-bit optimizer really quantises its state.
    spec = spec.with_overrides([f"optimization.optimizer={optimizer}"] + ["lora.rank=64"] * (optimizer != "adamw"))
    whole = unbroken
    if optimizer != "adamw":
        whole = new_run("whole")
        train(whole, spec)
    broken = new_run("broken")
    broken.stop_after = (stop_at, StopReason.DRAIN)
    train(broken, spec)
    stopped = broken.last
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, stopped.step, stopped.adapter_dir) == (StopReason.DRAIN, stop_at, None)
    assert not broken.folders.adapter.exists()
    resumed = new_run("broken")
    train(resumed, spec)
    assert next(message for message in resumed.messages if isinstance(message, Started)).start_step == stop_at
    assert broken.series("loss") | resumed.series("loss") == whole.series("loss")
    assert_same_weights(resumed, whole)
    accounts = [json.loads((run.folders.adapter / SIDECAR).read_bytes()) for run in (resumed, whole)]
    assert accounts[0] == accounts[1]


def test_a_run_that_goes_on_with_another_decoder_says_so_and_learns_the_same(
    unbroken: RecordingRun, new_run: NewRun, spec: TrainingSpec
) -> None:
    run = new_run()
    shutil.copytree(unbroken.folders.checkpoints, run.folders.checkpoints)
    train(run, spec.with_overrides(["runtime.decoder=pyav", "runtime.encoder_cache=off"]))
    warnings = [message.text for message in run.messages if isinstance(message, Log) and message.level == "warning"]
    assert len(warnings) == 1
    assert "was trained on clips decoded with decord; from here on they are decoded with pyav" in warnings[0]
    assert run.series("loss").items() < unbroken.series("loss").items()
    assert_same_weights(run, unbroken)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    unbroken: RecordingRun, new_run: NewRun, spec: TrainingSpec
) -> None:
    run = new_run()
    shutil.copytree(unbroken.folders.checkpoints, run.folders.checkpoints)
    newest = run.folders.checkpoints / "step-00000004" / "optimizer.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train(run, spec)
    warnings = [message.text for message in run.messages if isinstance(message, Log) and message.level == "warning"]
    assert warnings == ["checkpoint step-00000004 is damaged and was passed over"]
    assert next(message for message in run.messages if isinstance(message, Started)).start_step == 2
    assert_same_weights(run, unbroken)


@pytest.mark.parametrize(
    ("change", "named"), [("lora.alpha=8", "specification"), ("optimization.seed=1", "specification")]
)
def test_a_checkpoint_of_another_run_is_never_gone_on_from(
    unbroken: RecordingRun, spec: TrainingSpec, change: str, named: str
) -> None:
    with pytest.raises(CheckpointMismatchError, match=named):
        train(unbroken, spec.with_overrides([change]))


def test_a_stopped_run_keeps_the_adapter_made_so_far(
    new_run: NewRun, spec: TrainingSpec, unbroken: RecordingRun
) -> None:
    run = new_run()
    run.stop_after = (2, StopReason.USER)
    train(run, spec.with_overrides(["log_every_steps=4"]))
    stopped = run.last
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, stopped.step, stopped.adapter_dir) == (StopReason.USER, 2, str(run.folders.adapter))
    assert stopped.checkpoint is not None
    assert is_whole(Path(stopped.checkpoint))
    assert is_whole(run.folders.adapter)
    assert json.loads((run.folders.adapter / SIDECAR).read_bytes())["training"]["steps"] == 2
    # Figures of all its steps are told, though none were due.
    losses = unbroken.series("loss")
    assert run.series("loss") == {2: pytest.approx((losses[1] + losses[2]) / 2)}
    assert run.series("learning_rate") == {2: unbroken.series("learning_rate")[2]}


def test_a_stop_before_the_first_step_saves_nothing(new_run: NewRun, spec: TrainingSpec) -> None:
    run = new_run()
    run.stop_after = (0, StopReason.USER)
    train(run, spec)
    assert run.last == Stopped(StopReason.USER, 0, None, None, None)
    assert not run.folders.adapter.exists()


def test_a_stop_that_comes_with_the_last_step_wins(new_run: NewRun, spec: TrainingSpec) -> None:
    run = new_run()
    run.stop_after = (1, StopReason.USER)
    train(run, spec.with_overrides(["optimization.max_steps=1"]))
    assert isinstance(run.last, Stopped)
    assert run.last.step == 1


def test_checkpoints_come_in_their_time_and_old_ones_go(new_run: NewRun, spec: TrainingSpec) -> None:
    run = new_run()
    train(run, spec.with_overrides(["checkpoint_every_steps=1", "keep_checkpoints=2", "optimization.max_steps=4"]))
    saved = [message.step for message in run.messages if isinstance(message, CheckpointSaved)]
    assert saved == [1, 2, 3]
    assert sorted(path.name for path in run.folders.checkpoints.iterdir()) == ["step-00000002", "step-00000003"]


def test_evaluation_changes_nothing_that_is_learned(qwen3: Path, tmp_path: Path, spec: TrainingSpec) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    with (data / "rows.jsonl").open("a") as rows:
        for index in range(3):
            rows.write(json.dumps(row(f"e{index}", f"{index}.mp4", "colour?", "red", split="eval")) + "\n")
    with_eval, without = (RecordingRun(qwen3, data, tmp_path / name) for name in ("with", "without"))
    train(with_eval, spec.with_overrides(["evaluate_every_steps=1"]))
    train(without, spec)
    assert set(with_eval.series("eval_loss")) == {1, 2, 3}
    assert set(without.series("eval_loss")) == {3}
    assert with_eval.series("eval_loss")[3] == without.series("eval_loss")[3]
    assert "| eval loss of step | 3 |" in (with_eval.folders.adapter / "README.md").read_text()
    assert with_eval.series("loss") == without.series("loss")
    assert_same_weights(with_eval, without)


def test_a_checkpoint_tells_the_loss_at_its_step_and_the_best_one_stays(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    with (data / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps(row("e0", "0.mp4", "colour?", "red", split="eval")) + "\n")
    run = RecordingRun(qwen3, data, tmp_path / "out")
    wanted = ["optimization.max_steps=6", "checkpoint_every_steps=1", "evaluate_every_steps=2"]
    train(run, spec.with_overrides([*wanted, "keep_checkpoints=1", "keep_best_checkpoint=true"]))
    saved = {message.step: message.eval_loss for message in run.messages if isinstance(message, CheckpointSaved)}
    measured = run.series("eval_loss")
    assert saved == {1: None, 2: measured[2], 3: None, 4: measured[4], 5: None}
    best = min((2, 4), key=lambda step: (measured[step], -step))
    kept = {path.name for path in run.folders.checkpoints.iterdir()}
    assert kept == {f"step-{best:08d}", "step-00000005"}


def test_frames_drawn_anew_in_each_epoch_are_the_same_again_after_a_break(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    """Broken in the second of three epochs, with clips of many frames, and a cache that must not give the first's."""
    data = tmp_path / "data"
    rows = []
    for index in range(4):
        write_clip(data / "clips" / f"{index}.mp4", frames=24)
        rows.append(row(f"s{index}", f"{index}.mp4", "colour?", "red"))
    rows.append(row("e0", "0.mp4", "colour?", "red", split="eval"))
    (data / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    wanted = spec.with_overrides(
        ["optimization.gradient_accumulation_steps=1", "lora.dropout=0", "evaluate_every_steps=1"]
    )
    jitter = wanted.with_overrides(["sampling.placement=segment_jitter"])
    whole, even = RecordingRun(qwen3, data, tmp_path / "whole"), RecordingRun(qwen3, data, tmp_path / "even")
    train(whole, jitter)
    train(even, wanted)
    assert whole.series("loss") != even.series("loss")
    broken = RecordingRun(qwen3, data, tmp_path / "broken")
    broken.stop_after = (3, StopReason.DRAIN)
    train(broken, jitter)
    resumed = RecordingRun(qwen3, data, tmp_path / "broken")
    train(resumed, jitter)
    assert broken.series("loss") | resumed.series("loss") == whole.series("loss")
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_clips_that_fit_the_cache_are_decoded_once(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec, cache_mib: int
) -> None:
    """Shown by taking the clips away after the first epoch: with a cache nobody misses them."""
    data = write_dataset(tmp_path / "data", samples=2)
    run = _ClipsVanish(qwen3, data, tmp_path / "out")
    cached = spec.with_overrides(
        [
            *("runtime.encoder_cache=off", f"runtime.frame_cache_mib={cache_mib}"),
            *("runtime.prefetch_batches=1", "optimization.epochs=12"),
        ]
    )
    if cache_mib:
        train(run, cached)
        assert isinstance(run.last, Completed)
    else:
        with pytest.raises(BadDataError, match=r"clip .*\.mp4: missing"):
            train(run, cached)


class _ClipsVanish(RecordingRun):
    def report(self, message: Any) -> None:
        super().report(message)
        if isinstance(message, Progress) and message.step == 1:
            shutil.rmtree(self.folders.dataset / "clips")


def test_a_clip_that_cannot_be_decoded_fails_the_run_naming_the_sample(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    whole = (data / "clips" / "2.mp4").read_bytes()
    (data / "clips" / "2.mp4").write_bytes(whole[:500])
    with pytest.raises(BadDataError, match=r"sample s2: clip 2\.mp4: undecodable") as caught:
        train(RecordingRun(qwen3, data, tmp_path / "out"), spec)
    failure = as_failure(caught.value)
    assert failure.reason is FailureReason.BAD_DATA
    assert failure.next_step == "replace the clip or remove its rows"


@pytest.fixture(scope="module")
def infinite(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embedding of the letter z is infinite."""
    model = Path(shutil.copytree(qwen3, tmp_path_factory.mktemp("infinite") / "model"))
    tensors = load_file(model / "model.safetensors")
    letter = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("z")
    tensors["model.language_model.embed_tokens.weight"][letter] = torch.inf
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


def test_a_loss_that_is_no_number_stops_the_run_names_step_and_samples_and_leaves_a_checkpoint(
    infinite: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    change_question(data, 3, "zebra?")
    one_by_one = spec.with_overrides(["optimization.batch_size=1", "optimization.gradient_accumulation_steps=1"])
    run, often = (RecordingRun(infinite, data, tmp_path / name) for name in ("out", "often"))
    with pytest.raises(NonFiniteLossError, match=r"step \d: loss nan, .*samples s3$") as caught:
        train(run, one_by_one.with_overrides(["checkpoint_every_steps=0"]))
    assert as_failure(caught.value).reason is FailureReason.NON_FINITE_LOSS
    losses = run.series("loss")
    assert losses
    assert all(math.isfinite(value) for value in losses.values())
    assert isinstance(run.last, CheckpointSaved)
    assert run.last.step == max(losses)
    # It is what a checkpoint of that step would have been before the step that failed drew its random numbers.
    with pytest.raises(NonFiniteLossError):
        train(often, one_by_one.with_overrides(["checkpoint_every_steps=1"]))
    kept = Path(run.last.path)
    for file in ("adapter", "optimizer", "random"):
        name = f"{file}.safetensors"
        assert (kept / name).read_bytes() == (often.folders.checkpoints / kept.name / name).read_bytes()


def test_a_held_out_loss_that_is_no_number_names_its_sample_and_leaves_a_checkpoint_that_owes_the_measurement(
    infinite: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    with (data / "rows.jsonl").open("a") as rows:
        for index, question in enumerate(("colour?", "zebra?", "colour?")):
            rows.write(json.dumps(row(f"e{index}", f"{index}.mp4", question, "red", split="eval")) + "\n")
    run = RecordingRun(infinite, data, tmp_path / "out")
    with pytest.raises(NonFiniteLossError, match=r"after step 1: .*samples e1$") as caught:
        train(run, spec.with_overrides(["evaluate_every_steps=1"]))
    assert as_failure(caught.value).next_step.startswith("look at the named samples, or leave them out")
    assert isinstance(run.last, CheckpointSaved)
    assert run.last.step == 1
    assert json.loads((Path(run.last.path) / "state.json").read_bytes())["owes_evaluation"]


def change_question(data: Path, index: int, question: str) -> None:
    rows = (data / "rows.jsonl").read_text().splitlines()
    rows[index] = rows[index].replace("colour?", question)
    (data / "rows.jsonl").write_text("\n".join(rows))


def test_steps_that_fp16_loses_are_told_and_a_run_that_loses_all_of_them_fails(
    new_run: NewRun, spec: TrainingSpec
) -> None:
    run = new_run()
    with pytest.raises(AllStepsLostError, match="all 1 steps") as caught:
        train(run, spec.with_overrides(["quantization.compute_dtype=fp16", "optimization.max_steps=1"]))
    assert as_failure(caught.value).reason is FailureReason.NON_FINITE_LOSS
    told = [message.text for message in run.messages if isinstance(message, Log)]
    assert any(text.startswith("step 1 is lost: its gradients overflow fp16") for text in told)
    assert set(run.series("loss")) == {1}
    assert not run.series("grad_norm")


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_what_is_cut_off_from_the_loss_is_found_at_the_first_step(
    new_run: NewRun, spec: TrainingSpec, dtype: str
) -> None:
    """The tower's last output is cut off, so that its last layer would never train, and the others would."""

    def load(model: Path, quantization: QuantizationSpec) -> BaseModel:
        base = load_base_model(model, quantization)
        base.model.model.visual.merger.register_forward_hook(lambda _module, _inputs, output: output.detach())
        return base

    options = ["lora.target_groups=language,vision", f"quantization.compute_dtype={dtype}"]
    with pytest.raises(GradientAuditError, match=r"visual.*got no gradient"):
        train(new_run(), spec.with_overrides(options), load=load)


def test_rows_of_texts_alone_train_beside_others_whatever_comes_first(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    """The first step and some of those that ranks are allocated by show no clip."""
    data = write_dataset(tmp_path / "data", samples=2)
    with (data / "rows.jsonl").open("a") as rows:
        for index in range(4):
            talk = [{"role": "user", "content": "say hi"}, {"role": "assistant", "content": "hi"}]
            rows.write(json.dumps({"sample_id": f"t{index}", "split": "train", "messages": talk}) + "\n")
    run = RecordingRun(qwen3, data, tmp_path / "out")
    allocation = {"warmup_steps": 2, "calibration_batches": 4}
    options = ["optimization.batch_size=1", "optimization.gradient_accumulation_steps=1", "optimization.epochs=1"]
    options += ["lora.target_groups=language,vision", f"lora.rank_allocation={json.dumps(allocation)}"]
    train(run, spec.with_overrides([*options, "optimization.seed=5"]))
    assert isinstance(run.last, Completed)
    shown = run.series("clips_per_second")
    assert shown[1] == 0
    assert any(shown.values())


def test_samples_too_long_by_their_words_are_all_listed_before_the_first_step(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=4)
    change_question(data, 1, "word " * 500)
    change_question(data, 3, "word " * 600)
    run = RecordingRun(qwen3, data, tmp_path / "out")
    with pytest.raises(BadDataError, match=r"^2 samples have more tokens of text alone .*: s1 \(\d+\), s3 \(\d+\);"):
        train(run, spec.with_overrides(["max_tokens=450"]))
    assert not any(isinstance(message, Started) for message in run.messages)


def test_decode_processes_and_threads_are_gone_after_a_run(unbroken: RecordingRun) -> None:
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith(("decode-", "batches"))}


@pytest.mark.parametrize(
    "changes",
    [
        ["lora.target_groups=language,projector,vision", "lora.use_rslora=true"],
        ["quantization.bits=16", "optimization.gradient_checkpointing=false"],
        ["quantization.compute_dtype=bf16", "lora.target_groups=vision"],
        ["quantization.compute_dtype=fp16"],
        ["quantization.quantize_vision=true", "quantization.double_quantization=false", "optimization.schedule=linear"],
        ["sampling.fps=2", "sampling.max_pixels=256", "runtime.decoder=pyav", "runtime.decode_workers=2"],
    ],
    ids=lambda changes: changes[0],
)
@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_every_way_of_training_learns(
    model: str, changes: list[str], request: pytest.FixtureRequest, new_run: NewRun, spec: TrainingSpec
) -> None:
    run = new_run(model=request.getfixturevalue(model))
    train(run, spec.with_overrides([*changes, "optimization.max_steps=3"]))
    assert isinstance(run.last, Completed)
    losses = run.series("loss")
    assert losses[3] < losses[1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * index / 6)) for index in range(6))]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: Any, expected: list[float]) -> None:
    spec = OptimizationSpec(learning_rate=1.0, warmup_ratio=0.25, schedule=schedule)
    assert [learning_rate_at(step, 8, spec) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "lion_8bit"])
def test_weights_decay_as_asked(optimizer: Any) -> None:
    """A step whose gradients are 0 leaves nothing but the decay."""
    weight = torch.nn.Parameter(torch.ones(4096))
    made = make_optimizer([weight], OptimizationSpec(learning_rate=0.1, weight_decay=0.5, optimizer=optimizer))
    weight.grad = torch.zeros_like(weight)
    made.step()
    assert torch.allclose(weight, torch.full_like(weight, 1 - 0.1 * 0.5), atol=1e-6)


def test_only_the_adapter_is_trained(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    model, report = inject(base, TrainingSpec().lora, seed=0, gradient_checkpointing=False)
    assert all("lora_" in name for name in trainable(model))
    assert report.layers == {"language": 14}


def test_clips_of_different_length_train_in_one_batch(qwen3: Path, tmp_path: Path, spec: TrainingSpec) -> None:
    data = tmp_path / "data"
    rows = []
    for index, frames in enumerate((2, 3, 7, 12)):
        write_clip(data / "clips" / f"{index}.mp4", frames=frames)
        rows.append(row(f"s{index}", f"{index}.mp4", "what?", "x" * (index + 1), max_frames=frames))
    (data / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    run = RecordingRun(qwen3, data, tmp_path / "out")
    train(run, spec.with_overrides(["optimization.batch_size=4", "optimization.max_steps=2"]))
    assert isinstance(run.last, Completed)
