"""The run: the stages in order, each skipped when its result is there and still valid.

questions -> vft -> sample -> align, then evaluate-vft and evaluate-aft on the held-out groups of `sample`; the VFT model's own
evaluation comes out of the sampling. Before align, reference where the loss needs log-likelihoods that the sampler has not given.
A further round is sample-2 -> align-2 -> evaluate-aft-2, and so on, each from the model of the round before.

A stage that nothing needs is left out: VFT where its model is neither sampled nor aligned. Where all candidates to train on are
given, `sample` labels them, and `held-out` samples the questions of the evaluation, for which alignment need not wait.
"""

import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from ray.actor import ActorHandle
from rich.console import Console
from transformers import AutoTokenizer

from aft_ray import preflight
from aft_ray.capacity import Demand, check_nodes, check_this_machine, demands_of, sampling_demand, training_demand, wait_for_room
from aft_ray.cluster import connect
from aft_ray.config import ModelConfig, RunConfig, TrainingConfig
from aft_ray.data_check import Limits, check_questions, print_report
from aft_ray.evaluation.measures import count_verdicts, evaluation_of_sampler
from aft_ray.evaluation.summary import summarise
from aft_ray.heartbeat import Use
from aft_ray.labelling import count_labels
from aft_ray.metrics import Gauges
from aft_ray.places import Place, absolute, fetched, make_folder, remove, write_atomically
from aft_ray.progress import Listener, StageProgress
from aft_ray.report.found import SUMMARY
from aft_ray.report.page import REPORT, write_or_tell
from aft_ray.rounds import Rounds, in_round
from aft_ray.sampling.commits import committed
from aft_ray.sampling.dead_letters import answered
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.given import read_given
from aft_ray.sampling.relabelling import Leftovers
from aft_ray.sampling.stream import evaluate_model, label_candidates, sample_candidates
from aft_ray.stages import EARLIER, Stage, all_done, ensure, fingerprints, leading_to, to_come
from aft_ray.storage import alone_in, code_of, content_of, model_fingerprint
from aft_ray.tasks import make_tasks, own_checks
from aft_ray.tracking import Tracking, check_installed
from aft_ray.training.job import TOLD, TrainingJob
from aft_ray.training.trainer import run_training, score_references
from schemas import (
    CandidateGroup,
    Evaluation,
    Question,
    ReferenceScores,
    StageManifest,
    iter_parquet,
    read_parquet,
    write_parquet,
)

Goal = Literal["sample", "align", "evaluate-base"]
"""Where a run may end before it has done all: labelled candidates, the aligned model, the base model evaluated alone."""


