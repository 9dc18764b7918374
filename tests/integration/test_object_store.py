"""A run directory in an object store: a real S3 server (moto's) on this machine, real requests over HTTP."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto is not installed")
from botocore.exceptions import EndpointConnectionError, HTTPClientError
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray import places
from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig, TrainingConfig
from aft_ray.places import atomic_file, fetched, files_below, make_folder, place, remove, write_atomically
from aft_ray.progress import Counter
from aft_ray.sampling.commits import committed
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.relabelling import Leftovers
from aft_ray.sampling.stream import label_candidates
from aft_ray.storage import Lease, TwoRunsError, alone_in, finish_interrupted, read_manifest, stage_folder
from aft_ray.tasks import TASKS
from aft_ray.tasks.arithmetic import generate
from aft_ray.training.job import TrainingJob
from aft_ray.training.trainer import run_training
from schemas import CandidateGroup, Question, StageManifest, count_rows, read_parquet, write_parquet
from tests.conftest import tokenized

ROOT = Path(__file__).parent.parent.parent
SMALL = """
    --vft.epochs 1 --alignment.epochs 1 --task.difficulty 1 --task.train_questions 300 --task.references 16
    --task.test_questions 20 --sampling.k 2 --resources.sampling_actors [1,1] --resources.training_workers 1
"""
MANIFEST = StageManifest(stage="s", fingerprint="f", settings={}, inputs={}, counts={}, seconds=1.0, versions={})


@pytest.fixture(scope="module")
def bucket() -> Iterator:
    """An empty bucket, as a place."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        # What elsewhere is in the environment of every node stands in the path here, and goes with it to Ray's workers.
        made = place(UPath("s3://bucket", endpoint_url=address, key="test", secret="test"))
        made.fs.mkdir("bucket")
        yield made
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)


def interrupted(context, act) -> None:
    with context as given:
        act(given)
        raise RuntimeError


def question(name: str) -> Question:
    return Question(question_id=name, task="t", split="train", text="?", gold="1", reference=None)


def test_a_stage_is_whole_or_not_there(bucket):
    stage = bucket / "runs" / "a" / "vft"
    with pytest.raises(RuntimeError):
        interrupted(stage_folder(stage, "f"), lambda out: write_atomically(out / "model" / "half", "half"))
    assert read_manifest(stage) is None
    with stage_folder(stage, "f") as out:
        assert (out / "model" / "half").read_text() == "half", "what the interrupted stage left is there to go on from"
        write_atomically(out / "manifest.json", MANIFEST.model_dump_json())
    assert read_manifest(stage) == MANIFEST
    assert (stage / "model" / "half").read_text() == "half"
    with stage_folder(stage, "g") as out:
        assert files_below(out) == []
        write_atomically(out / "manifest.json", MANIFEST.model_dump_json())
    assert [file.name for file in files_below(bucket / "runs" / "a")] == ["manifest.json"]


def test_a_stage_killed_while_it_was_copied_into_place_is_put_there(bucket):
    stage, working = bucket / "runs" / "b" / "vft", bucket / "runs" / "b" / ".vft-f"
    for name, text in (("model", "weights"), ("manifest.json", MANIFEST.model_dump_json())):
        write_atomically(working / name, text)
    write_atomically(stage / "model", "wei")
    finish_interrupted(stage, "f", "f")
    assert read_manifest(stage) == MANIFEST
    assert (stage / "model").read_text() == "weights"
    assert files_below(working) == []


def test_a_stage_killed_while_its_working_folder_was_removed_stays_whole(bucket, monkeypatch):
    stage, working = bucket / "runs" / "e" / "vft", bucket / "runs" / "e" / ".vft-f"
    for name, text in (("model", "weights"), ("manifest.json", MANIFEST.model_dump_json())):
        write_atomically(working / name, text)

    def killed_half_way(path):
        if path.name == working.name:
            (working / "model").unlink()
            raise RuntimeError
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr("aft_ray.storage.remove", killed_half_way)
        with pytest.raises(RuntimeError):
            finish_interrupted(stage, "f", "f")
    finish_interrupted(stage, "f", "f")
    assert read_manifest(stage) == MANIFEST
    assert (stage / "model").read_text() == "weights"


def test_a_file_that_fails_half_way_is_not_written(bucket):
    write_atomically(bucket / "file", "old")
    with pytest.raises(RuntimeError):
        interrupted(atomic_file(bucket / "file"), lambda file: file.write("new"))
    assert (bucket / "file").read_text() == "old"


