r"""Options as answers: by letter (`(C)`, `C) 600`, `option C`), by text (`bloody mess`), or by value (`150 meters` for `150 m`).

What is extracted is a letter; several where options read the same (`B|E`); or the number that was stated, where no option has
that value.
"""

import functools
import re
from typing import Any

from aft_ray.tasks.closing_choices import closing_option, opening_option, ticked_option
from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import compare_numbers
from aft_ray.tasks.options import (
    LETTERS,
    REFUSED,
    agreed,
    as_written,
    is_option,
    letters_of,
    numbers_of,
    option_by_text,
    option_by_value,
)
from aft_ray.tasks.own_part import own_part
from aft_ray.tasks.sentences import UNREADABLE, Kind, Statement
from aft_ray.tasks.stated import last_stated
from schemas import Verdict

__all__ = ["LETTERS", "compare_choices", "gold_letter", "listed", "read_choices", "stated_choice"]

NOUNS = ("answer", "option", "choice", "response")
LEAD = re.compile(
    r"""[\s*_:"'`$=\u201c\u2018-]*
        (?:(?:the|it'?s|it|is|be|should|must|so|therefore|thus|then|indeed|actually|but|rather|\w+ly)\b,?\s+)*
        (?:(?:correct|right|best|most\s+likely)\s+)?
        (?:(?:answer|option|choice|alternative|letter)s?\b)? [\s*_:"'`$]* (?:is\s+)? [\s*_$"'`]*""",
    re.VERBOSE | re.IGNORECASE,
)
LETTER = re.compile(r"(?P<open>[(\[{]\s*)?(?P<letter>[A-Za-z])(?![A-Za-z0-9^+/*-]|['\u2019][A-Za-z]|\s*=)(?P<close>\s*[)\]}])?")
# The plain case, much faster: nothing but a letter.
ONLY = re.compile(r"[\s*_$]*\(?([A-J])\)?[\s*_$.]*$")
# A letter with other letters behind it is no choice of one.
ANOTHER = re.compile(
    r"[\s)\].:,;*]*(?:and/or\b|or\b|and\b|as\s+well\s+as\b|plus\b|[&/,;+])\s*(?:and\s+|or\s+)?(?:maybe\s+|possibly\s+|perhaps\s+)?"
    r"(?:option\s+|choice\s+)?[(\[]?(?P<another>[B-HJ](?![A-Za-z'\u2019])|[AI](?=\s*(?:[).,:;\]]|$|or\b|and\b)))"
)
# `The answer is A because ...` names an option, `The answer is A bloody mess` does not.
GOES_ON = re.compile(r"\s+(?!(?:because|since|as|is|which|for|so|due|given|and|the|[(\[-]))[a-z]", re.IGNORECASE)
REFUSED_BEHIND = re.compile(
    r"[\s)\].*]*(?:is|was|would\s+be|can\s+be)\s+(?:\w+ly\s+)?(?:not\b|incorrect|wrong|false|eliminated|ruled\s+out)|[\s)\].:*]*(?:incorrect|wrong|false)\b",
    re.IGNORECASE,
)
IT_IS_NOT = re.compile(r"\b(?:it|this|that|which)(?:\s+is|'s)\s+(?:incorrect|wrong|false|not)\b", re.IGNORECASE)
# `not A but B`, and `B, not A`: what is left says which.
NOT_BUT = re.compile(r"\b(?:not|neither)\b[^.;\n]*?\bbut\b|\bnot\b[^.;,\n]*,(?=\s*(?:it|but|rather))", re.IGNORECASE)
RATHER_THAN = re.compile(r",?\s*\b(?:and\s+not|not|rather\s+than|instead\s+of)\b\s+[^,.;\n]*", re.IGNORECASE)
# Where nothing marks the answer, a last sentence names its option like this.
NAMED = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|ANSWER)\s*:?\s*[(\[]?(?P<named>[A-J])(?![A-Za-z0-9'\u2019])"
    r"|(?<![A-Za-z])[(\[](?P<bracketed>[A-J])[)\]](?!\s*=)"
    r"|\b(?P<subject>[A-J])\s+(?:is|must\s+be)\s+(?:the\s+)?(?:only\s+)?(?:correct|right|answer|best)"
)
LETTER_RIGHT = re.compile(
    r"(?<![A-Za-z'])[(\[]?([A-J])(?![A-Za-z'\u2019])[)\]]?(?:,[^,.\n]{1,60},)?\s+(?:is|must\s+be)\s+(?:the\s+)?(?:only\s+)?(?:one\s+that\s+is\s+)?(?:correct|right|answer|best)"
)
WHOLE = re.compile(r"[\s*_(\[\"'$]*(?P<letter>[A-J])(?:[\s*_)\]\"'$]*$|[*_]*[).:\]](?=\s|$))")
DECORATION = " \t\r\n*_\"'`$#>=\u201c\u201d\u2192\u2705\u2713\u2714-\u2013\u2022"
LINE = re.compile(
    r"(?P<open>[(\[])?(?P<letter>[A-Ja-j])(?![A-Za-z0-9'\u2019])(?P<close>\s*[)\].:,*_]+|\s+[-\u2013]|\s+because\b|\s+|$)\s*(?P<rest>.*)",
    re.DOTALL,
)
LETTERED = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(?=\S)")
SAID_BEFORE = re.compile(
    r"(?:i(?:'d|'ll|\s+would|\s+will)?\s+(?:choose|pick|select|go\s+with)|i\s+(?:think|believe)\s+(?:it'?s|it\s+is)|(?:so\s+)?it(?:'s|\s+is|\s+must\s+be|\s+should\s+be)"
    r"|(?:(?:selected|correct|final|best)\s+)?(?:option|choice|letter|prediction|final|oa|imo|\u2192))\b\s*[:=\u2192-]*\s*",
    re.IGNORECASE,
)


def stated_choice(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The option that the text states as its answer; None where it states none, or several."""
    return last_stated(text, lambda statement: _read(statement, choices), NOUNS) or ticked_option(own_part(text), choices)


def compare_choices(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """By letter. A stated number that no option has is wrong where gold is a number, and cannot be told otherwise.

    Raises ValueError where gold names no option.
    """
    letter = gold_letter(gold, choices)
    if extracted[0].isalpha():
        return "right" if letter in extracted.split("|") else "wrong"
    place = LETTERS.index(letter)
    known = numbers_of(choices)[place] if place < len(choices) else None
    if known is None:
        return "unknown"
    return compare_numbers(extracted, known[0])


@functools.lru_cache(maxsize=4096)
def gold_letter(gold: str, choices: tuple[str, ...] = ()) -> str:
    """The letter of a gold answer given as letter, as (letter), or as an option's text. Raises ValueError where it is none."""
    letter = gold.strip().strip("()[]. ").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices) or 26]:
        return letter
    same = letters_of(gold, choices)
    if same is None:
        raise ValueError(f"not an option: {gold[:40]!r}")
    return same[0]


def read_choices(found: Any) -> tuple[str, ...]:
    """Options as files hold them: texts, with or without their letters (`A)50`, `(A) 50`), [letter, text] pairs, {letter: text},
    or {"label": [...], "text": [...]}. Raises ValueError where it is none of these."""
    if isinstance(found, dict):
        found = found["text"] if isinstance(found.get("text"), list) else list(found.values())
    if isinstance(found, list) and all(isinstance(choice, list | tuple) and len(choice) == 2 for choice in found):
        found = [choice[1] for choice in found]
    if (
        not isinstance(found, list)
        or not 2 <= len(found) <= len(LETTERS)
        or not all(isinstance(c, str) and c.strip() for c in found)
    ):
        raise ValueError(f"expected a list of 2 to {len(LETTERS)} options, found {found!r:.60}")
    lettered = [LETTERED.match(choice) for choice in found]
    if all(match and match[1].upper() == letter for match, letter in zip(lettered, LETTERS, strict=False)):
        found = [choice[match.end() :] if match else choice for choice, match in zip(found, lettered, strict=True)]
    return tuple(choice.strip() for choice in found)


def listed(choices: tuple[str, ...]) -> str:
    """The options as a question shows them, one a line."""
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _read(statement: Statement, choices: tuple[str, ...]) -> str | None:
    """The letter that the words state, several as `B|E` or the number of no option; None, UNREADABLE as in `last_stated`."""
    only = ONLY.match(statement.words)
    if only is not None and is_option(only[1], choices):
        return only[1]
    words = to_plain(statement.words).replace("**", "").strip()
    if statement.kind == "opening":
        return opening_option(statement.words, choices)
    if statement.kind == "closing":
        return closing_option(statement.words, choices)
    if statement.kind == "line":
        return _read_line(words, choices) or option_by_value(Statement(words, "line"), choices) or None
    if statement.kind == "first":
        return _read_line(Statement(words, "first").sentence, choices) or option_by_value(Statement(words, "first"), choices)
    if statement.kind == "conclusion":
        # The number of no option may stand beside the option: `I am 70% sure that it is A.`
        found = _read_conclusion(words, choices)
        return found if found and found[0].isalpha() else None
    line, sentence = words.partition("\n")[0], Statement(words, statement.kind).sentence
    whole_line = letters_of(line, choices) or letters_of(sentence, choices)
    if whole_line is not None and (len(as_written(line)) > 1 or line[:1].islower()):
        return whole_line
    meant = _without_denied(words, choices)
    found = _read_marked(meant, statement.kind, choices)
    if found is None and (REFUSED.search(sentence) or meant != words):
        return UNREADABLE
    return found


def _read_marked(words: str, kind: Kind, choices: tuple[str, ...]) -> str | None:
    lead = LEAD.match(words)
    assert lead is not None
    letter = LETTER.match(words, lead.end())
    if letter is not None and is_option(letter["letter"].upper(), choices):
        rest = words[letter.end() :]
        if _another(letter["letter"].upper(), rest, choices) or REFUSED_BEHIND.match(rest):
            return UNREADABLE
        bracketed = letter["close"] is not None
        alone = not rest.strip(" .*_$\"'`)]}\n")
        capital = letter["letter"].isupper()
        if bracketed or alone or (capital and not (letter["letter"] in "AI" and GOES_ON.match(rest))):
            return agreed(letter["letter"].upper(), rest, choices)
        by_text = option_by_text(words, choices)
        return by_text or (letter["letter"] if capital else None)
    sentence = Statement(words, kind).sentence
    by_text, named = option_by_text(sentence, choices), _named(sentence, choices)
    if by_text and named and named not in by_text.split("|"):
        return UNREADABLE
    found = named or by_text
    return option_by_value(Statement(words, kind), choices) if found is None else found


def _read_conclusion(words: str, choices: tuple[str, ...]) -> str | None:
    whole = WHOLE.match(words)
    if whole is not None and is_option(whole["letter"], choices) and not REFUSED_BEHIND.match(words[whole.end() - 1 :]):
        if _another(whole["letter"], words[whole.end() :], choices):
            return UNREADABLE
        return agreed(whole["letter"], words[whole.end() :], choices)
    named, sentence = _named(words, choices), Statement(words, "conclusion")
    if named is None:
        return option_by_text(sentence.sentence, choices) or option_by_value(sentence, choices)
    number = option_by_value(sentence, choices)
    return UNREADABLE if number and number[0].isalpha() and named not in number.split("|") else named


def _read_line(line: str, choices: tuple[str, ...]) -> str | None:
    """The option that a line is, by letter or by text, or that it says is right."""
    line = line.strip(DECORATION)
    said = SAID_BEFORE.match(line)
    line = line if said is None else line[said.end() :].strip(DECORATION)
    same = letters_of(line, choices)
    if same is not None and len(line) > 1:
        return same
    found = LINE.fullmatch(line)
    if found is not None and is_option(found["letter"].upper(), choices):
        letter, rest, close = found["letter"].upper(), found["rest"].strip(DECORATION), found["close"].strip()
        if not rest or letter in (letters_of(rest, choices) or "").split("|"):
            return letter
        others = {other for other in re.findall(r"[(\[]([A-J])[)\]]", rest) if other != letter}
        if (
            found["letter"].isupper()
            and (found["open"] or close)
            and not others
            and not REFUSED_BEHIND.match(found["rest"])
            and not IT_IS_NOT.search(rest)
        ):
            return UNREADABLE if _another(letter, line[1:], choices) else agreed(letter, rest, choices)
    right = {letter for letter in LETTER_RIGHT.findall(line) if is_option(letter, choices)}
    if len(right) == 1:
        return right.pop()
    return None


def _without_denied(words: str, choices: tuple[str, ...]) -> str:
    """The words without the options that they say it is not; untouched where an option itself says not."""
    if not REFUSED.search(words) or any([REFUSED.search(choice) for choice in choices]):
        return words
    meant = NOT_BUT.sub("", words)
    first = RATHER_THAN.search(meant)
    return RATHER_THAN.sub("", meant) if first is not None and meant[: first.start()].strip() else meant


def _another(letter: str, rest: str, choices: tuple[str, ...]) -> bool:
    """Whether other options are stated behind the letter, and the text that belongs to it."""
    behind = rest.lstrip(" ).:*]")
    place = LETTERS.index(letter)
    if place < len(choices):
        if letters_of(behind.partition("\n")[0], choices) == letter:
            return False
        if behind.casefold().startswith(choices[place].casefold()):
            rest = behind[len(choices[place]) :]
    other = ANOTHER.match(rest)
    return other is not None and is_option(other["another"], choices)


def _named(words: str, choices: tuple[str, ...]) -> str | None:
    if REFUSED.search(words):
        return None
    letters = {m["named"] or m["bracketed"] or m["subject"] for m in NAMED.finditer(words)}
    letter = letters.pop() if len(letters) == 1 else None
    return letter if letter is not None and is_option(letter, choices) else None
