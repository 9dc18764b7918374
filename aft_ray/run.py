"""The run: the stages in order, each skipped when its result is there and still valid.

questions -> vft -> sample -> align, then evaluate-vft and evaluate-aft on the held-out groups of `sample`; the VFT model's own
evaluation comes out of the sampling. Before align, reference where the loss needs log-likelihoods that the sampler has not given.
A further round is sample-2 -> align-2 -> evaluate-aft-2, and so on, each from the model of the round before.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle
from rich.console import Console
from transformers import AutoTokenizer

from aft_ray.capacity import Demand, check_this_machine, sampling_demand, training_demand, wait_for_room
from aft_ray.cluster import connect
from aft_ray.config import ModelConfig, RunConfig, TrainingConfig
from aft_ray.data_check import Limits, check_questions, print_report
from aft_ray.evaluation.measures import evaluation_of_sampler
from aft_ray.evaluation.summary import summarise
from aft_ray.labelling import count_labels
from aft_ray.losses import loss_function, needs_reference
from aft_ray.metrics import Gauges
from aft_ray.places import Place, absolute, fetched, make_folder, remove, write_atomically
from aft_ray.preflight import check_boundary, check_context, check_loss, check_model, check_writable
from aft_ray.progress import Listener, StageProgress
from aft_ray.report.page import write_or_tell
from aft_ray.sampling.commits import committed
from aft_ray.sampling.dead_letters import answered
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.given import read_given
from aft_ray.sampling.stream import evaluate_model, label_candidates, sample_candidates
from aft_ray.stages import Stage, ensure, fingerprint_of_last
from aft_ray.storage import alone_in, content_of, model_fingerprint
from aft_ray.tasks import BadInputError, make_tasks
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


class Run:
    """A configuration and its directory. The same configuration run again goes on where it stopped.

    Before anything starts, raises BadInputError where the questions or the model are not as they must be, and
    NotEnoughResourcesError where this machine cannot hold what is asked for.
    """

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.config = config
        self.console = console
        check_model(config.model.path)
        model = fetched(config.model.path, weights=False)
        check_context(config)
        check_loss(config.alignment)
        check_this_machine(config.resources)
        check_installed(config.tracking)
        self.tasks = make_tasks(config.task)
        tokenizer = AutoTokenizer.from_pretrained(model)
        found, reports = check_questions(config.task, config.seed, tokenizer, config.prompt, config.labelling)
        self.questions, self.left_out = found.questions, found.counts
        if not found.train or not found.held_out:
            raise BadInputError([f"{len(found.train)} training and {len(found.held_out)} held-out questions: a run needs both"])
        self.given = read_given(config.sampling.candidates_file, found.questions, tokenizer, config.prompt.chat)
        check_boundary(config.alignment, self.questions, self.given)
        limits = Limits(config.sampling.max_prompt_tokens, config.vft.max_tokens)
        print_report(reports, limits, found.counts, console)
        self.folder = absolute(config.runs_dir / config.name)
        check_writable(self.folder)
        self.logs = self.folder / "logs" if isinstance(self.folder, Path) else Path("logs", config.name).absolute()
        self.listeners: list[Listener] = [Gauges(config.name)]

    def execute(self) -> dict[str, Any]:
        """All stages, then the summary, which is written to summary.json and returned, and report.html."""
        with alone_in(self.folder):
            stages = self.stages()
            local = self.folder if isinstance(self.folder, Path) else self.logs
            with Tracking(self.config, self.folder, local, fingerprint_of_last(stages), self.console) as tracking:
                self.listeners.append(tracking)
                return self.execute_stages(stages, tracking)

    def execute_stages(self, stages: list[Stage], tracking: Tracking) -> dict[str, Any]:
        write_atomically(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        manifests: dict[str, StageManifest] = {}
        rows = []
        for stage in stages:
            manifest, skipped = ensure(self.folder, stage, manifests, self.console)
            manifests[stage.name] = manifest
            tracking.log_training(self.folder / stage.name)
            rows.append(
                {
                    "name": stage.name,
                    "seconds": 0.0 if skipped else manifest.seconds,
                    "skipped": skipped,
                    "counts": manifest.counts,
                }
            )
        summary = summarise(
            self.config,
            trained={question.task for question in self.questions if question.split == "train"},
            evaluations={
                name.removeprefix("evaluate-"): read_parquet(self.folder / name / "evaluations", Evaluation)
                for name in manifests
                if name.startswith("evaluate-")
            },
            stages=rows,
        )
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        tracking.log_summary(summary)
        write_or_tell(self.folder, self.console)
        return summary

    def stages(self) -> list[Stage]:
        config = self.config
        # A weight says how often training sees a question; the questions are the same.
        task = config.task.model_dump(mode="json", exclude={"weight": True, "parts": {"__all__": {"weight"}}})
        base = {"fingerprint": model_fingerprint(config.model.path), "precision": config.model.precision}
        questions = {"task": task, "prompt": config.prompt.model_dump(mode="json"), "content": content_of(self.questions)}
        vft = {"vft": config.vft.model_dump(mode="json"), "model": base, "task_weights": self.task_weights()}
        seed = {"seed": config.seed}
        first, *further = [self.round_stages(number) for number in range(1, config.rounds + 1)]
        return [
            Stage("questions", questions | seed, (), self.make_questions),
            Stage("vft", vft | seed, ("questions",), self.make_vft),
            *first[:-1],
            Stage("evaluate-vft", {}, ("sample",), self.make_sampler_evaluation),
            first[-1],
            *(stage for stages in further for stage in stages),
        ]

    def round_stages(self, number: int) -> list[Stage]:
        """Sampling from the model of the round before (in the first one, VFT's), alignment, evaluation."""
        config, sampler = self.config, self.sampler(number)
        sample, reference, align, evaluate = (in_round(name, number) for name in ("sample", "reference", "align", "evaluate-aft"))
        sampling, labelling, alignment = (
            part.model_dump(mode="json") for part in (config.sampling, config.labelling, config.alignment)
        )
        seed = {"seed": config.seed + number - 1}
        candidates = {"sampling": sampling, "labelling": labelling, "given": content_of(self.given if number == 1 else [])}
        make, renew = partial(self.make_candidates, number), partial(self.relabel, number)
        stages = [Stage(sample, candidates | seed, ("questions", sampler), make, renew, renewable=("labelling",))]
        if self.needs_reference_pass(number):
            scored = {"max_tokens": config.alignment.max_tokens, "start_from": config.alignment.start_from}
            stages.append(Stage(reference, scored, (sampler, sample), partial(self.make_references, number)))
        trained = {"alignment": alignment, "task_weights": self.task_weights()}
        inputs = (sampler, *(stage.name for stage in stages))
        stages.append(Stage(align, trained | seed, inputs, partial(self.make_aligned, number)))
        evaluation = {"samples": config.evaluation.samples}
        stages.append(Stage(evaluate, evaluation, (align, "sample"), partial(self.make_evaluation, number)))
        return stages

    def sampler(self, number: int) -> str:
        """The stage whose model is sampled in that round."""
        return "vft" if number == 1 else in_round("align", number - 1)

    def connect_for(self, demand: Demand) -> None:
        """Raises NotEnoughResourcesError where the cluster can never hold it; waits where it is full, or has to grow first."""
        connect(self.logs)
        wait_for_room(demand, self.console)

    def progress(self, stage: str, total: int, unit: str) -> StageProgress:
        return StageProgress(self.console, stage, total, unit, self.listeners)

    def make_questions(self, out: Place) -> dict[str, int]:
        write_parquet(out / "questions.parquet", Question, self.questions)
        train = [question for question in self.questions if question.split == "train"]
        return {
            "train": len(train),
            "with reference": sum(question.reference is not None for question in train),
            "held out": len(self.questions) - len(train),
        } | self.left_out

    def make_vft(self, out: Place) -> dict[str, int]:
        return self.train("vft", self.config.vft, self.config.model.path, self.folder / "questions", out)

    def make_aligned(self, number: int, out: Place) -> dict[str, int]:
        references = self.folder / in_round("reference", number) / "scores"
        return self.train(
            in_round("align", number),
            self.config.alignment,
            self.start_of(number),
            self.folder / in_round("sample", number) / "groups",
            out,
            seed=self.config.seed + number - 1,
            references=references if self.needs_reference_pass(number) else None,
        )

    def needs_reference_pass(self, number: int) -> bool:
        """Whether the loss needs log-likelihoods that the sampler has not given already.

        In fp32 the sampler's equal those of training to rounding. In bf16 they do not: of a chain of 90 tokens by 0.7 nats
        (standard deviation, SmolLM2-135M on a CPU), which a reference must not add to what training changes.
        """
        config = self.config
        from_sampler = config.alignment.start_from == "vft" and config.model.precision == "fp32"
        known = from_sampler and not (self.given and number == 1)
        return needs_reference(loss_function(config.alignment.loss)) and not known

    def start_of(self, number: int) -> Place:
        """The model that alignment starts from in that round."""
        return (
            self.config.model.path if self.config.alignment.start_from == "base" else self.folder / self.sampler(number) / "model"
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

    def make_references(self, number: int, out: Place) -> dict[str, int]:
        self.connect_for(training_demand(self.config.resources))
        remove(out / "scores")  # of other ranks, perhaps
        records, scores = self.folder / in_round("sample", number) / "groups", make_folder(out / "scores")
        with self.progress(in_round("reference", number), 0, "passes") as counter:
            score_references(self.training_job(self.config.alignment, self.start_of(number), records, scores, counter))
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
            task_weights=self.task_weights(),
            records=records,
            out=out,
            counter=counter,
            references=references,
        )

    def make_candidates(self, number: int, out: Place) -> dict[str, int]:
        """In the first round of all questions but those whose candidates are given; then of training questions, anew."""
        self.connect_for(sampling_demand(self.config.resources))
        groups, settings = make_folder(out / "groups"), self.engine_settings(self.sampler(number), number)
        with self.progress(in_round("sample", number), len(self.asked_in(number)), "questions") as counter:
            counter.add.remote(len(committed(groups)))
            given = self.label_given(number, out, settings, counter)
            sample_candidates(self.folder / "questions", groups, settings, counter, given, train_only=number > 1)
        return self.count_candidates(number, groups)

    def label_given(self, number: int, out: Place, settings: EngineSettings, counter: ActorHandle[Any]) -> frozenset[str]:
        """The candidates from the user's file, which are of the first round, labelled; the ids of their questions."""
        given = self.given if number == 1 else []
        if given:
            write_parquet(out / "given.parquet", CandidateGroup, given)
            label_candidates(out / "given.parquet", out / "groups", settings, counter)
        return frozenset(group.question.question_id for group in given)

    def relabel(self, number: int, out: Place) -> dict[str, int]:
        connect(self.logs)
        stage, settings = in_round("sample", number), self.engine_settings(self.sampler(number), number)
        groups = make_folder(out / "groups")
        with self.progress(stage, len(self.asked_in(number)), "questions labelled") as counter:
            # Those from the file anew: a function of the user's may have taken the place of the rewards that they came with.
            given = self.label_given(number, out, settings, counter)
            label_candidates(self.folder / stage / "groups", groups, settings, counter, but=given)
        return self.count_candidates(number, groups)

    def count_candidates(self, number: int, groups: Place) -> dict[str, int]:
        asked = [question.question_id for question in self.asked_in(number)]
        return count_labels(answered(groups, CandidateGroup, asked, lambda group: group.question.question_id))

    def asked_in(self, number: int) -> list[Question]:
        return [question for question in self.questions if number == 1 or question.split == "train"]

    def make_sampler_evaluation(self, out: Place) -> dict[str, int]:
        groups = iter_parquet(self.folder / "sample" / "groups", CandidateGroup)
        records = [evaluation_of_sampler(group) for group in groups if group.question.split != "train"]
        evaluations = make_folder(out / "evaluations")
        write_parquet(evaluations / "evaluations.parquet", Evaluation, records)
        return self.count_verdicts(evaluations)

    def make_evaluation(self, number: int, out: Place) -> dict[str, int]:
        self.connect_for(sampling_demand(self.config.resources))
        evaluations, settings = make_folder(out / "evaluations"), self.engine_settings(in_round("align", number))
        held_out = sum(question.split != "train" for question in self.questions)
        with self.progress(in_round("evaluate-aft", number), held_out, "questions") as counter:
            counter.add.remote(len(committed(evaluations)))
            sampled = self.config.evaluation.samples
            evaluate_model(self.folder / "sample" / "groups", evaluations, settings, counter, sampled)
        return self.count_verdicts(evaluations)

    def count_verdicts(self, evaluations: Place) -> dict[str, int]:
        held_out = [question.question_id for question in self.questions if question.split != "train"]
        records = list(answered(evaluations, Evaluation, held_out, lambda record: record.question_id))
        verdicts = Counter(record.greedy.verdict if record.greedy else "unknown" for record in records)
        return {"questions": len(records)} | {str(verdict): count for verdict, count in sorted(verdicts.items(), key=str)}

    @property
    def model(self) -> Place:
        """What the run is for, when it has ended."""
        return self.folder / in_round("align", self.config.rounds) / "model"

    def task_weights(self) -> dict[str, float]:
        return {single.label: single.weight for single in self.config.task.single}

    def engine_settings(self, stage: str, number: int = 1) -> EngineSettings:
        path = self.folder / stage / "model"
        return EngineSettings(
            model=ModelConfig(path=path, precision=self.config.model.precision),
            model_fingerprint=model_fingerprint(path),
            tasks=self.tasks,
            sampling=self.config.sampling,
            labelling=self.config.labelling,
            resources=self.config.resources,
            seed=self.config.seed + number - 1,
        )


def in_round(stage: str, number: int) -> str:
    return stage if number == 1 else f"{stage}-{number}"
