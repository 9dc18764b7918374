"""The main part of a closing sentence: what it concludes, without asides, breakdowns and what is said again in other words."""

import re
from collections.abc import Callable

from aft_ray.tasks.sentences import CONCLUSION

PARENTHESES = re.compile(r"\s*(?<![\\\w])\((?![A-J]\))[^()$]*\)")
# What follows one of these explains, breaks down, converts or compares what was stated before it.
ASIDE = re.compile(
    r"(?<=[^\s:])[:;]\s|\s[\u2014\u2013-]{1,2}\s+(?=[a-z(])|,?\s+(?:i\.e\.|e\.g\.|because|since|given|where|assuming|whereas|while|(?:even\s+)?though|although|until|when|once)"
    r"(?=[\s,])|,\s+(?:(?:which|and\s+this|this)\s+(?:is|are|was|works|comes|equals|means|would|matches|agrees|gives\s+(?:us\s+)?the\s+same)"
    r"|(?:\d+|some|half|most|\w+)\s+of\s+(?:whom|which|them)|meaning|not|instead|rather|compared|just\s+as|as\s+\w+|the\s+same|or\s+about|with|so\s+that)\b",
    re.IGNORECASE,
)
BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
# What is offered, supposed or only thought of is not stated.
HEDGED = re.compile(
    r"^\W*let\b(?!\s+me)|\bwould\b.*\bif\b|\b(?:either|maybe|perhaps|possibly|could|might|may\s+be|at\s+least|at\s+most|more\s+than\s+one|unclear|unknown|guess"
    r"|(?:first|initially)\s+thought|no\s+more\s+than|(?<!add\s)(?<!adds\s)up\s+to|suppose|assume)\b|\bor\b(?=\s+\$?\d)",
    re.IGNORECASE,
)

# Such an aside adds up what stands before it.
IN_TOTAL = re.compile(r"\b(?:in\s+(?:total|all)|altogether)\b", re.IGNORECASE)

States = Callable[[str], bool]


def main_clause(sentence: str, states: States) -> str:
    """The clause that concludes, up to the first aside that follows a statement. `states`: whether words hold what is sought."""
    sentence = PARENTHESES.sub("", sentence)
    for cue in reversed(list(CONCLUSION.finditer(sentence))):
        if states(sentence[cue.end() :]):
            sentence = sentence[cue.end() :]
            break
    for aside in ASIDE.finditer(sentence):
        before, behind = sentence[: aside.start()], sentence[aside.end() :]
        if states(before) and ("=" in before or "=" not in behind) and not IN_TOTAL.search(behind):
            return before
    return sentence


def emphasised(sentence: str) -> list[str]:
    """What stands in bold."""
    return [one or other for one, other in BOLD.findall(sentence)]
