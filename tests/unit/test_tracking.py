"""TensorBoard, MLflow and W&B offline, each read back by its own reader, W&B's file by its own records."""

import io
import json
import os
import pty
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aft_ray.config import ModelConfig, RunConfig, TaskConfig, TrackingConfig
from aft_ray.progress import Look
from aft_ray.run import Run
from aft_ray.stages import fingerprints
from aft_ray.tasks import BadInputError
from aft_ray.tracking import Tracking, check_installed

JOB = RunConfig(
    name="told",
    model=ModelConfig(path=Path("model")),
    task=TaskConfig(name="arithmetic"),
    tracking=TrackingConfig(to=("tensorboard", "mlflow", "wandb")),
)
SUMMARY = {
    "models": [
        {"task": "arithmetic", "name": name, "accuracy": accuracy, "assessment_accuracy": None, "majority": {"mean": 0.5}}
        for name, accuracy in (("vft", 0.25), ("aft", 0.75))
    ]
}
LOSSES = [(step, 1 / step) for step in range(1, 7)]
"""Of the steps of an alignment that is killed after the fourth and goes on from the second."""
RESULTS = {"results/arithmetic/vft/accuracy": [(0, 0.25)], "results/arithmetic/aft/accuracy": [(0, 0.75)]}


def tracking(folder: Path, job: RunConfig = JOB, fingerprint: str = "f") -> tuple[Tracking, io.StringIO]:
    printed = io.StringIO()
    return Tracking(job, folder, folder, fingerprint, Console(file=printed, width=200)), printed


def training(*steps: int) -> Look:
    rows = tuple((step, {"loss": 1 / step, "positive_score": None}) for step in steps)
    return Look(done=steps[-1], total=len(LOSSES), acceptance=None, engines=None, latest=rows[-1][1], steps=rows)


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A folder for everything that the trackers write by themselves."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"file://{folder}/mlruns")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes long to make
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        yield folder


def killed(folder: Path) -> None:
    with tracking(folder)[0] as first:
        first("sample", Look(done=32, total=64, acceptance=0.5, engines=2, latest={}, steps=(), rate=4.0), True)
        first("align", training(1, 2, 3), False)
        first("align", training(4), True)
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def told(offline, tmp_path_factory) -> Path:
    """The folder of a run that was killed in its alignment, went on, and was started once more when it was done."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(KeyboardInterrupt):
        killed(folder)
    with tracking(folder)[0] as again:
        again("align", training(3, 4, 5), False)
        again("align", training(6), True)
        again.log_summary(SUMMARY)
    with tracking(folder)[0] as once_more:
        once_more.log_summary(SUMMARY)
    return folder


def test_tensorboard_reads_one_run_without_steps_twice(told):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(told / "tracking" / "f"))
    found.Reload()
    scalars = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert [step for step, _ in scalars["align/loss"]] == [step for step, _ in LOSSES]
    assert dict(scalars["align/loss"]) == pytest.approx(dict(LOSSES))
    assert scalars["sample/acceptance"] == [(32, 0.5)]
    assert scalars["sample/pool_size"] == [(32, 2)]
    assert {name: scalars[name] for name in RESULTS} == RESULTS
    assert "align/positive_score" not in scalars
    (config,) = found.Tensors("config/text_summary")
    assert '"runs_dir": "runs"' in config.tensor_proto.string_val[0].decode()


def test_mlflow_has_one_run_without_steps_twice(told):
    import mlflow

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert (run.info.run_name, run.info.status) == ("told", "FINISHED")
    assert run.data.params["alignment.loss"] == "bc"
    assert run.data.params["resources.sampling_actors"] == "[1, 2]"

    def history(name):
        return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]

    assert history("align/loss") == LOSSES
    assert history("sample/rate") == [(32, 4.0)]
    assert {name: history(name) for name in RESULTS} == RESULTS


def records(data: bytes) -> Iterator[bytes]:
    """Of W&B's file: LevelDB's log behind 7 bytes of W&B's own. Blocks of 32 KiB; a part has 7 bytes before it, its kind last."""
    place, record = 7, b""
    while place < len(data):
        if (left := -place % 2**15) < 7 and left:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield record
            record = b""


