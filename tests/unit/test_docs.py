"""README and docs do what they say: the site builds, every link leads somewhere, every command and every block works.

A reader goes through each page from top to bottom, in a folder like a clone. Blocks that are files are written, and commands go
to a real shell, whose programs only note how they were called. What was called is then done in this process, up to where Ray
would start: of runs the settings are read, and another run's directory stands for what they leave (tests/integration has a real
one).
"""

import doctest
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, UnionType
from typing import Union, get_args, get_origin

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import BaseModel
from ray.dashboard.modules.job.cli import job_cli_group
from rich.console import Console
from transformers import AutoTokenizer
from typer.main import get_command
from typer.testing import CliRunner

from aft_ray.cli import app, load_job, parse
from aft_ray.cli.stages import model_alone
from aft_ray.config import RunConfig
from aft_ray.losses import bound_loss
from aft_ray.sampling.given import read_given
from schemas import Question
from tests.conftest import ROOT, tokenized
from tests.unit.test_report import made_run

DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", *DOCS]
each_page = pytest.mark.parametrize("page", PAGES)
MAKEFILE = (ROOT / "Makefile").read_text()
QUICK = {"init", "check", "label", "plan", "report", "compare"}
"""Commands that are really carried out; of all others only the arguments are read."""
PROGRAMS = ("aft-ray", "python", "make", "ray", "kubectl", "vllm")
NOTES_ITS_CALL = """#!{shell}
printf '%s\\0' "${{0##*/}}" "${{PYTHONPATH-}}" "$@" >> "$CALLS"
printf '\\036' >> "$CALLS"
"""


def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text())


def text_before(found: list[Token], place: int) -> str:
    before = found[place - 2] if place > 1 else None
    return before.content if before is not None and before.type == "inline" else ""


# The site


