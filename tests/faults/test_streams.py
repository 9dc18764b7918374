"""Streams on a full disk, with a driver that is killed while it writes, with a pool that grows: every question once."""

import errno
import multiprocessing
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from aft_ray.cluster import connect
from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
from aft_ray.heartbeat import keep_beating
from aft_ray.progress import Counter
from aft_ray.sampling import stream
from aft_ray.sampling.dead_letters import answered
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.relabelling import Leftovers
from aft_ray.tasks import TASKS
from aft_ray.tasks.arithmetic import generate
from schemas import Candidate, CandidateGroup, Failure, read_parquet, write_parquet
from tests.conftest import WITHIN

pytestmark = WITHIN
QUESTIONS = 400


def settings(**resources) -> EngineSettings:
    return EngineSettings(
        model=ModelConfig(path=Path("none")),
        model_fingerprint="none",
        tasks=TASKS,
        labelling=LabellingConfig(),
        sampling=SamplingConfig(k=1, max_prompt_tokens=120, max_new_tokens=20),
        resources=ResourcesConfig(**{"sampling_actors": (1, 1)} | resources),
        seed=0,
    )


def groups(folder: Path, text: str = "The answer is 7.") -> list[str]:
    """Writes groups that are not labelled yet; their questions' ids."""
    folder.mkdir()
    chain = Candidate(index=0, text=text, token_ids=(1,) * 40, finish_reason="stop", log_likelihood=-1.0)
    made = [
        CandidateGroup(question=question, candidates=(chain,), model="m", seed=0, temperature=1, top_p=1, max_new_tokens=40)
        for question in generate("train", QUESTIONS, 0, 1)
    ]
    write_parquet(folder / "groups.parquet", CandidateGroup, made)
    return [group.question.question_id for group in made]


def label(folder: Path, out: Path) -> None:
    stream.label_candidates(folder, out, settings(), Counter.remote())


def labelled_once(ids: list[str], out: Path) -> bool:
    """As a run looks at them. Raises where one is missing or there twice."""
    found = answered(out, CandidateGroup, ids, lambda group: group.question.question_id)
    return all(candidate.label is not None for group in found for candidate in group.candidates)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs rights that this process has not")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_ends_the_stage_with_its_reason_and_with_more_room_it_goes_on(small_disk, tmp_path):
    ids, out = groups(tmp_path / "groups"), small_disk / "out"
    out.mkdir()
    given_up = read_parquet(tmp_path / "groups", CandidateGroup)[0].model_copy(
        update={"candidates": (), "failure": Failure(reason="the engine died", attempts=3)}
    )
    write_parquet(out / "given_up.parquet", CandidateGroup, [given_up])
    with pytest.raises(Exception, match=os.strerror(errno.ENOSPC)):
        label(tmp_path / "groups", out)
    assert not (out / "given_up.parquet").exists(), "it should be asked again where all ended"
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    label(tmp_path / "groups", out)
    assert labelled_once(ids, out)


@pytest.mark.usefixtures("ray_session")
def test_a_flipped_bit_in_what_is_labelled_anew_ends_the_stage(tmp_path):
    """Ray Data would not see it, and it would be whole from then on."""
    groups(tmp_path / "groups")
    file = tmp_path / "groups" / "groups.parquet"
    content, (first, *_) = bytearray(file.read_bytes()), read_parquet(file, CandidateGroup)
    content[content.index(first.question.text.encode()[:8])] ^= 1  # as it stands in the page: what comes out is another text
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"groups\.parquet: .*checksum"):
        label(tmp_path / "groups", tmp_path / "out")


def label_slowly(folder: Path, out: Path) -> None:
    """In a driver of its own, with its own Ray."""
    usual = stream.label_group

    def slow(*given):
        time.sleep(0.01)
        return usual(*given)

    stream.label_group = slow
    connect(folder / "ray")
    label(folder / "groups", out)