def test_wandb_has_one_run_over_all_starts_without_steps_twice(told, offline):
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted((offline / "wandb").glob("offline-run-*/run-*.wandb"))
    rows, names, config = [], set(), {}
    for record in [Record.FromString(data) for file in files for data in records(file.read_bytes())]:
        if record.HasField("run"):
            names.add((record.run.display_name, record.run.run_id))
            config |= {update.key: update.value_json for update in record.run.config.update}
        if record.HasField("history"):
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    assert len(files) == 3, "offline each start has a folder of its own"
    assert len(names) == 1
    assert json.loads(config["alignment"])["loss"] == "bc"
    assert [(row["align/step"], row["align/loss"]) for row in rows if "align/loss" in row] == LOSSES
    assert [row["results/arithmetic/aft/accuracy"] for row in rows if "results/step" in row] == [0.75]


def test_with_other_settings_it_is_another_run_to_the_trackers(told, tmp_path):
    job = JOB.model_copy(update={"tracking": TrackingConfig(to=("tensorboard",))})
    for fingerprint in ("one", "other"):
        with tracking(tmp_path, job, fingerprint)[0] as made:
            made("align", training(1, 2), True)
    assert [len(list(folder.glob("events*"))) for folder in (tmp_path / "tracking").iterdir()] == [1, 1]


def test_who_is_told_changes_no_stage_and_what_decides_the_results_is_in_the_last_one_s_fingerprint(tiny_llama, tmp_path):
    task = TaskConfig(name="arithmetic", train_questions=4, test_questions=2)
    job = JOB.model_copy(update={"model": ModelConfig(path=tiny_llama), "runs_dir": tmp_path, "task": task})
    silent = job.model_copy(update={"tracking": TrackingConfig()})
    other = job.model_copy(update={"vft": job.vft.model_copy(update={"epochs": 7})})
    stages = [Run(config, Console(file=io.StringIO())).stages() for config in (job, silent, other)]
    assert [stage.settings for stage in stages[0]] == [stage.settings for stage in stages[1]]
    assert fingerprints(stages[0]) == fingerprints(stages[1]) != fingerprints(stages[2])


@pytest.fixture
def aligned(tmp_path) -> Path:
    """A stage that is done."""
    (tmp_path / "align").mkdir()
    history = [{"loss": loss, "tokens": 100, "gradient_norm": None} for _, loss in LOSSES]
    (tmp_path / "align" / "training.json").write_text(json.dumps({"step_seconds": [2.0] * len(LOSSES), "history": history}))
    return tmp_path / "align"


def test_what_was_trained_before_a_tracker_was_there_is_told_too(aligned, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("tensorboard",))}))[0] as made:
        made.log_training(aligned)
        made.log_training(tmp_path / "sample")
    found = EventAccumulator(str(tmp_path / "tracking" / "f"))
    found.Reload()
    assert {event.step: event.value for event in found.Scalars("align/loss")} == pytest.approx(dict(LOSSES))
    assert {event.value for event in found.Scalars("align/tokens_per_second")} == {50}


def test_a_tracker_that_fails_is_told_of_once_and_after_the_stage_of_what_it_missed(offline, aligned, tmp_path):
    import mlflow

    client = mlflow.MlflowClient()
    made, printed = tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("mlflow", "tensorboard"))}))
    with made:
        made("align", training(1), True)
        run = made.told["mlflow"].id
        client.delete_run(run)
        made("align", training(2), True)
        client.restore_run(run)
        made("align", training(3), True)
        assert {name: told.steps for name, told in made.told.items()} == {"mlflow": {"align": 1}, "tensorboard": {"align": 3}}
        made.log_training(aligned)
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run, "align/loss")] == LOSSES
    assert client.get_run(run).info.status == "FINISHED"
    (warning,) = [line for line in printed.getvalue().splitlines() if line.startswith("tracking: ")]
    assert warning.startswith("tracking: mlflow is told no more until align is done: MlflowException: ")


