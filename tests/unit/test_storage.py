"""The run directory: whole stages or none, and what a change is called."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from aft_ray.places import upload, write_atomically
from aft_ray.storage import (
    alone_in,
    differences,
    fingerprint,
    finish_interrupted,
    model_fingerprint,
    read_manifest,
    stage_folder,
)
from schemas import StageManifest

MANIFEST = StageManifest(stage="s", fingerprint="f", settings={}, inputs={}, counts={}, seconds=1.0, versions={})


def interrupted(stage: Path, fingerprint: str) -> None:
    with stage_folder(stage, fingerprint) as out:
        (out / "half").write_text("half")
        raise RuntimeError


def test_a_stage_that_fails_leaves_nothing_in_its_place(tmp_path):
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "vft", "1234")
    assert not (tmp_path / "vft").exists()
    with stage_folder(tmp_path / "vft", "1234") as out:
        assert (out / "half").read_text() == "half", "what the interrupted stage left is there to go on from"


def test_leftovers_of_other_settings_are_not_found(tmp_path):
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "vft", "1234")
    with stage_folder(tmp_path / "vft", "5678") as out:
        assert list(out.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["vft"]


def test_a_stage_killed_between_its_manifest_and_its_renaming_is_put_in_place(tmp_path):
    (tmp_path / "vft").mkdir()
    working = tmp_path / ".vft-f"
    working.mkdir()
    finish_interrupted(tmp_path / "vft", "f", "f")
    assert read_manifest(tmp_path / "vft") is None, "without its manifest it was not whole"
    write_atomically(working / "manifest.json", MANIFEST.model_dump_json())
    finish_interrupted(tmp_path / "vft", "f", "g")
    assert read_manifest(tmp_path / "vft") is None, "it was whole under other settings by which it is renewed"
    finish_interrupted(tmp_path / "vft", "f", "f")
    assert read_manifest(tmp_path / "vft") == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["vft"]


def test_what_was_whole_is_so_no_more_when_work_goes_on_in_it(tmp_path):
    """Killed before it was put in place, then begun anew under another labelling, then under the first again."""
    (tmp_path / ".vft-f").mkdir()
    write_atomically(tmp_path / ".vft-f" / "manifest.json", MANIFEST.model_dump_json())
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "vft", "f")
    finish_interrupted(tmp_path / "vft", "f", "f")
    assert not (tmp_path / "vft").exists()


def test_a_stage_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with stage_folder(tmp_path / "vft", content) as out:
            (out / content).touch()
    assert [path.name for path in (tmp_path / "vft").iterdir()] == ["new"]


def test_no_manifest_and_a_broken_one_mean_not_done(tmp_path):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(MANIFEST.model_dump_json()[:-5])
    assert read_manifest(tmp_path) is None
    write_atomically(tmp_path / "manifest.json", MANIFEST.model_dump_json())
    assert read_manifest(tmp_path) == MANIFEST


def test_changes_are_named_by_their_path():
    before = {"alignment": {"beta": 0.2, "loss": "bc"}, "seed": 0}
    now = {"alignment": {"beta": 0.1, "loss": "bc"}, "seed": 0}
    assert differences(before, now) == ["alignment.beta: 0.2 -> 0.1"]
    assert differences(before, before) == []
    assert differences({}, {"seed": 1}) == ["seed: null -> 1"]


def test_fingerprints_change_with_settings_inputs_and_weights(tmp_path):
    assert len({fingerprint({"a": 1}, {}), fingerprint({"a": 2}, {}), fingerprint({"a": 1}, {"b": "c"})}) == 3
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = model_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert model_fingerprint(tmp_path) != first


@pytest.mark.parametrize("of", [Path, lambda folder: UPath(f"memory://{folder}")])
def test_a_change_in_the_middle_of_weights_or_of_a_large_tokenizer_is_seen(of, tmp_path):
    folder = of(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"model.safetensors": bytearray(2**24), "tokenizer.json": bytearray(2**22), "merges.txt": bytearray(9)}
    found = set()
    between = 10 * (2**24 - 2**16) // 63
    for changed, place in ((None, 0), ("model.safetensors", between), ("tokenizer.json", 2**21), ("merges.txt", 4)):
        if changed is not None:
            contents[changed][place] = 1
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        found.add(model_fingerprint(folder))
    assert len(found) == 4


def test_a_second_process_in_a_run_directory_is_refused_while_the_first_is_there(tmp_path):
    code = "import sys, pathlib; from aft_ray.storage import alone_in\nwith alone_in(pathlib.Path(sys.argv[1])): print('alone')"
    second = [sys.executable, "-c", code, str(tmp_path)]
    with alone_in(tmp_path):
        refused = subprocess.run(second, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "another run is at work there" in refused.stderr
    assert subprocess.run(second, capture_output=True, text=True).stdout == "alone\n"


def test_two_who_put_a_file_in_its_place_at_once_leave_one_of_them_whole(tmp_path, monkeypatch):
    one, other, to = tmp_path / "one", tmp_path / "other", tmp_path / "to"
    one.write_text("one" * 1000)
    other.write_text("other" * 1000)
    usual = shutil.copyfile

    def with_another_meanwhile(source, staging):
        usual(source, staging)
        if source == one:
            upload(other, to)

    monkeypatch.setattr(shutil, "copyfile", with_another_meanwhile)
    upload(one, to)
    assert to.read_text() == "one" * 1000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "other", "to"]