@pytest.mark.usefixtures("ray_session")
def test_a_driver_killed_again_and_again_while_files_are_committed_loses_and_doubles_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ids, out = groups(tmp_path / "groups"), tmp_path / "out"
    kept: dict[Path, bytes] = {}
    for files in (1, 9):  # of 25
        driver = multiprocessing.get_context("spawn").Process(target=label_slowly, args=(tmp_path, out))
        driver.start()
        deadline = time.monotonic() + 120
        while len(list(out.glob("*.parquet"))) < files:
            assert driver.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        driver.kill()
        driver.join()
        # What was whole when the one before was killed is what it was.
        assert all(file.read_bytes() == content for file, content in kept.items())
        kept = {file: file.read_bytes() for file in out.glob("*.parquet") if readable(file)}
        assert len(kept) < 25
    label(tmp_path / "groups", out)  # at once: tasks of the one that was killed may still be writing
    assert labelled_once(ids, out)
    assert kept
    assert all(file.read_bytes() == content for file, content in kept.items())


def readable(file: Path) -> bool:
    try:
        return bool(read_parquet(file, CandidateGroup))
    except ValueError:
        return False


@pytest.mark.chaos
@pytest.mark.usefixtures("ray_session")
def test_a_pool_grows_with_its_work_and_is_gone_after_it(tmp_path, monkeypatch):
    """Its actors have no engine, so that four find room here; each lives while its file's process does."""
    actors = tmp_path / "actors"
    actors.mkdir()

    class Slow(stream.SamplingActor):
        def __init__(self, settings, attempts, counter):
            self.settings = settings
            (actors / str(os.getpid())).touch()
            actor = ray.get_runtime_context().get_actor_id()
            keep_beating(lambda use: counter.beat.remote(actor, use), gpu=None)

        async def __call__(self, table):
            time.sleep(1)
            yield table

    ids = groups(tmp_path / "groups")
    monkeypatch.setattr(stream, "BLOCKS_IN_FLIGHT", 2)
    pool = settings(sampling_actors=(1, 4), cpus_per_sampling_actor=0.25)
    monkeypatch.setattr(stream, "nodes", list)  # it begins with one
    counter = Counter.remote()
    made = stream._through_pool(tmp_path / "groups", lambda table: table, len(ids), Slow, pool, counter)
    stream._label_into(made, tmp_path / "out", pool, counter)
    assert labelled_once(ids, tmp_path / "out")
    assert ray.get(counter.look.remote()).engines > 1
    started = [int(file.name) for file in actors.iterdir()]
    assert 1 < len(started) <= 4
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in started):
        assert time.monotonic() < deadline, "actors that nothing needs stay"
        time.sleep(0.5)


@pytest.mark.usefixtures("ray_session")
def test_what_was_labelled_in_another_way_is_labelled_anew_and_none_is_lost(tmp_path):
    """Told another labelling in mid-stage, killed while it labels anew, and told another again."""
    ids, work = groups(tmp_path / "asked", "I do not know."), tmp_path / "work"
    stream.label_candidates(tmp_path / "asked", Leftovers(work, {"way": 1}).groups, settings(), Counter.remote())
    left = Leftovers(work, {"way": 2})
    assert (left.labelled, left.to_label) == (0, QUESTIONS)
    stream.label_candidates(left.aside, left.groups, settings(), Counter.remote(), but=frozenset(ids[::2]))
    left = Leftovers(work, {"way": 2})
    assert (left.labelled, left.to_label) == (QUESTIONS // 2, QUESTIONS // 2)
    left = Leftovers(work, {"way": 3})
    assert (left.labelled, left.to_label) == (0, QUESTIONS)
    left.label(replace(settings(), labelling=LabellingConfig(unknown_ended="dropped")), Counter.remote(), but=frozenset(ids[:3]))
    found = list(answered(left.groups, CandidateGroup, ids[3:], lambda group: group.question.question_id))
    assert {candidate.label for group in found for candidate in group.candidates} == {"dropped"}
    assert not left.aside.exists()
    left = Leftovers(work, {"way": 3})
    assert (left.labelled, left.to_label) == (QUESTIONS - 3, 0)
