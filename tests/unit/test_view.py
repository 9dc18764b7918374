"""The browser of candidates: the right groups in the right order, both scores; bound to this machine, no code of theirs."""

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, app
from aft_ray.report.candidates import ORDERS, SHOWN, Candidates, Chosen
from aft_ray.report.found import FoundRun, NoRunError
from aft_ray.report.view import ON_A_PAGE, make_app
from schemas import CandidateGroup, Evaluation, read_parquet
from tests.unit.test_report import made_run, needs_browser, size_in_browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("runs"), "by-chance", 0)


@pytest.fixture(scope="module")
def candidates(run):
    return Candidates(FoundRun(run))


@pytest.fixture(scope="module")
def client(run):
    return TestClient(make_app(FoundRun(run)), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def by_hand(run) -> dict[str, tuple[float, float]]:
    """Of every question by how much its best wrong chain leads its worst right one, before and after: from whole records."""
    after = {e.question_id: e for e in read_parquet(run / "evaluate-aft" / "evaluations", Evaluation)}
    found = {}
    for group in read_parquet(run / "sample" / "groups", CandidateGroup):
        scores = {label: [c.score for c in group.candidates if c.label == label] for label in ("positive", "negative")}
        name = group.question.question_id
        later = max(after[name].negative_scores) - min(after[name].positive_scores)
        found[name] = max(scores["negative"]) - min(scores["positive"]), later
    return found


def test_the_index_has_every_group_once_with_its_leads(candidates, by_hand):
    found = {entry.question_id: (entry.lead_before, entry.lead_after) for entry in candidates.entries}
    assert len(candidates.entries) == len(found) == 160
    for name, leads in by_hand.items():
        assert found[name] == pytest.approx(leads)
    assert {(entry.right, entry.wrong, entry.longest) for entry in candidates.entries} == {(2, 3, 20)}


def test_a_range_takes_what_lies_within_it_its_ends_too(candidates, by_hand):
    low, high = sorted(before for before, _ in by_hand.values())[40], sorted(before for before, _ in by_hand.values())[80]
    found = candidates.chosen(Chosen(before_from=repr(low), before_to=repr(high), tokens_to="20", right_from="2"))
    assert {entry.question_id for entry in found} == {name for name, (before, _) in by_hand.items() if low <= before <= high}
    assert len(found) == 41
    assert len(candidates.chosen(Chosen(after_from="0"))) == sum(after >= 0 for _, after in by_hand.values())
    assert not candidates.chosen(Chosen(tokens_from="21"))
    assert len(candidates.chosen(Chosen(tokens_from="long", tokens_to="nan"))) == 160, "what is no number bounds nothing"


def test_a_port_that_is_taken_is_told(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = CliRunner().invoke(app, ["view", str(run), "--port", str(taken.getsockname()[1])])
    assert told.exit_code == BAD_INPUT
    assert "another one by --port" in told.output


def test_a_range_stays_as_it_was_typed(client):
    shown = client.get("/", params={"before_from": "-0.5", "page": "2"}).text
    assert 'name="before_from" value="-0.5"' in shown
    assert "before_from=-0.5" in shown
    assert "<details open>" in shown


def test_those_that_alignment_mended_come_first_and_alone(candidates, by_hand):
    mended = {name for name, (before, after) in by_hand.items() if before > 0 >= after}
    assert 10 < len(mended) < 150
    alone = candidates.chosen(Chosen(shown="mended: wrong preferred before, right after"))
    assert {entry.question_id for entry in alone} == mended
    first = candidates.chosen(Chosen())
    assert {entry.question_id for entry in first[: len(mended)]} == mended
    changes = [entry.lead_after - entry.lead_before for entry in alone]
    assert changes == sorted(changes), "those that changed most"


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("order", ORDERS)
def test_every_choice_gives_whole_groups(candidates, shown, order):
    chosen = candidates.chosen(Chosen(shown=shown, order=order, task="longer", part_of_id="-01"))
    assert all(entry.task == "longer" and "-01" in entry.question_id for entry in chosen)
    groups = candidates.groups(chosen[:7])
    assert [group.question.question_id for group in groups] == [entry.question_id for entry in chosen[:7]]


def test_a_chain_stands_beside_its_own_two_scores(candidates, run):
    after = {e.question_id: e for e in read_parquet(run / "evaluate-aft" / "evaluations", Evaluation)}
    (group,) = candidates.groups(candidates.entries[:1])
    scored = candidates.scored(group)
    assert [one.before for one in scored] == sorted((c.score for c in group.candidates), reverse=True)
    for label, scores in (("positive", "positive_scores"), ("negative", "negative_scores")):
        of_label = sorted((one for one in scored if one.candidate.label == label), key=lambda one: one.candidate.index)
        assert tuple(one.after for one in of_label) == getattr(after[group.question.question_id], scores)


def test_pages_lead_through_all_questions_once(client):
    seen, link = [], "?order=question"
    while link:
        shown = client.get(f"/{link}")
        assert shown.status_code == 200
        seen += re.findall(r"<header><span>([^<]+)</span>", shown.text)
        following = re.search(r'<a href="([^"]+)">next</a>', shown.text)
        link = html.unescape(following[1]) if following else ""
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == 160
    assert len(re.findall("<article>", client.get("/").text)) == ON_A_PAGE


@pytest.mark.parametrize("query", ["page=-3", "page=999999", "page=x", "shown=nonsense&order=nonsense&task=nonsense", "other=1"])
def test_any_query_gets_a_page(client, query):
    assert client.get(f"/?{query}").status_code == 200


def test_text_of_models_and_readers_is_text_on_the_page(client):
    shown = client.get("/", params={"part_of_id": '"><script>'}).text + client.get("/").text
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)" in shown


def test_another_name_for_this_machine_is_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/report").text.startswith("<!doctype html>")


def test_a_run_that_has_stopped_at_its_candidates_is_shown_without_what_comes_after(run, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped, ignore=shutil.ignore_patterns("evaluate-*", "summary.json"))
    client = TestClient(make_app(FoundRun(stopped)), base_url="http://127.0.0.1")
    shown = client.get("/").text
    assert "160 of 160 questions" in shown
    assert "under the model that sampled." in shown
    assert "before -" in shown
    assert "after" not in re.search(r"<article>.*</article>", shown, re.DOTALL)[0]
    assert client.get("/report").status_code == 404


def test_held_out_questions_that_were_sampled_apart_are_shown_too(run, tmp_path):
    apart = tmp_path / "apart"
    shutil.copytree(run, apart)
    (apart / "held-out" / "groups").mkdir(parents=True)
    (apart / "sample" / "groups" / "3.parquet").rename(apart / "held-out" / "groups" / "0.parquet")
    assert len(Candidates(FoundRun(apart)).entries) == 120, "of an earlier run"
    summary = json.loads((apart / "summary.json").read_text())
    summary["stages"].append({"name": "held-out"})
    (apart / "summary.json").write_text(json.dumps(summary))
    assert len(Candidates(FoundRun(apart)).entries) == 160


def test_without_groups_there_is_nothing_to_view(tmp_path):
    with pytest.raises(NoRunError, match="sample/groups"):
        Candidates(FoundRun(tmp_path))


def test_the_command_serves_on_this_machine_alone(run):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "aft-ray", "view", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    text = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read().decode()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert "160 of 160 questions" in text
            with socket.socket() as elsewhere:  # any address of this machine but loopback's first
                assert elsewhere.connect_ex(("127.0.0.2", port)) != 0
        finally:
            server.terminate()


@needs_browser
def test_a_browser_shows_it_at_the_width_of_a_phone(client, tmp_path):
    wide, high, log = size_in_browser(tmp_path, client.get("/").text, 390)
    assert wide <= 410
    assert high > 2000
    assert "CONSOLE" not in log, log