def test_a_server_that_cannot_be_reached_ends_no_run(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made, printed = tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("mlflow",))}))
    with made:
        made("align", training(1), True)
    assert "tracking: mlflow is not told of this start: MlflowException: " in printed.getvalue()


def test_steps_of_one_stage_are_never_told_as_those_of_another(tmp_path):
    made, _ = tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("tensorboard",))}))
    with made:
        made("vft", training(1, 2, 3), False)
        made("align", training(1, 2), True)
        assert made.told["tensorboard"].steps == {"vft": 3, "align": 2}


@pytest.mark.parametrize("text", ['{"tensorboard": {"id"', '["tensorboard"]', '{"tensorboard": {"steps": {}}}'])
def test_a_broken_record_of_what_was_told_ends_no_run_and_is_left_for_people(tmp_path, text):
    file = tmp_path / "tracking" / "f" / "told.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    made, printed = tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("tensorboard",))}))
    with made:
        made("align", training(1), True)
    assert f"{file} cannot be read: remove it" in printed.getvalue().replace("\n", "")
    assert file.read_text() == text


def runs(name: str) -> list[Any]:
    import mlflow

    return [run for run in mlflow.MlflowClient().search_runs(["0"]) if run.info.run_name == name]


def test_a_run_that_mlflow_began_without_its_settings_gets_them_at_the_next_start(offline, tmp_path, monkeypatch):
    import mlflow

    model = ModelConfig(path=Path("long" * 2000))
    job = JOB.model_copy(update={"name": "half", "model": model, "tracking": TrackingConfig(to=("mlflow",))})
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # it begins the run, and refuses its settings
    with tracking(tmp_path, job)[0] as made:
        made("align", training(1), True)
        assert not made.trackers
    mlflow.end_run()
    monkeypatch.delenv("MLFLOW_TRUNCATE_LONG_VALUES")
    with tracking(tmp_path, job)[0] as again:
        again("align", training(1), True)
    (run,) = runs("half")
    assert run.data.params["alignment.loss"] == "bc"
    assert run.data.metrics["align/loss"] == 1


def test_where_a_run_was_deleted_it_is_told_how_to_begin_another(offline, tmp_path):
    import mlflow

    job = JOB.model_copy(update={"name": "deleted", "tracking": TrackingConfig(to=("mlflow",))})
    with tracking(tmp_path, job)[0] as made:
        made("align", training(1), True)
    mlflow.MlflowClient().delete_run(made.told["mlflow"].id)
    again, printed = tracking(tmp_path, job)
    with again:
        assert not again.trackers
    assert f"remove mlflow from {again.file}, and a new one begins" in printed.getvalue().replace("\n", "")
    again.file.write_text("{}")
    with tracking(tmp_path, job)[0] as new:
        new("align", training(1), True)
    assert len(runs("deleted")) == 1


def test_a_server_that_is_gone_is_given_a_minute_by_mlflow_but_for_what_the_environment_says(offline, tmp_path, monkeypatch):
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("mlflow",))}))[0]:
        assert (MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) == (10, 1)


def test_wandb_without_a_key_asks_nothing_on_a_terminal(tmp_path, monkeypatch):
    import wandb

    environment = {"WANDB_MODE": "online", "WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "TERM": "xterm"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"3\n")  # what would be answered: offline
    made, printed = tracking(tmp_path, JOB.model_copy(update={"tracking": TrackingConfig(to=("wandb",))}))
    wandb.teardown()  # it keeps what the environment said when it was asked first
    with open(terminal, closefd=False) as stdin, open(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        with made:
            assert not made.trackers
    wandb.teardown()
    os.close(keyboard)
    assert "no key: set WANDB_API_KEY" in printed.getvalue()


def test_a_missing_package_is_refused_with_what_to_install(monkeypatch):
    check_installed(JOB.tracking)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BadInputError, match="mlflow needs a package that is not installed: pip install mlflow-skinny"):
        check_installed(JOB.tracking)


def test_a_folder_called_wandb_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BadInputError, match="pip install 'wandb"):
        check_installed(TrackingConfig(to=("wandb",)))
