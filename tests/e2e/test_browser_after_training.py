"""What follows a training in a real browser: its adapter evaluated and merged, and what came of it shown."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from reeltune.scheduler.v1 import post_training_service_pb2 as post
from reeltune.scheduler.v1 import rank_allocation_pb2 as ranks
from reeltune.scheduler.v1 import training_options_pb2, worker_pb2
from reeltune.scheduler.v1 import training_service_pb2 as training

from tests.e2e.browser import Visit
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.test_browser_jobs import TRAINED_MS, log_in
from tests.e2e.trained_job import STEPS as TRAINED_STEPS
from tests.e2e.trained_job import TrainedJob, submit
from tests.e2e.training_material import first_clips, parameters, register_dataset

if TYPE_CHECKING:
    from playwright.async_api import Locator

# The first test waits for the mesh, the browser and a job that is trained for all, too.
pytestmark = pytest.mark.timeout(1200)

ROWS = 4
STEPS = 3


async def open_form(visit: Visit, job_id: str, tab: str) -> None:
    """Opens what follows a job; where something has followed it before, the form is a click away."""
    await visit.open(f"/jobs/view?id={job_id}&tab={tab}")
    another = visit.page.get_by_role("button", name=f"Another {tab}")
    start = visit.page.locator("form button[type=submit]")
    await another.or_(start).wait_for()
    if await another.count():
        await another.click()
    await start.wait_for()


async def done(visit: Visit, name: str) -> Locator:
    """Waits until the job of this name is done, and returns what the page shows of it."""
    card = visit.page.get_by_role("region", name=name, exact=True)
    await card.get_by_text("completed", exact=True).wait_for(timeout=TRAINED_MS)
    return card


async def test_an_adapter_is_evaluated_and_answers_are_shown(
    visit: Visit, stack: RunningMesh, trained: TrainedJob
) -> None:
    page = visit.page
    await log_in(visit, trained.owner.user.username)
    await open_form(visit, trained.id, "evaluation")
    await page.get_by_label("Name", exact=True).fill("by eye")
    await page.get_by_label("Rows", exact=True).fill(str(ROWS))
    await page.get_by_label("Longest answer").fill("8")
    for control in ("Frames reversed", "Frames in random order"):
        await page.get_by_label(control).uncheck()
    evaluate = page.get_by_role("button", name="Evaluate", exact=True)
    await page.get_by_text("No row of this dataset is of a split eval or test").wait_for()
    assert await evaluate.is_disabled(), "no row was held out, and that is told before anybody asks for them"
    assert await visit.violations() == []
    await page.get_by_label("Rows of").select_option("train")
    await evaluate.click()
    card = await done(visit, "by eye")

    await card.get_by_text(f"{ROWS} rows are too few to tell whether the video matters").wait_for()
    await card.get_by_role("button", name="Show answers").click()
    await card.get_by_label("Order").select_option("worst")
    await card.get_by_text("Reference", exact=True).nth(ROWS - 1).wait_for()
    assert await visit.violations() == []
    link = card.get_by_role("link", name="by eye")
    job_id = (await link.get_attribute("href") or "").rpartition("id=")[2]
    answer = await stack.http.get(f"/v1/trainings/{job_id}/evaluation", headers=trained.owner.user.headers)
    measured = {one["condition"]: one["tokenF1"]["mean"] for one in answer.json()["results"]}
    assert set(measured) == {f"EVALUATION_CONDITION_{name}" for name in ("BASE", "TUNED", "SHUFFLED_CLIPS")}
    table = card.get_by_role("region", name="All measures of all conditions")
    tuned = await table.get_by_role("row", name=re.compile("^Tuned")).get_by_role("cell").nth(3).inner_text()
    assert float(tuned.split(" ")[0]) == pytest.approx(100 * measured["EVALUATION_CONDITION_TUNED"], abs=0.051)

    await link.click()
    await page.get_by_role("tab", name="Files").click()
    await page.get_by_role("link", name="evaluation.json").wait_for()
    assert await visit.violations() == []
    await page.get_by_role("link", name="tiny", exact=True).first.click()
    await page.get_by_role("heading", name="by eye").wait_for()


async def test_a_deletion_that_is_refused_is_told_where_it_was_asked_for(visit: Visit, trained: TrainedJob) -> None:
    """No trainer here has such a device: the evaluation waits for good, and the job that it begins with is kept."""
    page, client = visit.page, trained.owner.client
    request = post.EvaluateTrainingJobRequest(
        job_id=trained.id, name="waiting", device_class=worker_pb2.DEVICE_CLASS_CUDA
    )
    request.parameters.split = "train"
    waiting = (await client.post_training.EvaluateTrainingJob(request)).job
    await log_in(visit, trained.owner.user.username)
    await visit.open(f"/jobs/view?id={trained.id}")
    await page.get_by_role("button", name="Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Delete", exact=True).click()
    await dialog.get_by_role("alert").filter(has_text="It was not deleted").wait_for()
    assert await visit.violations() == []
    await dialog.get_by_role("button", name="Keep it").click()
    await dialog.wait_for(state="hidden")
    await client.training.StopTrainingJob(training.StopTrainingJobRequest(job_id=waiting.id))
    await client.training.DeleteTrainingJob(training.DeleteTrainingJobRequest(job_id=waiting.id))


async def test_an_adapter_is_merged_and_the_model_taken_away(
    visit: Visit, stack: RunningMesh, trained: TrainedJob
) -> None:
    page = visit.page
    await log_in(visit, trained.owner.user.username)
    await open_form(visit, trained.id, "merge")
    await page.get_by_label("Name", exact=True).fill("one model")
    await page.get_by_label("Rows to check on").fill("2")
    await page.get_by_label("The base model's own 16-bit weights").check()
    await page.get_by_text("The adapter has never seen these weights").wait_for()
    assert await visit.violations() == []
    await page.get_by_label("The weights that it was trained on").check()
    await page.get_by_role("button", name="Merge", exact=True).click()
    card = await done(visit, "one model")

    await card.get_by_text("The merged model is what was trained: on 2 rows").wait_for()
    async with page.expect_download() as taken:
        await card.get_by_role("link", name="model.safetensors").click()
    assert await visit.violations() == []
    file = Path(await (await taken.value).path())
    job_id = (await card.get_by_role("link", name="one model").get_attribute("href") or "").rpartition("id=")[2]
    answer = await stack.http.get(f"/v1/trainings/{job_id}/artifact", headers=trained.owner.user.headers)
    digests = {one["path"]: one["sha256"] for one in answer.json()["files"]}
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digests["model.safetensors"]


async def test_ranks_answers_and_checkpoints_stand_on_the_page_and_jobs_are_compared(
    visit: Visit, trained: TrainedJob, tmp_path: Path
) -> None:
    """A job that holds rows out and lets ranks differ by layer, watched while it is trained."""
    page, client = visit.page, trained.owner.client
    dataset = await register_dataset(client, first_clips(trained.material, tmp_path / "few", 3, held_out=1), "few")
    wanted = parameters(STEPS, batch_size=2, checkpoint_every_steps=1)
    wanted.evaluate_every_steps = 1
    wanted.sample_predictions.CopyFrom(training_options_pb2.SamplePredictions(count=1, max_new_tokens=4))
    wanted.lora.rank_allocation.CopyFrom(ranks.RankAllocationParameters(warmup_steps=1, calibration_batches=1))
    job = await submit(client, trained.model.id, dataset.id, wanted)
    await log_in(visit, trained.owner.user.username)
    await visit.open(f"/jobs/view?id={job.id}&tab=checkpoints")
    await page.get_by_text("completed", exact=True).first.wait_for(timeout=TRAINED_MS)
    kept = page.get_by_role("region", name="Checkpoints").get_by_role("row")
    await kept.filter(has_text="newest").wait_for()
    assert await visit.violations() == []

    await page.get_by_role("tab", name="Answers").click()
    await page.get_by_role("heading", name="Highest loss").wait_for()
    await page.get_by_label("After step").select_option(str(STEPS - 1))
    expected = {row["answer"] for row in trained.material.rows}
    assert await page.locator("dd").filter(has_text=re.compile(f"^({'|'.join(expected)})$")).count() >= 1
    assert await visit.violations() == []

    await page.get_by_role("tab", name="Ranks").click()
    await page.get_by_text("All layers, those first").click()
    rows = page.get_by_role("region", name="All layers").get_by_role("row")
    await rows.nth(1).wait_for()
    spent = [await row.get_by_role("cell").nth(1).inner_text() for row in (await rows.all())[1:]]
    given = sum(int(text.replace(",", "")) for text in spent)
    await page.get_by_text(f"{round(given / 1000)} K parameters").first.wait_for()
    assert await visit.violations() == []
    await assert_compared(visit, job.id, trained.id)


async def assert_compared(visit: Visit, newer: str, older: str) -> None:
    """Two jobs are chosen in the list, and a page tells what differs between them."""
    page = visit.page
    await visit.open("/jobs?kind=training")
    row = page.locator("li").filter(has=page.locator(f"a[href$='{newer}']"))
    await row.get_by_role("checkbox").check()
    await page.get_by_text("One job is chosen.").wait_for()
    others = page.locator("li").filter(has_not=page.locator(f"a[href$='{newer}']")).get_by_role("checkbox")
    await others.first.check()
    assert await visit.violations() == []
    await page.get_by_role("link", name="Compare", exact=True).click()
    await page.get_by_role("heading", name="Compare jobs").wait_for()
    # Which the other one is depends on what was trained before.
    await visit.open(f"/jobs/compare?ids={newer},{older}")
    await page.locator("canvas").wait_for()
    assert await page.get_by_role("region", name="What the jobs learned").get_by_role("row").count() == 1 + 2
    differing = page.get_by_role("region", name="Parameters of the jobs")
    steps = differing.get_by_role("row", name="optimization.max_steps").get_by_role("cell")
    assert await steps.all_inner_texts() == [str(STEPS), str(TRAINED_STEPS)]
    assert await differing.get_by_role("row", name="quantization.type").count() == 0, "what is the same is left out"
    assert await visit.violations() == []