def test_records_are_written_read_and_counted(bucket):
    folder = make_folder(bucket / "records")
    write_parquet(folder / "1.parquet", Question, [question("a"), question("b")])
    write_parquet(folder / "2.parquet", Question, [question("b"), question("c")])
    (folder / "3.parquet").write_bytes(b"PAR1 half")
    assert committed(folder).to_pylist() == ["a", "b", "c"]
    assert [found.question_id for found in read_parquet(folder, Question)] in (["a", "b", "c"], ["a", "c", "b"])
    assert count_rows(folder) == 3
    remove(folder)
    assert committed(folder).to_pylist() == []


def test_a_second_run_is_refused_until_the_first_has_ended(bucket, monkeypatch):
    monkeypatch.setattr(Lease, "SETTLING", 0.5)
    monkeypatch.setattr(Lease, "SECONDS", 0.5)
    monkeypatch.setattr(Lease, "STALE", 3.0)
    folder = bucket / "runs" / "c"
    usual, failed = Lease._write, threading.Event()

    def failing_once(lease):
        if not failed.is_set() and threading.current_thread() is not threading.main_thread():
            failed.set()
            raise HTTPClientError(error="a store's bad minute")  # no OSError
        usual(lease)

    monkeypatch.setattr(Lease, "_write", failing_once)
    with alone_in(folder):
        time.sleep(4)  # longer than a note stays fresh that is not written anew
        assert failed.is_set()
        with pytest.raises(TwoRunsError, match="another run is at work there"), alone_in(folder):
            pass
    with alone_in(folder):
        pass
    (folder / ".lease").write_text(f"of-a-killed-one {time.time() - 10}")
    with alone_in(folder):
        pass


def test_a_run_that_slept_too_long_stops_when_another_has_begun(bucket, monkeypatch):
    """Its process is told as by SIGTERM; the note of the other stays."""
    monkeypatch.setattr(Lease, "SETTLING", 0.2)
    monkeypatch.setattr(Lease, "SECONDS", 0.3)
    told = threading.Event()
    usual = signal.signal(signal.SIGTERM, lambda *_: told.set())
    lease = Lease(bucket / "runs" / "f" / ".lease")
    try:
        assert lease.take()
        lease.path.write_text(f"another {time.time()}")
        assert told.wait(10)
        lease.give_back()
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert lease.path.read_text().startswith("another ")


@pytest.mark.parametrize("times", [2, 100])
def test_a_store_in_its_bad_minute_is_tried_again(times, bucket, tmp_path, monkeypatch):
    failed, usual = [], bucket.fs.put_file
    (tmp_path / "file").write_text("whole")

    def put_file(*given, **named):
        if len(failed) < times:
            failed.append(given)
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1")
        return usual(*given, **named)

    monkeypatch.setattr(bucket.fs, "put_file", put_file)
    monkeypatch.setattr(places, "SECONDS_BETWEEN_TRIES", (0.01, 0.01, 0.01))
    if times == 2:
        places.upload(tmp_path / "file", bucket / "bad" / "file")
        assert (bucket / "bad" / "file").read_text() == "whole"
        assert len(failed) == 2
    else:
        with pytest.raises(EndpointConnectionError):
            places.upload(tmp_path / "file", bucket / "bad" / "other")
        assert len(failed) == 4


