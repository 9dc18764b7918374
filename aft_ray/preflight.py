"""What can never work is refused before anything starts: the model, its context, the loss, the boundary, the run's place."""

from collections.abc import Sequence

from transformers import AutoConfig

from aft_ray.config import AlignmentConfig, RunConfig
from aft_ray.losses import bound_loss, has_boundary, loss_function
from aft_ray.places import Place, fetched, make_folder
from aft_ray.planning.shape import ModelShape, empty
from aft_ray.sampling.engine import longest_request
from aft_ray.tasks import BadInputError, QuestionSet
from aft_ray.training.adapters import with_adapters
from aft_ray.training.examples import alignment_examples, within
from schemas import CandidateGroup, Question, iter_parquet


def check_loss(alignment: AlignmentConfig) -> None:
    """Raises BadInputError where there is no such loss, or it has no such option."""
    beta = None if alignment.beta == "auto" else alignment.beta
    try:
        bound_loss(alignment.loss, beta, alignment.options)
    except ValueError as error:
        raise BadInputError([f"alignment: {error}"]) from None


def check_adapters(config: RunConfig) -> None:
    """Raises BadInputError where the model has no such layers as adapters are asked for."""
    for name, training in (("vft", config.vft), ("alignment", config.alignment)):
        if training.lora is not None:
            try:
                with_adapters(empty(AutoConfig.from_pretrained(fetched(config.model.path, weights=False))), training.lora)
            except ValueError as error:
                raise BadInputError([f"{name}.{error}"]) from None


def check_parallel(config: RunConfig) -> None:
    """Raises BadInputError where the model cannot be divided over the GPUs of an engine, which would show after VFT."""
    parallel = config.resources.gpus_per_sampling_actor
    if parallel > 1 and not (shape := ModelShape(config.model.path)).divides_by(parallel):
        raise BadInputError([f"resources.gpus_per_sampling_actor: {shape.undivided(parallel)}"])


def check_model(path: Place) -> None:
    """Raises BadInputError where the directory holds no model that every stage can load."""
    faults = [
        f"{path / name}: not there, expected a Hugging Face model directory"
        for name in ("config.json", "tokenizer.json")
        if not (path / name).is_file()
    ]
    if (path / "adapter_config.json").is_file():
        told = "an adapter, which some loaders add and others do not: merge it into the model, or remove it"
        faults.append(f"{path / 'adapter_config.json'}: {told}")
    if not list(path.glob("*.safetensors")):
        faults.append(f"{path}: no *.safetensors, the only format of weights that is loaded")
    if faults:
        raise BadInputError(faults)
    try:
        AutoConfig.from_pretrained(fetched(path, weights=False), trust_remote_code=False)
    except (ValueError, KeyError) as error:
        told = "transformers knows no such model; code that comes with a model is never run"
        raise BadInputError([f"{path / 'config.json'}: {told} ({str(error)[:200]})"]) from None


def check_writable(folder: Place) -> None:
    """Raises BadInputError where nothing can be written in the run's directory, which is made if it is not there."""
    probe = folder / ".writable"
    try:
        make_folder(folder)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # of a store's library of any kind
        why = getattr(error, "strerror", None) or error
        told = f"cannot be written ({why}): set runs_dir to a place where this user may write"
        raise BadInputError([f"{folder}: {told}"]) from None


def check_splits(found: QuestionSet, train: bool, held_out: bool) -> None:
    """Raises BadInputError where there are no questions of a split that is needed."""
    if (train and not found.train) or (held_out and not found.held_out):
        needs = "both" if train and held_out else "training questions" if train else "held-out questions"
        raise BadInputError([f"{len(found.train)} training and {len(found.held_out)} held-out questions: this needs {needs}"])


def check_lengths(config: RunConfig, *sampled: Sequence[Question]) -> None:
    """Raises BadInputError where all questions of a split have prompts that are too long to be sampled."""
    most = config.sampling.max_prompt_tokens
    for questions in sampled:
        shortest = min((len(question.prompt_ids) for question in questions), default=0)
        if shortest > most:
            told = f"all {len(questions)} {questions[0].split} questions have prompts over sampling.max_prompt_tokens = {most}"
            raise BadInputError([f"{told}, the shortest has {shortest} tokens: allow more, or give fewer examples in them"])


def check_tokens(questions: Sequence[Question], config: RunConfig) -> None:
    """Raises BadInputError where the tokenizer has tokens, used here, for which the model has no embedding."""
    known = int(AutoConfig.from_pretrained(fetched(config.model.path, weights=False)).get_text_config().vocab_size)
    for question in questions:
        if (largest := max((*question.prompt_ids, *question.reference_ids), default=0)) >= known:
            told = f"its tokenizer makes token {largest} of question {question.question_id}, and its vocab_size is {known}"
            raise BadInputError([f"{config.model.path}: {told}: resize the model's embeddings, or take another chat template"])


def check_references(train: Sequence[Question]) -> None:
    """Raises BadInputError where VFT has nothing to train on."""
    if not any(question.reference for question in train):
        told = "no training question has a reference, a chain of thought to learn from by VFT"
        raise BadInputError([f"{told}: give some, or go without VFT by sampling.sample_from and alignment.start_from: base"])


def check_boundary(alignment: AlignmentConfig, samples_for_training: bool) -> None:
    """Raises BadInputError where the boundary is to be found from sampled chains and no training question will be sampled."""
    if alignment.beta == "auto" and has_boundary(loss_function(alignment.loss)) and not samples_for_training:
        told = "auto finds the boundary from sampled candidates, and all of these are given: set a number, as in 0.2"
        raise BadInputError([f"alignment.beta: {told}"])


def check_candidates(groups: Place, alignment: AlignmentConfig, references: bool) -> None:
    """Raises BadInputError where there is nothing to align on, or, without `references`, no candidate to score for that."""
    for group in iter_parquet(groups, CandidateGroup):
        if group.question.split == "train":
            with_positives = not references or alignment.vft_covers == "reference+positives"
            examples = within(alignment_examples([group], with_positives), alignment.max_tokens)
            if any(references or chain.index >= 0 for example in examples for chain in example.chains):
                return
    told = "no training question has both right and wrong chains to compare" + ", and none has a reference" * references
    helps = "more chains (sampling.k), another temperature, easier or harder questions, a better model"
    raise BadInputError(
        [f"nothing to align on in {groups}: {told} (of at most {alignment.max_tokens} tokens). May help: {helps}"]
    )


def check_context(config: RunConfig) -> None:
    """Raises BadInputError where the model cannot see as far as sampling would need it to."""
    context = getattr(
        AutoConfig.from_pretrained(fetched(config.model.path, weights=False)).get_text_config(), "max_position_embeddings", None
    )
    needed = longest_request(config.sampling)
    if context is not None and needed > context:
        told = f"max_prompt_tokens + max_new_tokens + 1 = {needed} tokens, and {config.model.path} sees {context}: ask for less"
        raise BadInputError([f"sampling: {told}"])
