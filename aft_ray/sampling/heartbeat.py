"""An engine says again and again that it stands: so those that do can be counted, whatever ends one."""

import threading
import time
from typing import Any

import ray
from ray.actor import ActorHandle

SECONDS_BETWEEN_BEATS = 10.0


def keep_beating(counter: ActorHandle[Any]) -> None:
    """From this actor, as long as its process lives."""
    actor = ray.get_runtime_context().get_actor_id()

    def beat() -> None:
        while True:
            counter.beat.remote(actor)
            time.sleep(SECONDS_BETWEEN_BEATS)

    threading.Thread(target=beat, daemon=True).start()