def test_a_model_is_fetched_once(bucket, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("AFT_RAY_CACHE", str(tmp_path))
    model = bucket / "models" / "tiny"
    for file in tiny_llama.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    for other in ("pytorch_model.bin", "consolidated.safetensors"):
        (model / other).write_bytes(b"the same weights again")
    small = fetched(model, weights=False)
    assert (small / "config.json").is_file()
    assert not [file for file in small.iterdir() if file.suffix in (".safetensors", ".bin")]
    whole = fetched(model)
    assert [file.name for file in whole.iterdir() if file.suffix in (".safetensors", ".bin")] == ["model.safetensors"]
    assert (whole / "model.safetensors").read_bytes() == (tiny_llama / "model.safetensors").read_bytes()
    monkeypatch.setattr(model.fs, "get_file", lambda *given: pytest.fail("fetched again"))
    assert fetched(model) == whole


def test_a_model_whose_reading_breaks_off_is_fetched_on_from_there(bucket, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("AFT_RAY_CACHE", str(tmp_path))
    monkeypatch.setattr(places, "SECONDS_BETWEEN_TRIES", (0.01,))
    model = bucket / "models" / "far"
    for file in tiny_llama.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    usual, asked = model.fs.get_file, []

    def get_file(path, to):
        asked.append(Path(to).name)
        if asked[-1] == "tokenizer.json" and asked.count("tokenizer.json") <= 2:
            Path(to).write_bytes(b"half")
            raise HTTPClientError(error="broken off")
        return usual(path, to)

    monkeypatch.setattr(model.fs, "get_file", get_file)
    with pytest.raises(HTTPClientError):
        fetched(model)
    whole = fetched(model)
    assert asked.count("tokenizer.json") == 3
    assert all(asked.count(name) == 1 for name in set(asked) - {"tokenizer.json"})
    for file in whole.iterdir():
        assert file.read_bytes() == (tiny_llama / file.name).read_bytes()


def training_job(folder, tiny_llama, resources: ResourcesConfig) -> TrainingJob:
    """Of eight questions in the store, four steps, with a checkpoint after the second."""
    questions = tokenized(generate("train", 8, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    write_parquet(folder / "questions" / "questions.parquet", Question, questions)
    return TrainingJob(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        training=TrainingConfig(learning_rate=1e-3, epochs=2, questions_per_step=4, steps_per_checkpoint=2),
        resources=resources,
        seed=0,
        task_weights={},
        records=folder / "questions",
        out=folder / "vft",
        counter=None,
    )


def test_ray_data_and_ray_train_write_there(bucket, ray_session, tiny_llama):
    """Questions from the store, trained on with checkpoints, the model exported and its groups written there."""
    folder = bucket / "runs" / "d"
    run_training(training_job(folder, tiny_llama, ResourcesConfig(training_workers=1, zero_stage=2)))
    assert list((folder / "vft" / "checkpoints").glob("checkpoint_*"))
    model = fetched(folder / "vft" / "model")
    assert AutoModelForCausalLM.from_pretrained(model).config.model_type == "llama"
    (asked, *_) = read_parquet(folder / "questions", Question)
    group = CandidateGroup(question=asked, candidates=(), model="m", seed=0, temperature=1, top_p=1, max_new_tokens=1)
    write_parquet(folder / "given.parquet", CandidateGroup, [group])
    settings = EngineSettings(
        model=ModelConfig(path=tiny_llama), model_fingerprint="m", tasks=TASKS, sampling=SamplingConfig(),
        labelling=LabellingConfig(), resources=ResourcesConfig(), seed=0,
    )  # fmt: skip
    label_candidates(folder / "given.parquet", folder / "groups", settings, Counter.remote())
    assert [found.question for found in read_parquet(folder / "groups", CandidateGroup)] == [asked]
    assert Leftovers(folder, {"way": 1}).labelled == 1
    left = Leftovers(folder, {"way": 2})
    assert (left.labelled, left.to_label) == (0, 1)
    assert [found.question for found in read_parquet(left.aside, CandidateGroup)] == [asked]


@pytest.mark.chaos
def test_a_whole_run_lives_there_and_goes_on_where_its_driver_was_killed(bucket, tmp_path):
    folder = bucket / "runs" / "whole"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"AWS_ENDPOINT_URL": bucket.storage_options["endpoint_url"]}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    command = [sys.executable, str(ROOT / "jobs" / "quickstart.py"), "--name", "whole", "--runs_dir", "s3://bucket/runs"]
    command += SMALL.split()
    with (tmp_path / "first.log").open("w") as log:
        driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not any("/groups/" in str(file) and file.suffix == ".parquet" for file in files_below(folder)):
        assert driver.poll() is None, (tmp_path / "first.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    driver.kill()
    driver.wait()
    while True:
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        if "another run is at work there" not in again.stdout:
            break
        assert time.monotonic() < deadline + Lease.STALE
        time.sleep(5)  # the killed one's note goes stale
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert re.search(r"vft +done before", again.stdout)
    assert [model["n"] for model in json.loads((folder / "summary.json").read_text())["models"]] == [20, 20]
    assert "<figure" in (folder / "report.html").read_text()
    ids = [group.question.question_id for group in read_parquet(folder / "sample" / "groups", CandidateGroup)]
    assert len(ids) == len(set(ids)) == 320


@pytest.mark.chaos
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_training_goes_on_from_there(zero_stage, bucket, ray_session, tiny_llama):
    folder = bucket / "runs" / f"g{zero_stage}"
    job = training_job(folder, tiny_llama, ResourcesConfig(training_workers=2, zero_stage=zero_stage))
    run_training(job)
    first = (job.out / "model" / "model.safetensors").read_bytes()
    before = json.loads((job.out / "training.json").read_text())
    remove(job.out / "model")
    (job.out / "training.json").unlink()
    run_training(job)
    told = json.loads((job.out / "training.json").read_text())
    assert told["history"] == before["history"]
    assert told["step_seconds"][:2] == before["step_seconds"][:2], "begun anew"
    assert (job.out / "model" / "model.safetensors").read_bytes() == first