class Fetched(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        if tag == "link" and of.get("rel") in ("stylesheet", "preload", "icon", "preconnect", "dns-prefetch"):
            self.addresses.append(of["href"])
        elif tag != "a" and of.get("src"):
            self.addresses.append(of["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """By the Makefile's own command, in which a warning (a link that leads nowhere, a page that is missing) is an error."""
    folder = tmp_path_factory.mktemp("site")
    arguments = re.search(r"sphinx-build (.*) site\n", MAKEFILE)[1].split()
    command = [sys.executable, "-m", "sphinx", *arguments, str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_has_every_page_and_needs_no_network(site):
    for page in PAGES:
        parser = Fetched()
        parser.feed((site / page).with_suffix(".html").read_text())
        assert parser.addresses, page
        assert [address for address in parser.addresses if re.match(r"(\w+:)?//", address)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", style.read_text()), style


def test_the_reference_has_every_setting_record_and_command(site):
    def text(page):
        return re.sub(r"<[^>]+>", "", (site / "docs" / "reference" / f"{page}.html").read_text())

    settings, records, commands = text("config"), text("records"), text("cli")
    for name in names_of(RunConfig):
        assert re.search(rf"\b{re.escape(name)}\b", settings), name
    for field in ("log_likelihood", "prompt_ids", "positive_scores", "log_likelihoods", "fingerprint"):
        assert re.search(rf"\b{field}\b", records), field
    for name, command in commands_of_aft_ray().items():
        assert f"aft-ray {name}" in commands
        for parameter in command.params:
            assert all(option in commands for option in parameter.opts if option.startswith("--")), (name, parameter.opts)


def names_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting by its whole name."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from names_of(kind, f"{prefix}{name}.")


def commands_of_aft_ray():
    return get_command(app).commands


# What a page says in passing


@each_page
def test_what_is_named_in_passing_is_there(page):
    """Files, settings, commands and their options, in running text and tables."""
    for token in tokens(page):
        for code in (child.content for child in token.children or () if child.type == "code_inline"):
            match code.removeprefix(".venv/bin/").split():
                case ["aft-ray", command, *rest] if not command.startswith("--"):
                    options = {option for p in commands_of_aft_ray()[command].params for option in p.opts}
                    assert {word for word in rest if word.startswith("--")} <= options, code
                case ["python", script, *_] if script.endswith(".py"):
                    assert (ROOT / script).is_file(), code
                case ["make", *targets]:
                    assert_make(targets)
                case [name, *_] if setting := re.match(rf"(?:--)?((?:{'|'.join(RunConfig.model_fields)})\.[a-z_.]+)", name):
                    assert any(known.startswith(setting[1]) for known in names_of(RunConfig)), code
                case [file] if re.fullmatch(r"[a-z_]+/[a-z0-9_/]+\.(py|md|yaml)", file) and file not in files_that_pages_make():
                    assert any((ROOT / within / file).is_file() for within in (".", "aft_ray", "tests")), code


def files_that_pages_make() -> set[str]:
    return {name for page in PAGES for name in re.findall(r"`([\w/-]+\.\w+)`:\n\n```", (ROOT / page).read_text())}


def test_the_tree_of_the_readme_is_that_of_the_repository():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for line in tree.splitlines():
        within = ROOT / "aft_ray" if line.startswith(" ") else ROOT
        for name in re.findall(r"(?:^|\s)([a-z_]+(?:/|\.py))(?=\s)", line):
            assert (within / name).exists(), name


# What a page says to do


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """Without models."""
    return made_run(tmp_path_factory.mktemp("runs"), "finished", 0)


@pytest.fixture
def reader(tmp_path, monkeypatch, finished_run) -> "Reader":
    """In a folder like a clone, after `make quickstart`."""
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path, finished_run)


class Reader:
    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run, self.calls, self.names = folder, run, folder / "calls", {"__name__": "docs"}
        (folder / "jobs").mkdir()
        for file in (ROOT / "jobs").iterdir():
            (folder / "jobs" / file.name).symlink_to(file)
        for name in ("benchmarks", "cluster", "docs", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        for programs in (folder / ".venv" / "bin", folder / "bin"):
            programs.mkdir(parents=True)
            for name in PROGRAMS:
                (programs / name).write_text(NOTES_ITS_CALL.format(shell=shutil.which("bash")))
                (programs / name).chmod(0o755)
        (folder / "bin" / "cp").symlink_to(shutil.which("cp"))
        self.start(folder / "jobs" / "quickstart.py", [])

    def read(self, page: str) -> None:
        found = tokens(page)
        for place, token in enumerate(found):
            name = re.search(r"`([\w/-]+\.\w+)`:$", text_before(found, place))
            if token.type == "code_block":
                self.type(token.content)
            elif token.type == "fence" and name:
                self.keep(self.folder / name[1], token.content)
            elif token.type == "fence" and token.info == "python":
                self.try_python(token.content)
            elif token.type == "fence" and token.info in ("json", "yaml"):
                self.keep(self.folder / f"unnamed.{token.info}", token.content)

    def keep(self, file: Path, text: str) -> None:
        """A row of JSON that is broken into lines, to be read, becomes one."""
        if file.suffix in (".json", ".jsonl"):
            text = "".join(json.dumps(row) + "\n" for row in values_of(text))
        file.write_text(text)
        if file.suffix == ".py":
            exec(compile(text, file.name, "exec"), {"__name__": file.stem, "__file__": str(file)})
        elif file.suffix == ".yaml":
            parse(load_job(Path("jobs/quickstart.py")), ["--config", str(file)])

    def try_python(self, text: str) -> None:
        if not text.startswith(">>>"):
            exec(text, self.names)
            return
        session = doctest.DocTestParser().get_doctest(text, self.names, "session", None, 0)
        with self.importing_from("."):
            assert doctest.DocTestRunner().run(session).failed == 0

    @contextmanager
    def importing_from(self, *folders: str) -> Iterator[None]:
        """As a process of its own that finds modules there too: what it imports is forgotten with it."""
        before = sys.path[:]
        sys.path[:0] = folders
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:] = before
            for name in [name for name, module in sys.modules.items() if self.holds(module)]:
                del sys.modules[name]

    def holds(self, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        return file is not None and Path(file).is_relative_to(self.folder)

    def type(self, lines: str) -> None:
        """Into a shell with no programs but those of the docs; what they were called with is done then."""
        environment = {"PATH": str(self.folder / "bin"), "CALLS": str(self.calls)}
        self.calls.write_text("")
        shell = [shutil.which("bash"), "-e", "-c", lines]
        typed = subprocess.run(shell, env=environment, cwd=self.folder, capture_output=True, text=True)
        assert typed.returncode == 0, typed.stderr
        for call in self.calls.read_text().split("\036")[:-1]:
            program, python_path, *arguments = call.split("\0")[:-1]
            with self.importing_from(*filter(None, python_path.split(os.pathsep))):
                self.call(program, arguments)

    def call(self, program: str, arguments: list[str]) -> None:
        match program, arguments:
            case "aft-ray", [name, *rest] if name in QUICK:
                result = CliRunner().invoke(app, arguments)
                assert result.exit_code == 0, (arguments, result.output)
            case "aft-ray", [name, *rest]:
                context = commands_of_aft_ray()[name].make_context(name, rest)
                if "job" in context.params:
                    self.start(Path(context.params["job"]), context.args)
                if name == "eval" and context.params["model"]:
                    alone = model_alone(load_job(Path(context.params["job"])), context.params["model"])
                    shutil.copytree(self.run, alone.runs_dir / alone.name)
            case "python", [str(job), *rest] if job.startswith("jobs/"):
                self.start(Path(job), rest)
            case "python", ["-m", module, *_]:
                assert importlib.util.find_spec(module)
            case "python", [script, *rest]:
                assert all(word in Path(script).read_text() for word in rest if word.startswith("--"))
            case "make", targets:
                assert_make(targets)
            case "ray", ["job", name, *rest]:
                context = job_cli_group.commands[name].make_context(name, rest)
                if name == "submit":
                    self.call(context.params["entrypoint"][0], list(context.params["entrypoint"][1:]))
            case "kubectl", ["apply" | "delete", "-f", file]:
                assert Path(file).is_file()

    def start(self, job: Path, arguments: list[str]) -> None:
        """A run: its settings are read, and its directory is there afterwards."""
        if arguments == ["--help"]:
            return  # tests/unit/test_config.py has what it prints
        config = parse(load_job(job), arguments)
        bound_loss(config.alignment.loss, None, config.alignment.options)
        if not config.runs_dir.is_absolute():
            shutil.copytree(self.run, config.runs_dir / config.name, dirs_exist_ok=True)


def values_of(text: str) -> Iterator[object]:
    """JSON values, one behind the other."""
    text = text.strip()
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        yield value
        text = text[end:].strip()


def assert_make(targets: list[str]) -> None:
    for target in targets:
        assert re.search(rf"^\.PHONY:.*\b{target}\b", MAKEFILE, re.MULTILINE), target


def labels_are_what_the_text_leads_one_to_expect(_: Path) -> None:
    rows = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert [(row["verdict"], row["extracted"]) for row in rows] == [("right", "18"), ("wrong", "9")]


def candidates_are_read_as_they_are_shown(model: Path) -> None:
    file = Path("candidates.jsonl")
    row, tokenizer = json.loads(file.read_text()), AutoTokenizer.from_pretrained(model)
    asked = Question(question_id="q", task="gsm8k", split="train", text=row["question"], gold="18", reference=None)
    (group,) = read_given(file, tokenized([asked], tokenizer), tokenizer, False, Console())
    assert [candidate.text for candidate in group.candidates] == [shown["text"] for shown in row["candidates"]]


WHAT_THEN_HOLDS = {
    "docs/data.md": labels_are_what_the_text_leads_one_to_expect,
    "docs/candidates.md": candidates_are_read_as_they_are_shown,
}


@each_page
def test_a_reader_can_do_what_the_page_says(page, reader, tiny_llama):
    reader.read(page)
    if page in WHAT_THEN_HOLDS:
        WHAT_THEN_HOLDS[page](tiny_llama)
