"""What an interrupted start has labelled in another way than is asked for now: its candidates are labelled anew, none is sampled
again."""

import json
from typing import Any

import pyarrow.compute as pc
from ray.actor import ActorHandle

from aft_ray.places import Place, make_folder, move_into, remove, write_atomically
from aft_ray.sampling.commits import committed
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.stream import label_candidates


class Leftovers:
    """Of the stage that works in `folder`, whose candidates go to `folder/groups`.

    Those with other labels are set aside, file by file: whoever is killed meanwhile leaves each question in one of two folders,
    or, where a store copies, in both.
    """

    def __init__(self, folder: Place, labelling: dict[str, Any]) -> None:
        self.groups, self.aside = make_folder(folder / "groups"), folder / "groups-before"
        note, now = folder / "labelled_as.json", json.dumps(labelling, sort_keys=True)
        if note.exists() and note.read_text() != now:
            move_into(make_folder(self.aside), self.groups.glob("*.parquet"))
        write_atomically(note, now)
        labelled = committed(self.groups)
        aside = committed(self.aside) if self.aside.exists() else labelled
        self.labelled, self.to_label = len(labelled), pc.sum(pc.invert(pc.is_in(aside, labelled))).as_py() or 0

    def label(self, settings: EngineSettings, counter: ActorHandle[Any], but: frozenset[str]) -> None:
        """Those that were set aside, without some questions."""
        if self.to_label:
            label_candidates(self.aside, self.groups, settings, counter, but)
        remove(self.aside)
