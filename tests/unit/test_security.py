"""What is not trusted is refused or harmless: docs/security.md."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import ModelConfig, RunConfig, TaskConfig, load_yaml
from aft_ray.preflight import check_model
from aft_ray.sampling.given import read_given
from aft_ray.tasks import BadInputError, read_questions

OWNED = "owned by the test"


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (self.marker, OWNED))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "marker"


def test_a_model_in_a_pickle_is_refused_and_not_opened(tiny_llama, tmp_path, marker):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    (model / "model.safetensors").unlink()
    torch.save(Trap(marker), model / "pytorch_model.bin")
    with pytest.raises(BadInputError, match=r"no \*\.safetensors"):
        check_model(model)
    assert not marker.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert marker.read_text() == OWNED, "the trap works"


def test_a_model_that_brings_code_is_refused_and_its_code_is_not_run(tiny_llama, tmp_path, marker):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": names}))
    (model / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('owned')\n")
    with pytest.raises(BadInputError, match="code"):
        check_model(model)
    for loads in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match=r"trust_remote_code|custom code|evil"):
            loads.from_pretrained(model, trust_remote_code=False)
    assert not marker.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/module:os"])
def test_yaml_with_python_in_it_is_refused(tag, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(f"name: {tag}\n")
    with pytest.raises(ValueError, match="not YAML"):
        load_yaml(file)


@pytest.mark.parametrize("name", ["../out", "a/b", "/tmp/out", ".hidden", "", "a\n"])
def test_a_run_and_a_task_cannot_be_called_like_a_way_out(name):
    task = TaskConfig(name="arithmetic")
    with pytest.raises(ValidationError):
        RunConfig(name=name, model=ModelConfig(path=Path("m")), task=task)
    with pytest.raises(ValidationError):
        TaskConfig(name="arithmetic", called=name)


def test_a_question_id_in_a_file_is_looked_up_and_makes_no_path(tiny_llama, tmp_path):
    questions = read_questions(TaskConfig(name="arithmetic", train_questions=2, test_questions=0), seed=0).questions
    file = tmp_path / "candidates.jsonl"
    file.write_text(json.dumps({"question_id": "../../outside", "candidates": [{"text": "The answer is 1."}]}))
    with pytest.raises(BadInputError, match="no training question of this run"):
        read_given(file, questions, AutoTokenizer.from_pretrained(tiny_llama), False, Console())
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.jsonl"]