class Run:
    """A configuration and its directory. The same configuration run again goes on where it stopped.

    With `until` only that stage is made, and what it depends on. Before anything starts, raises BadInputError where the
    questions or the model are not as they must be, and NotEnoughResourcesError where this machine cannot hold what is asked for.
    """

    def __init__(self, config: RunConfig, console: Console, until: Goal | None = None) -> None:
        self.config = config
        self.console = console
        self.until = until
        preflight.check_model(config.model.path)
        model = fetched(config.model.path, weights=False)
        preflight.check_context(config)
        preflight.check_loss(config.alignment)
        if until != "evaluate-base":
            preflight.check_adapters(config)
        preflight.check_parallel(config)
        check_installed(config.tracking)
        self.tasks = make_tasks(config.task)
        tokenizer = AutoTokenizer.from_pretrained(model)
        found, reports = check_questions(config.task, config.seed, tokenizer, config.prompt, config.labelling)
        self.questions = found.questions if until != "evaluate-base" else tuple(found.held_out)
        preflight.check_tokens(found.questions, config)
        self.left_out = found.counts
        limits = Limits(config.sampling.max_prompt_tokens, config.vft.max_tokens)
        print_report(reports, limits, found.counts, console)
        preflight.check_splits(found, train=until != "evaluate-base", held_out=until in (None, "evaluate-base"))
        given: list[CandidateGroup] = []
        if config.sampling.candidates_file is not None:
            file, most = config.sampling.candidates_file, config.alignment.max_tokens
            given = read_given(file, found.questions, tokenizer, config.prompt.chat, console, most, found.set_aside)
        self.rounds = Rounds(config, self.questions, given)
        preflight.check_lengths(config, self.rounds.train if self.rounds.samples_for_training else [], self.rounds.held_out)
        if until in (None, "align"):
            preflight.check_boundary(config.alignment, self.rounds.samples_for_training)
        if any(stage.name == "vft" for stage in self.stages()):
            preflight.check_references(self.rounds.train)
        self.folder = absolute(config.runs_dir / config.name)
        check_this_machine(self.demands)
        preflight.check_writable(self.folder)
        self.logs = self.folder / "logs" if isinstance(self.folder, Path) else Path("logs", config.name).absolute()
        self.used: dict[str, Use] = {}
        self.listeners: list[Listener] = [Gauges(config.name), lambda stage, look, last: self.used.update({stage: look.use})]

    def execute(self) -> dict[str, Any]:
        """All stages that are wanted, then the summary, which is returned.

        Where models were evaluated it is written to summary.json, and shown in report.html.
        """
        with alone_in(self.folder):
            local = self.folder if isinstance(self.folder, Path) else self.logs
            # A part belongs to the same run; a model alone has one of its own.
            whole = fingerprints(self.stages_to("evaluate-base" if self.until == "evaluate-base" else None))
            if not all_done(self.folder, whole):  # figures of another run, or of one before, say nothing of what is made now
                for told in (SUMMARY, REPORT):
                    (self.folder / told).unlink(missing_ok=True)
            with Tracking(self.config, self.folder, local, [*whole.values()][-1], self.console) as tracking:
                self.listeners.append(tracking)
                return self.execute_stages(tracking)

    def execute_stages(self, tracking: Tracking) -> dict[str, Any]:
        write_atomically(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        manifests: dict[str, StageManifest] = {}
        rows = []
        for stage in self.stages():
            manifest, skipped = ensure(self.folder, stage, manifests, self.used, self.console)
            manifests[stage.name] = manifest
            tracking.log_training(self.folder / stage.name)
            seconds = 0.0 if skipped else manifest.seconds
            rows.append({"name": stage.name, "seconds": seconds, "skipped": skipped, "counts": manifest.counts})
        evaluations = {
            name.removeprefix("evaluate-"): read_parquet(self.folder / name / "evaluations", Evaluation)
            for name in manifests
            if name.startswith("evaluate-")
        }
        summary = summarise(self.config, self.rounds.trained_tasks("vft" in manifests), evaluations, rows)
        if evaluations:
            write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
            tracking.log_summary(summary)
            write_or_tell(self.folder, self.console)
        return summary

    def stages(self) -> list[Stage]:
        """Those that are wanted, and all that they depend on."""
        return self.stages_to(self.until)

    def stages_to(self, goal: Goal | None) -> list[Stage]:
        stages = self.whole_run()
        evaluations = [stage.name for stage in stages if stage.name.startswith("evaluate-")]
        goals = {None: evaluations, "align": [in_round("align", self.config.rounds)]}
        return leading_to(goals.get(goal, [str(goal)]), stages)

    def whole_run(self) -> list[Stage]:
        config = self.config
        content = {"content": content_of(self.questions), "prompt": config.prompt.model_dump(mode="json")}
        questions = {"task": config.task.deciding()} | content
        vft = {"vft": config.vft.deciding(), "task_weights": self.config.task.weights} | self.base
        seed = {"seed": config.seed}
        first, *further = [self.round_stages(number) for number in range(1, config.rounds + 1)]
        return [
            Stage("questions", questions | seed, (), self.make_questions),
            Stage("vft", vft | seed, ("questions",), self.make_vft),
            *first[:-1],
            Stage(f"evaluate-{self.rounds.sampler(1)}", {}, (self.rounds.held_out_in,), self.make_sampler_evaluation),
            first[-1],
            *(stage for stages in further for stage in stages),
        ]

    def round_stages(self, number: int) -> list[Stage]:
        """Sampling from the model of the round before (in the first one, VFT's), alignment, evaluation."""
        config, rounds = self.config, self.rounds
        sample, reference, align, evaluate = (in_round(name, number) for name in ("sample", "reference", "align", "evaluate-aft"))
        # What comes from VFT's model depends on the base model too.
        model, inputs = self.origin(rounds.sampler(number) if rounds.start(number) == "base" else rounds.start(number))
        inputs += (sample,)
        stages = self.sampling_stages(number)
        if rounds.need_reference_pass(number):
            scored = {"max_tokens": config.alignment.max_tokens, "start_from": config.alignment.start_from}
            stages.append(Stage(reference, scored | model, inputs, partial(self.make_references, number)))
            inputs += (reference,)
        trained = {"alignment": config.alignment.deciding(), "task_weights": self.config.task.weights}
        seed = {"seed": config.seed + number - 1} | code_of([config.alignment.loss])
        stages.append(Stage(align, trained | seed | model, inputs, partial(self.make_aligned, number)))
        evaluation = {"samples": config.evaluation.samples}
        stages.append(Stage(evaluate, evaluation, (align, rounds.held_out_in), partial(self.make_evaluation, number)))
        return stages

    def sampling_stages(self, number: int) -> list[Stage]:
        """Candidates, labelled."""
        model, inputs = self.origin(self.rounds.sampler(number))
        # What these choose is what a stage depends on.
        sampling = self.config.sampling.model_dump(mode="json", exclude={"sample_from", "only_given", "candidates_file"})
        sampled = {"sampling": sampling, "seed": self.config.seed + number - 1} | model
        if number > 1 and self.config.sampling.only_given:
            sampled["asked"] = content_of(self.rounds.asked_in(in_round("sample", number)))

        def stage(name: str, settings: dict[str, Any], *inputs: str) -> Stage:
            settings = settings | {"labelling": self.labelling, "given": content_of(self.rounds.given_in(name))}
            make, renew = partial(self.make_candidates, name, number), partial(self.relabel, name)
            return Stage(name, settings, ("questions", *inputs), make, renew, renewable=("labelling",))

        if number > 1 or self.rounds.samples_for_training:
            return [stage(in_round("sample", number), sampled, *inputs)]
        return [stage("sample", {}), stage("held-out", sampled, *inputs)]

    def origin(self, model: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """How a stage depends on a model: by its settings, or by its input."""
        return (self.base, ()) if model == "base" else ({}, (model,))

    @cached_property
    def labelling(self) -> dict[str, Any]:
        labelling = self.config.labelling
        return labelling.model_dump(mode="json") | code_of([labelling.reward, *own_checks(self.tasks)])

    @cached_property
    def base(self) -> dict[str, Any]:
        return {"model": {"fingerprint": model_fingerprint(self.config.model.path), "precision": self.config.model.precision}}

    def model_of(self, stage: str) -> Place:
        return absolute(self.config.model.path) if stage == "base" else self.folder / stage / "model"

    def connect_for(self, demand: Demand) -> None:
        """Raises NotEnoughResourcesError where the cluster can never hold it; waits where it is full, or has to grow first."""
        connect(self.logs)
        check_nodes(self.demands)
        wait_for_room(demand, self.console)

    @property
    def demands(self) -> list[Demand]:
        """Of all stages that are still to come. Where all candidates are given, `sample` only labels them."""
        names = to_come(self.folder, self.stages())
        asking = [name for name in names if name != "sample" or self.rounds.samples_for_training]
        return demands_of(asking, self.config.resources)

    def progress(self, stage: str, total: int, unit: str) -> StageProgress:
        return StageProgress(self.console, stage, total, unit, self.listeners)

    def make_questions(self, out: Place) -> dict[str, int]:
        write_parquet(out / "questions.parquet", Question, self.questions)
        train = self.rounds.train
        return {
            "train": len(train),
            "with reference": sum(question.reference is not None for question in train),
            "held out": len(self.rounds.held_out),
        } | self.left_out

    def make_vft(self, out: Place) -> dict[str, int]:
        return self.train("vft", self.config.vft, self.config.model.path, self.folder / "questions", out)

    def make_aligned(self, number: int, out: Place) -> dict[str, int]:
        references = self.folder / in_round("reference", number) / "scores"
        preflight.check_candidates(self.groups_to_train(number), self.config.alignment, references=True)
        return self.train(
            in_round("align", number),
            self.config.alignment,
            self.model_of(self.rounds.start(number)),
            self.groups_to_train(number),
            out,
            seed=self.config.seed + number - 1,
            references=references if self.rounds.need_reference_pass(number) else None,
        )

    def train(
        self,
        stage: str,
        training: TrainingConfig,
        start: Place,
        records: Place,
        out: Place,
        seed: int | None = None,
        references: Place | None = None,
    ) -> dict[str, int]:
        if not (out / TOLD).exists():  # killed between the end of a training and that of its stage, a run has it already
            self.connect_for(training_demand(self.config.resources))
            with self.progress(stage, 0, "steps") as counter:
                run_training(self.training_job(training, start, records, out, counter, seed, references))
        remove(out / "checkpoints")
        counts: dict[str, int] = json.loads((out / TOLD).read_text())["counts"]
        return counts

    def groups_to_train(self, number: int) -> Place:
        return self.folder / in_round("sample", number) / "groups"

    def make_references(self, number: int, out: Place) -> dict[str, int]:
        records = self.groups_to_train(number)
        preflight.check_candidates(records, self.config.alignment, references=False)
        self.connect_for(training_demand(self.config.resources))
        remove(out / "scores")  # of other ranks, perhaps
        scores = make_folder(out / "scores")
        with self.progress(in_round("reference", number), 0, "passes") as counter:
            start = self.model_of(self.rounds.start(number))
            score_references(self.training_job(self.config.alignment, start, records, scores, counter))
        remove(scores / "checkpoints")
        scored = read_parquet(scores, ReferenceScores)
        return {"groups": len(scored), "candidates": sum(value is not None for s in scored for value in s.log_likelihoods)}

    def training_job(
        self,
        training: TrainingConfig,
        start: Place,
        records: Place,
        out: Place,
        counter: ActorHandle[Any] | None,
        seed: int | None = None,
        references: Place | None = None,
    ) -> TrainingJob:
        return TrainingJob(
            model=ModelConfig(path=absolute(start), precision=self.config.model.precision),
            training=training,
            resources=self.config.resources,
            seed=self.config.seed if seed is None else seed,
            task_weights=self.config.task.weights,
            records=records,
            out=out,
            counter=counter,
            references=references,
        )

    def make_candidates(self, stage: str, number: int, out: Place) -> dict[str, int]:
        """Those that are given are labelled, the others sampled."""
        rounds = self.rounds
        asked = {question.question_id for question in rounds.asked_in(stage)}
        to_sample = asked - {group.question.question_id for group in rounds.given_in(stage)}
        if to_sample:
            self.connect_for(sampling_demand(self.config.resources))
        else:
            connect(self.logs)
        left = Leftovers(out, self.labelling)
        settings = self.engine_settings(rounds.sampler(number) if to_sample else "base", number)
        with self.progress(stage, len(asked), "questions") as counter:
            counter.add.remote(left.labelled)
            left.label(settings, counter, but=self.label_given(stage, out, settings, counter))
            if to_sample:
                others = frozenset(question.question_id for question in self.questions) - to_sample
                sample_candidates(self.folder / "questions", left.groups, settings, counter, others)
        return self.count_candidates(stage, left.groups, left.labelled + left.to_label)

    def label_given(self, stage: str, out: Place, settings: EngineSettings, counter: ActorHandle[Any]) -> frozenset[str]:
        """The candidates from the user's file, labelled; the ids of their questions."""
        given = self.rounds.given_in(stage)
        if given:
            write_parquet(out / "given.parquet", CandidateGroup, given)
            label_candidates(out / "given.parquet", out / "groups", settings, counter)
        return frozenset(group.question.question_id for group in given)

    def relabel(self, stage: str, out: Place) -> dict[str, int]:
        connect(self.logs)
        left, settings, asked = Leftovers(out, self.labelling), self.engine_settings("base"), len(self.rounds.asked_in(stage))
        with self.progress(stage, asked, "questions labelled") as counter:
            counter.add.remote(left.labelled)
            # Those from the file anew: a function of the user's may have taken the place of the rewards that they came with.
            given = self.label_given(stage, out, settings, counter)
            left.label(settings, counter, but=given)
            label_candidates(self.folder / stage / "groups", left.groups, settings, counter, but=given)
        return self.count_candidates(stage, left.groups, earlier=asked)

    def count_candidates(self, stage: str, groups: Place, earlier: int) -> dict[str, int]:
        asked = [question.question_id for question in self.rounds.asked_in(stage)]
        counts = count_labels(answered(groups, CandidateGroup, asked, lambda group: group.question.question_id))
        return counts | ({EARLIER: earlier} if earlier else {})

    def make_sampler_evaluation(self, out: Place) -> dict[str, int]:
        groups = iter_parquet(self.folder / self.rounds.held_out_in / "groups", CandidateGroup)
        records = [evaluation_of_sampler(group) for group in groups if group.question.split != "train"]
        evaluations = make_folder(out / "evaluations")
        write_parquet(evaluations / "evaluations.parquet", Evaluation, records)
        return self.count_verdicts(evaluations)

    def make_evaluation(self, number: int, out: Place) -> dict[str, int]:
        self.connect_for(sampling_demand(self.config.resources))
        evaluations, settings = make_folder(out / "evaluations"), self.engine_settings(in_round("align", number))
        earlier = len(committed(evaluations))
        with self.progress(in_round("evaluate-aft", number), len(self.rounds.held_out), "questions") as counter:
            counter.add.remote(earlier)
            groups, sampled = self.folder / self.rounds.held_out_in / "groups", self.config.evaluation.samples
            evaluate_model(groups, evaluations, settings, counter, sampled, len(self.rounds.held_out))
        return self.count_verdicts(evaluations) | ({EARLIER: earlier} if earlier else {})

    def count_verdicts(self, evaluations: Place) -> dict[str, int]:
        held_out = [question.question_id for question in self.rounds.held_out]
        return count_verdicts(answered(evaluations, Evaluation, held_out, lambda record: record.question_id))

    @property
    def model(self) -> Place:
        """What the run is for, when it has ended."""
        return self.folder / in_round("align", self.config.rounds) / "model"

    def engine_settings(self, stage: str, number: int = 1) -> EngineSettings:
        path = self.model_of(stage)
        return EngineSettings(
            model=ModelConfig(path=path, precision=self.config.model.precision),
            model_fingerprint=model_fingerprint(path),
            tasks=self.tasks,
            sampling=self.config.sampling,
            labelling=self.config.labelling,
            resources=self.config.resources,
            seed=self.config.seed + number - 1,
        )
