"""How many questions go through a stream together, and so into one file."""

from types import SimpleNamespace

import pytest

from aft_ray.config import ResourcesConfig, SamplingConfig
from aft_ray.sampling import stream


@pytest.mark.parametrize(
    ("questions", "actors", "k", "new_tokens", "rows"),
    [
        (400, 1, 6, 256, 16),
        (7473, 4, 6, 256, 29),
        (7473, 1, 6, 256, 116),
        (10**6, 1, 6, 256, 256),
        (10**6, 1, 64, 2048, 16),  # else a block had 33 million tokens
        (10**6, 1, 16, 512, 128),
    ],
)
def test_every_actor_gets_enough_blocks_and_no_worker_more_than_it_can_hold(questions, actors, k, new_tokens, rows):
    sampling, resources = SamplingConfig(k=k, max_new_tokens=new_tokens), ResourcesConfig(sampling_actors=(1, actors))
    assert stream.rows_per_block(questions, SimpleNamespace(sampling=sampling, resources=resources)) == rows


@pytest.mark.parametrize(
    ("nodes", "blocks", "engines"),
    [
        ([{"CPU": 80.0, "GPU": 8.0}], 1000, 7),  # of each four CPUs and a GPU, and one to read and label
        ([{"CPU": 80.0, "GPU": 8.0}], 40, 3),  # 16 each in hand
        ([{"CPU": 80.0, "GPU": 8.0}], 0, 2),
        ([{"CPU": 8.0}] * 3, 1000, 2),  # machines with GPUs are still to come
        ([{"CPU": 8.0}] * 3 + [{"CPU": 8.0, "GPU": 1.0}] * 4, 1000, 4),
    ],
)
def test_as_many_engines_start_at_once_as_have_work_and_room(nodes, blocks, engines, monkeypatch):
    monkeypatch.setattr(stream, "nodes", lambda: nodes)
    resources = ResourcesConfig(sampling_actors=(2, 7), cpus_per_sampling_actor=4, gpus_per_sampling_actor=1)
    assert stream.engines_at_first(blocks, SimpleNamespace(resources=resources)) == engines
