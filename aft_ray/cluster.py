"""The connection to Ray: the cluster that a submitted job runs on, or a Ray of this machine's own."""

import logging
import os
from pathlib import Path
from typing import Any

import ray
import ray.data


def connect(run_folder: Path) -> None:
    """Connect once. Ray's own chatter goes to log files, never to the screen."""
    if ray.is_initialized():
        return
    logs = run_folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if address else {"num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    handler = logging.FileHandler(logs / "driver.log")
    for name in ("ray", "ray.data", "ray.train"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    ray.data.DataContext.get_current().enable_progress_bars = False
    link = logs / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "logs")
