"""One tree of settings: what is refused, by which path, and how YAML and the command line override a job."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from aft_ray.cli import parse, run_job
from aft_ray.config import AlignmentConfig, LoraConfig, ModelConfig, ResourcesConfig, RunConfig, TaskConfig

JOB = RunConfig(
    name="job", model=ModelConfig(path=Path("model")), task=TaskConfig(name="arithmetic"), alignment=AlignmentConfig(beta=0.3)
)


def test_the_command_line_overrides_one_field_and_leaves_the_job_s_others():
    config = parse(JOB, ["--alignment.learning_rate", "1e-4", "--task.references", "7", "--resources.sampling_actors", "[2,3]"])
    assert config.alignment.learning_rate == 1e-4
    assert config.alignment.beta == 0.3
    assert config.task.references == 7
    assert config.resources.sampling_actors == (2, 3)


@pytest.mark.parametrize(
    "setting", ["resources.zero_stage 3", "resources.offload optimizer", "model.precision fp32", "alignment.beta auto"]
)
def test_a_choice_is_made_on_the_command_line_as_in_a_job(setting):
    name, value = setting.split()
    found = parse(JOB, [f"--{name}", value])
    for part in name.split("."):
        found = getattr(found, part)
    assert str(found) == value
    assert parse(JOB, ["--tracking.to", '["tensorboard"]']).tracking.to == ("tensorboard",)


@pytest.mark.parametrize("arguments", [["--alignment.lora.rank", "4"], ["--alignment.lora", '{"rank": 4}']])
def test_one_field_of_a_part_that_is_off_turns_it_on(arguments):
    config = parse(JOB, arguments)
    assert config.alignment.lora == LoraConfig(rank=4)
    assert config.vft.lora is None
    again = parse(config, ["--alignment.lora.target", "q_proj,v_proj"])
    assert again.alignment.lora == LoraConfig(rank=4, target=("q_proj", "v_proj"))
    assert parse(again, ["--alignment.lora", "null"]).alignment.lora is None


def test_yaml_overrides_the_job_and_the_command_line_overrides_yaml(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 3\nalignment: {beta: 0.1, loss: dc}\n")
    config = parse(JOB, ["--config", str(file), "--alignment.loss", "unconstrained"])
    assert (config.seed, config.alignment.beta, config.alignment.loss) == (3, 0.1, "unconstrained")


def test_a_task_of_another_name_has_nothing_of_the_job_s_own(tmp_path):
    """Which takes 400 of its questions, say."""
    job = JOB.model_copy(update={"task": TaskConfig(name="arithmetic", train_questions=400, difficulty=1)})
    file = tmp_path / "mine.yaml"
    file.write_text("task: {name: svamp, train_file: a.json, test_file: b.json}\n")
    mine = TaskConfig(name="svamp", train_file="a.json", test_file="b.json")
    told = ["--task.name", "svamp", "--task.train_file", "a.json", "--task.test_file", "b.json"]
    assert parse(job, ["--config", str(file)]).task == parse(job, told).task == mine
    assert parse(job, ["--config", str(file), "--task.test_questions", "5"]).task.test_questions == 5
    assert parse(job, ["--task.name", "arithmetic"]).task == job.task
    file.write_text("task: {difficulty: 2}\n")
    assert parse(job, ["--config", str(file)]).task == job.task.model_copy(update={"difficulty": 2})


def test_every_field_of_the_tree_is_a_flag(capsys):
    with pytest.raises(SystemExit) as end:
        parse(JOB, ["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for name, field in RunConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for flag in [f"--{name}.{key}" for key in inner] if inner else [f"--{name}"]:
            assert flag in printed


def test_the_environment_sets_nothing(monkeypatch):
    monkeypatch.setenv("SEED", "5")
    monkeypatch.setenv("NAME", "other")
    assert parse(JOB, []) == JOB


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--alignment.beta", "-1"], "alignment.beta"),
        (["--alignment.beta", "nan"], "alignment.beta"),
        (["--alignment.loss", "no_such"], "alignment.loss"),
        (["--alignment.beta", "automatic"], "alignment.beta"),
        (["--rounds", "0"], "rounds"),
        (["--resources.zero_stage", "4"], "resources.zero_stage"),
        (["--tracking.to", '["comet"]'], "tracking.to"),
        (["--resources.offload", "optimizer+parameters"], "needs a zero_stage of at least 3, this is 2"),
        (["--resources.sampling_actors", "[3,1]"], "resources"),
        (["--name", "../elsewhere"], "name"),
        (["--task.name", "gsm8k"], "task"),
        (["--sampling.max_new_tokens", "5000"], "max_tokens"),
        (["--resources.zero_stage", "0"], "must be at least 1 where model.precision is bf16"),
    ],
)
def test_an_impossible_value_is_refused_with_its_path_and_exit_code_2(arguments, path, capsys):
    with pytest.raises(SystemExit) as end:
        run_job(JOB, arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert path in printed.out + printed.err


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        run_job(JOB, ["--alignment.bta", "1"])
    assert end.value.code == 2
    assert "--alignment.bta" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["alignment: {bta: 1}", "bta: 1"])
def test_an_unknown_key_in_yaml_is_refused_with_its_path(text, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as end:
        run_job(JOB, ["--config", str(file)])
    assert end.value.code == 2
    assert text.replace(": {", ".").split(":")[0] in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "- 1", "just text", "a: [unclosed", "name: \xfc"])
def test_yaml_that_is_no_mapping_is_refused(text, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(SystemExit) as end:
        run_job(JOB, ["--config", str(file)])
    assert end.value.code == 2
    assert "settings.yaml" in capsys.readouterr().out


def test_a_config_is_the_same_after_json():
    assert RunConfig.model_validate_json(JOB.model_dump_json()) == JOB


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        JOB.seed = 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resources.training_workers", "999"], "resources.training_workers: 999 x 1 CPU"),
        (["--model.path", "nowhere"], "nowhere/config.json: not there"),
        (
            ["--alignment.loss", "simpo", "--alignment.options", '{"lambda": 1}'],
            "loss simpo has no option lambda; it has {'beta'",
        ),
        (["--sampling.max_prompt_tokens", "900"], "max_prompt_tokens + max_new_tokens + 1 = 1157 tokens"),
        (["--resources.cpus_per_sampling_actor", "512"], "resources.sampling_actors: 1 x 512 CPU, and 1 CPU to read"),
        (
            ["--vft.lora.target", "q_proj,c_attn"],
            "vft.lora.target: no linear layer is called c_attn; there are: down_proj, gate_",
        ),
        (["--alignment.lora.target", "lm_head"], "alignment.lora.target: no linear layer is called lm_head"),
        (["--alignment.loss", "losses_of_mine:no_such"], "alignment: no loss 'losses_of_mine:no_such'"),
    ],
)
def test_what_can_never_run_is_refused_before_it_starts(arguments, said, tiny_llama, tmp_path, capsys):
    job = JOB.model_copy(update={"model": ModelConfig(path=tiny_llama), "runs_dir": tmp_path})
    with pytest.raises(SystemExit) as end:
        run_job(job, arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gpus", [2, 0.5, -1])
def test_a_training_worker_has_one_gpu_or_none(gpus):
    with pytest.raises(ValidationError, match="gpus_per_training_worker"):
        ResourcesConfig(gpus_per_training_worker=gpus)
