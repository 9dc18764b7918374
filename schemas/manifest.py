"""The manifest that closes a stage: written last, so a stage that has one is done."""

from typing import Literal

from pydantic import Field, JsonValue

from schemas.records import Count, Record


class StageManifest(Record):
    version: Literal[1] = 1
    stage: str = Field(min_length=1)
    fingerprint: str = Field(description="hash of settings and inputs: the stage is valid while this is what a run asks for")
    settings: dict[str, JsonValue] = Field(description="everything of the run's configuration that this stage depends on")
    inputs: dict[str, str] = Field(description="fingerprints of what the stage read, by name")
    counts: dict[str, Count] = Field(description="records in, out and dropped, each drop by its reason")
    seconds: float = Field(ge=0)
    use: dict[str, float] = Field(
        {},
        description="of its engines or workers, on the mean: cores kept busy, and gpu, the share of time that it computed",
    )
    versions: dict[str, str] = Field(description="of the libraries that made it")
