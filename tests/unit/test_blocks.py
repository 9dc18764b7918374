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
def test_every_actor_gets_enough_blocks_and_no_worker_more_than_it_can_hold(questions, actors, k, new_tokens, rows, monkeypatch):
    monkeypatch.setattr(stream, "count_rows", lambda records: questions)
    sampling, resources = SamplingConfig(k=k, max_new_tokens=new_tokens), ResourcesConfig(sampling_actors=(1, actors))
    assert stream.rows_per_block("records", SimpleNamespace(sampling=sampling, resources=resources)) == rows
