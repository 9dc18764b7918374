"""A run made ready for a model hub: what transformers, PEFT and the hub's own library make of the directory."""

import base64
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from upath import UPath

from aft_ray.cli import BAD_INPUT, app, load_job
from aft_ray.labelling import REWARDED
from aft_ray.publish import publish
from aft_ray.report.found import FoundRun
from tests.unit.test_report import TASKS, made_run, reconfigured

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def run(tiny_llama, tmp_path_factory) -> Path:
    folder = made_run(tmp_path_factory.mktemp("runs"), "by-chance", 0)
    shutil.copytree(tiny_llama, folder / "base")
    save_again(folder / "base", folder / "align" / "model")
    return folder


def save_again(base: Path, out: Path, model: torch.nn.Module | None = None) -> None:
    """As a stage leaves it, by those who know where it was read: the libraries' own writers."""
    (model or AutoModelForCausalLM.from_pretrained(base)).save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def tells(folder: Path, private: Path) -> list[str]:
    """The files in which that path stands."""
    return [file.name for file in folder.rglob("*") if file.is_file() and str(private).encode() in file.read_bytes()]


@pytest.fixture(scope="module")
def published(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "mine"
    told = CliRunner().invoke(app, ["publish", str(run), str(out), "--license", "apache-2.0", "--base-model", "org/base"])
    assert told.exit_code == 0, told.output
    assert "hf upload ORG/NAME" in told.output
    return out


def test_transformers_loads_the_directory_as_it_is(run, published):
    model, info = AutoModelForCausalLM.from_pretrained(published, output_loading_info=True)
    assert not any(info.values())
    expected = AutoModelForCausalLM.from_pretrained(run / "align" / "model").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(published).eos_token
    assert not (published / "adapter").exists()


def test_the_card_s_metadata_hold_the_figures_and_come_back_the_same(run, published):
    card, found = ModelCard.load(published / "README.md"), FoundRun(run)
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("apache-2.0", "org/base", "transformers")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    results = {(result.dataset_config, result.metric_type): result for result in card.data.eval_results}
    assert results.keys() == {(task, kind) for task in TASKS for kind in ("accuracy", "assessment_accuracy")}
    for (task, kind), result in results.items():
        measured = found.model("aft", task)
        assert result.metric_value == measured[kind]
        assert result.metric_args["interval"] == measured[f"{kind}_ci"]
        assert result.metric_args["questions"] == measured["n" if kind == "accuracy" else "assessment_questions"] == 80


def test_the_card_says_what_was_measured_and_how_it_was_made(run, published):
    text, found = ModelCard.load(published / "README.md").text, FoundRun(run)
    for task in TASKS:
        for model in ("vft", "aft"):
            low, high = found.model(model, task)["accuracy_ci"]
            assert f"{found.model(model, task)['accuracy']:.1%} ({low * 100:.1f} to {high * 100:.1f})" in text
    for said in (
        "bc, beta 0.2",
        "80 held-out questions, seed 0",
        "### longer\n\nnever trained on; 80",
        "Question: {question}\n    Answer:",
    ):
        assert said in text, said
    assert "{{" not in text
    assert "{%" not in text
    # A table of markdown ends at an empty line.
    assert len(re.findall(r"^\| accuracy, greedy \|", text, re.MULTILINE)) == len(TASKS)
    assert all(line.count("|") in (0, 3, 5) for line in text.splitlines())


def test_where_things_lay_is_not_told_and_the_settings_make_the_run_again(run, published):
    assert {"config.json", "tokenizer_config.json", "README.md", "aft_ray.yaml"} <= {file.name for file in published.iterdir()}
    assert tells(published, run.parent) == []
    again, config = load_job(published / "aft_ray.yaml"), load_job(run / "config.json")
    assert again.model.path == Path("base")
    assert again.alignment == config.alignment
    assert again.task == config.task


FROM_HUB = {"name": "gsm8k", "train_file": "hf:openai/gsm8k/main:train", "test_file": "hf:openai/gsm8k/main:validation"}


def published_card(run: Path, out: Path, **sections: dict) -> ModelCard:
    publish(reconfigured(run, **sections), out, None, None)
    return ModelCard.load(out / "README.md")


@pytest.fixture
def other(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "other")


def test_questions_of_a_hub_are_named_by_repository_config_and_split(other, tmp_path):
    parts = [FROM_HUB | {"called": "arithmetic"}, {"name": "arithmetic", "called": "longer"}]
    card = published_card(other, tmp_path / "mine", task={"parts": parts})
    assert card.data.datasets == ["openai/gsm8k"]
    found = {(r.dataset_type, r.dataset_config, r.dataset_split) for r in card.data.eval_results}
    assert found == {("openai/gsm8k", "main", "validation"), ("arithmetic", "longer", "test")}


def test_a_folder_named_as_a_hub_s_data_is_not_told(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private" / "data").mkdir(parents=True)
    part = {
        "name": "custom",
        "called": "arithmetic",
        "train_file": "hf:private/data:train",
        "test_file": f"hf:{tmp_path}/gone:test",
    }
    card = published_card(other, tmp_path / "mine", task={"parts": [part]})
    assert card.data.datasets is None
    assert "from the author's own" in card.text
    assert tells(tmp_path / "mine", tmp_path) == tells(tmp_path / "mine", Path("private/data")) == []


def test_the_card_of_a_run_whose_alignment_started_elsewhere_says_so(other, tmp_path):
    text = published_card(other, tmp_path / "mine", alignment={"start_from": "base"}).text
    assert "`vft` is the model that was sampled" in text
    assert "started from `base` and not from `vft`, so the gain is not alignment's alone" in text
    assert "before alignment" not in text


def manifest_with(run: Path, stage: str, counts: dict[str, int]) -> None:
    """Counted by that stage, which the run may not have had."""
    (run / stage).mkdir(exist_ok=True)
    manifest = json.loads((run / "sample" / "manifest.json").read_text())
    (run / stage / "manifest.json").write_text(json.dumps(manifest | {"stage": stage, "counts": counts}))
    summary = json.loads((run / "summary.json").read_text())
    if stage not in [row["name"] for row in summary["stages"]]:
        summary["stages"].append({"name": stage})
        (run / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("file", "apart", "said"),
    [
        (None, False, "| chains | 6 a question"),
        ("chains.jsonl", False, "of the others sampled: 6 a question"),
        ("chains.jsonl", True, "| chains | of training questions from a file; sampled of held-out ones: 6 a question"),
    ],
)
def test_the_card_says_which_chains_were_sampled(file, apart, said, other, tmp_path):
    if apart:
        manifest_with(other, "held-out", {"groups": 160})
    text = published_card(other, tmp_path / "mine", sampling={"candidates_file": file}).text
    assert said in text
    assert "| training, align | 16 questions; all weights" in text, "those trained on, not those read"


@pytest.mark.parametrize(
    ("counts", "reward", "said"),
    [
        ({}, None, "wrong by their answers, so that right ones score above wrong ones"),
        ({REWARDED: 9}, None, "ranked by the ranks or rewards of their file, so that better ones"),
        ({REWARDED: 9}, "mine:reward", "ranked by the rewards of `mine:reward`, so that better ones"),
    ],
)
def test_the_card_says_what_ordered_the_chains(counts, reward, said, other, tmp_path):
    manifest_with(other, "sample", {"questions": 160} | counts)
    assert said in published_card(other, tmp_path / "mine", labelling={"reward": reward}).text


def test_without_options_nothing_is_made_up(run, tmp_path):
    publish(run, tmp_path / "mine", None, None)
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.license is None
    assert card.data.base_model is None
    assert "`base` after alignment fine-tuning" in card.text


def test_weights_are_not_copied_and_what_may_be_edited_is(run, published):
    model = run / "align" / "model"
    assert (published / "model.safetensors").samefile(model / "model.safetensors")
    assert not (published / "config.json").samefile(model / "config.json")


def test_a_run_in_an_object_store_is_published_to_this_disk(run, tiny_llama, tmp_path):
    store = UPath("memory://runs/by-chance")
    for file in run.rglob("*"):
        if file.is_file():
            (store / str(file.relative_to(run))).write_bytes(file.read_bytes())
    publish(store, tmp_path / "mine", None, None)
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == (tiny_llama / "model.safetensors").read_bytes()


def adapter_over(base: Path, into: Path, rank: int, target: list[str]) -> None:
    """A stage's: chance, over that model, and the model with it merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=3 * rank, target_modules=target)
    adapted = peft.get_peft_model(model, config)
    for parameter in (p for p in adapted.parameters() if p.requires_grad):
        parameter.data.normal_(std=0.05)
    adapted.save_pretrained(into / "adapter")
    save_again(base, into / "model", adapted.merge_and_unload())


def test_the_adapters_of_its_stages_become_one_over_the_base_model(tiny_llama, tmp_path):
    run = made_run(tmp_path, "adapted", 0)
    adapter_over(tiny_llama, run / "vft", 4, ["q_proj", "v_proj"])
    adapter_over(run / "vft" / "model", run / "align", 2, ["q_proj", "down_proj"])
    publish(run, tmp_path / "mine", None, None)
    assert tells(run, tmp_path), "the stage's own adapter names its base"
    assert tells(tmp_path / "mine", tmp_path) == []
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        before = base(TOKENS).logits
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "mine" / "adapter")(TOKENS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "mine", dtype=torch.float32)(TOKENS).logits
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, merged, atol=1e-2)
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert "lora" in card.data.tags
    assert "low-rank adapter" in card.text
    shutil.rmtree(run / "vft" / "adapter")  # as where VFT had trained all weights
    publish(run, tmp_path / "other", None, None)
    assert not (tmp_path / "other" / "adapter").exists()


def test_what_is_there_already_is_left_alone_and_a_run_without_a_model_refused(run, published, tmp_path):
    for arguments, said in (
        ([str(run), str(published)], "is there already"),
        ([str(tmp_path), str(tmp_path / "mine")], "no finished run"),
        ([str(made_run(tmp_path, "bare", 0)), str(tmp_path / "mine")], "no model in"),
    ):
        told = CliRunner().invoke(app, ["publish", *arguments])
        assert told.exit_code == BAD_INPUT
        assert said in " ".join(told.output.split())
    assert not (tmp_path / "mine").exists()


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload asks for."""

    created: dict
    files: dict

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = {}
        if self.path == "/api/repos/create":
            type(self).created = json.loads(body)
            answer = {"url": f"http://{self.headers['Host']}/org/mine"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            type(self).files = {file["path"]: base64.b64decode(file["content"]) for file in files}
            answer = {"commitUrl": f"http://{self.headers['Host']}/org/mine/commit/1", "commitOid": "1"}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def test_it_is_pushed_whole_and_private_unless_told(run, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    told = CliRunner().invoke(app, ["publish", str(run), str(tmp_path / "mine"), "--push", "org/mine"])
    server.shutdown()
    server.server_close()
    assert told.exit_code == 0, told.output
    assert (Hub.created["organization"], Hub.created["name"], Hub.created["visibility"]) == ("org", "mine", "private")
    assert Hub.files == {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    gone = CliRunner().invoke(app, ["publish", str(run), str(tmp_path / "again"), "--push", "org/mine"])
    assert gone.exit_code == BAD_INPUT
    assert (tmp_path / "again" / "README.md").is_file(), "what was made stays, to be pushed later"
