"""What Prometheus is told of a run: Ray's own gauges, which Ray exports on the driver's node (docs/tracking.md)."""

from functools import cached_property

from ray.util.metrics import Gauge

from aft_ray.progress import Look, Measures

METRICS = {
    "done": "questions of a stage that are done; of a training, steps",
    "total": "of how many",
    "rate": "how many are done a second, over the last minutes",
    "acceptance": "share of right chains among those checked since the run was started",
    "pool_size": "vLLM engines that stand",
    "loss": "of the last step of a training",
    "assessment_accuracy": "of the last step of a training: how often right chains score above wrong ones",
    "tokens_per_second": "of the last step of a training, over all workers",
}
"""Prometheus has them as ray_aft_NAME{run=..., stage=...}; half a minute after a stage no more, Ray forgets what is not set."""


class Gauges:
    """Listens to the progress of every stage of a run."""

    def __init__(self, run: str) -> None:
        self.run = run

    @cached_property
    def gauges(self) -> dict[str, Gauge]:
        """Made at the first look, when Ray runs."""
        return {name: Gauge(f"aft_{name}", told, tag_keys=("run", "stage")) for name, told in METRICS.items()}

    def __call__(self, stage: str, look: Look, last: bool) -> None:
        values: Measures = look.latest | {
            "done": look.done,
            "total": look.total,
            "rate": look.rate,
            "acceptance": look.acceptance,
            "pool_size": look.engines,
        }
        for name, gauge in self.gauges.items():
            if (value := values.get(name)) is not None:
                gauge.set(value, tags={"run": self.run, "stage": stage})
