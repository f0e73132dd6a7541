"""Models and jobs in a real browser: registered, started, watched, stopped, taken away, and asked about a clip."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Visit
from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.e2e.trained_job import TrainedJob
from tests.e2e.training_material import Material

# The first test waits for the mesh, the browser and a job that is trained for all, too.
pytestmark = pytest.mark.timeout(1200)

STEPS = 4
TRAINED_MS = 400_000
"""How long a training of a few steps may take, on a loaded machine."""
DEFAULTS = {
    "Batches in a step": "optimization.gradientAccumulationSteps",
    "Alpha": "lora.alpha",
    "Frames a second": "sampling.fps",
    "Steps between evaluations": "evaluateEverySteps",
    "Steps between checkpoints": "checkpointEverySteps",
    "Seed": "optimization.seed",
}
"""Fields of a new job that the test leaves empty, and where the job shows their values."""


async def log_in(visit: Visit, username: str) -> None:
    await visit.open("/login?next=%2Fjobs%2Fnew")
    await visit.page.get_by_label("Username or e-mail").fill(username)
    await visit.page.get_by_label("Password").fill(PASSWORD)
    await visit.page.get_by_role("button", name="Log in").click()
    await visit.page.get_by_role("heading", name="New job").wait_for()


async def start_job(visit: Visit, trained: TrainedJob, name: str, steps: int) -> str:
    """Fills in a new job, starts it, and returns its id."""
    page = visit.page
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Model", exact=True).select_option(trained.model.id)
    await page.get_by_label("Dataset", exact=True).select_option(trained.dataset.id)
    fields = {
        "Steps": steps,
        "Samples at once": 2,
        "Frames of a clip": 4,
        "Rank of the adapter": 8,
        "Learning rate": "1e-2",
    }
    for label, value in fields.items():
        await page.get_by_label(label, exact=True).fill(str(value))
    await page.get_by_role("button", name="Start the job").click()
    await page.get_by_role("heading", name=name).wait_for()
    return page.url.rpartition("id=")[2]


def at(document: dict[str, Any], path: str) -> Any:
    """Returns the value at `lora.rank`."""
    found: Any = document
    for name in path.split("."):
        found = found[name]
    return found


async def test_a_job_is_started_watched_taken_away_and_asked(
    visit: Visit, stack: RunningMesh, trained: TrainedJob
) -> None:
    page = visit.page
    await log_in(visit, trained.owner.user.username)
    shown = {label: await page.get_by_label(label, exact=True).get_attribute("placeholder") for label in DEFAULTS}
    assert await visit.violations() == []
    job_id = await start_job(visit, trained, "by hand", STEPS)
    await page.get_by_text("completed", exact=True).first.wait_for(timeout=TRAINED_MS)

    answer = await stack.http.get(f"/v1/trainings/{job_id}", headers=trained.owner.user.headers)
    in_force = {label: at(answer.json()["parameters"], path) for label, path in DEFAULTS.items()}
    assert {label: float(text or "nan") for label, text in shown.items()} == {k: float(v) for k, v in in_force.items()}

    await page.locator(f"[role=img][aria-label*='at step {STEPS}']").wait_for()
    await page.locator("canvas").wait_for()
    assert await visit.violations() == []
    for tab, proof in {
        "Log": page.get_by_role("log"),
        "Events": page.get_by_text("Starting", exact=True),
        "Parameters": page.get_by_text("lora.rank", exact=True),
    }.items():
        await page.get_by_role("tab", name=tab).click()
        await proof.first.wait_for()
        assert await visit.violations() == []
    await assert_taken_away(visit, stack, trained, job_id)
    await page.get_by_role("tab", name="Try it").click()
    await page.get_by_label("Question").fill("Which colour comes first?")
    await page.get_by_role("button", name="Ask both").click()
    for who in ("tuned", "base"):
        await page.locator(f"[data-answer={who}][data-whole=true]").wait_for(timeout=TRAINED_MS)
    assert await visit.violations() == []


async def assert_taken_away(visit: Visit, stack: RunningMesh, trained: TrainedJob, job_id: str) -> None:
    """The adapter that the page hands out is the one that the job made."""
    page = visit.page
    await page.get_by_role("tab", name="Adapter").click()
    async with page.expect_download() as taken:
        await page.get_by_role("link", name="adapter_model.safetensors").click()
    file = Path(await (await taken.value).path())
    answer = await stack.http.get(f"/v1/trainings/{job_id}/artifact", headers=trained.owner.user.headers)
    digests = {one["path"]: one["sha256"] for one in answer.json()["files"]}
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digests["adapter_model.safetensors"]
    assert await visit.violations() == []


async def test_a_stopped_job_is_stopped_and_can_be_tried_again(visit: Visit, trained: TrainedJob) -> None:
    page = visit.page
    await log_in(visit, trained.owner.user.username)
    await start_job(visit, trained, "too long", 100_000)
    measured = page.locator("[role=img][aria-label*='at step']")
    await measured.wait_for(timeout=TRAINED_MS)
    await page.reload()
    await measured.wait_for()

    await page.get_by_role("button", name="Stop", exact=True).click()
    await page.get_by_text("stopped", exact=True).first.wait_for(timeout=TRAINED_MS)
    await page.get_by_role("button", name="Try again").wait_for()
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await page.get_by_role("heading", name="Jobs").wait_for()
    assert await page.get_by_role("link", name="too long").count() == 0
    assert await visit.violations() == []


UNUSUAL: dict[str, Any] = {
    "lora": {
        "rank": 8,
        "dropout": 0.125,
        "targetGroups": ["MODULE_GROUP_LANGUAGE", "MODULE_GROUP_PROJECTOR"],
        "useRslora": True,
        "layerPatterns": [{"pattern": "*.q_proj", "rank": 4}],
    },
    "quantization": {"doubleQuantization": False},
    "sampling": {"maxFrames": 4, "maxPixels": "50176", "placement": "FRAME_PLACEMENT_SEGMENT_JITTER"},
    "optimization": {"maxSteps": 7, "schedule": "LEARNING_RATE_SCHEDULE_LINEAR", "weightDecay": 0.01},
    "logEverySteps": 2,
    "checkpoints": {"keepLast": 2},
    "speed": {"encoderCache": "ENCODER_CACHE_OFF"},
}
"""Parameters, most of which no field of the form shows."""


async def test_another_job_like_one_is_asked_for_all_that_the_first_was(
    visit: Visit, stack: RunningMesh, trained: TrainedJob
) -> None:
    """No trainer here has such a device: both jobs wait."""
    page, headers = visit.page, trained.owner.user.headers
    wanted = {
        "name": "the first",
        "modelId": trained.model.id,
        "datasetId": trained.dataset.id,
        "deviceClass": "DEVICE_CLASS_CUDA",
        "deviceMemoryBytes": "17179869184",
        "priority": -5,
        "parameters": {"preset": "PRESET_BEST", **UNUSUAL},
    }
    created = await stack.http.post("/v1/trainings", json=wanted, headers=headers)
    assert created.status_code == 200, created.text
    first = created.json()
    await log_in(visit, trained.owner.user.username)
    await visit.open(f"/jobs/view?id={first['id']}")
    await page.get_by_role("link", name="Another like it").click()
    await page.get_by_text("Everything that was asked of the first is filled in").wait_for()
    also = page.get_by_role("region", name="Also, as in the job that it is like")
    await also.get_by_text("lora.layer_patterns").wait_for()
    await also.get_by_role("button", name="Remove quantization.double_quantization").wait_for()
    assert await visit.violations() == []

    await page.get_by_label("Name", exact=True).fill("the second")
    await page.reload()
    await page.get_by_role("button", name="Start the job").click()
    await page.get_by_role("heading", name="the second").wait_for()
    second = await stack.http.get(f"/v1/trainings/{page.url.rpartition('id=')[2]}", headers=headers)
    given = ("modelId", "datasetId", "deviceClass", "deviceMemoryBytes", "deviceCount", "priority", "parameters")
    assert {name: second.json()[name] for name in given} == {name: first[name] for name in given}
    for job in (first, second.json()):
        await stack.http.post(f"/v1/trainings/{job['id']}/stop", json={}, headers=headers)


async def test_a_mistake_is_told_at_its_field_and_the_draft_outlives_a_reload(
    visit: Visit, stack: RunningMesh, trained: TrainedJob
) -> None:
    page = visit.page
    await log_in(visit, trained.owner.user.username)
    answer = await stack.http.get("/v1/presets", headers=trained.owner.user.headers)
    fast = next(one for one in answer.json()["presets"] if one["preset"] == "PRESET_FAST")
    await page.get_by_label("Start from").select_option("PRESET_FAST")
    await page.get_by_text(fast["description"]).wait_for()
    frames = await page.get_by_label("Frames of a clip").get_attribute("placeholder")
    assert frames == str(at(fast["parameters"], "sampling.maxFrames"))
    await page.get_by_label("Model", exact=True).select_option(trained.model.id)
    await page.get_by_label("Dataset", exact=True).select_option(trained.dataset.id)
    await page.get_by_label("Rank of the adapter").fill("99999")
    await page.reload()
    await page.get_by_role("button", name="Start the job").click()
    wrong = page.get_by_label("Rank of the adapter")
    # Exactly, as the estimate may have found the same mistake by now.
    await page.get_by_text("Must be greater than or equal to 1 and less than or equal to 1024", exact=True).wait_for()

    assert await wrong.get_attribute("aria-invalid") == "true"
    assert await wrong.evaluate("field => field === document.activeElement")
    await page.get_by_text("The same job by HTTP").click()
    shown = (await page.locator("pre").inner_text()).partition("\n")[2]
    assert json.loads(shown)["parameters"] == {"preset": "PRESET_FAST", "lora": {"rank": 99999}}
    assert await visit.violations() == []


async def test_a_model_is_registered_by_its_folder(visit: Visit, material: Material) -> None:
    page = visit.page
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    await page.get_by_role("link", name="Models").click()
    await page.get_by_role("button", name="New model").click()
    await page.get_by_label("Name", exact=True).fill("tiny")
    await page.get_by_role("button", name="Create", exact=True).click()
    await page.get_by_text("Drop files or a folder here").wait_for()
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Choose a folder").click()
    await (await chooser.value).set_files(material.model)
    files = len(list(material.model.iterdir()))
    await page.get_by_text(f"{files} of {files} files arrived").wait_for()
    assert await visit.violations() == []

    await page.get_by_role("button", name="Check the model").click()
    await page.get_by_role("heading", name="Qwen3VLForConditionalGeneration").wait_for()
    await page.get_by_role("link", name="Train from it").wait_for()
    assert await visit.violations() == []
