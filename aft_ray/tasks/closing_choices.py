"""The option that a closing paragraph states, where nothing marks it.

The last sentence says which one fits: by letter (`so it's D`), by text where it ends with it (`that would be a drug store`), by
the words or the number that no other option has. What is in bold outweighs. Options that are ruled out, tempting or only
compared with do not count.
"""

import functools
import re

from aft_ray.tasks.closing import emphasised, main_clause
from aft_ray.tasks.closing_numbers import closing_number, holds_number, number_of_sentence
from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import NUMBER, in_digits
from aft_ray.tasks.options import (
    LETTERS,
    REFUSED,
    SIGNS,
    agreed,
    as_written,
    is_option,
    letters_of,
    number_of,
    option_of_number,
)
from aft_ray.tasks.sentences import CONCLUSION, PARAGRAPHS, PIECES, UNREADABLE

Choices = tuple[str, ...]

FITS = (
    r"(?:(?:is|are|would\s+be|must\s+be|has\s+to\s+be|seems|looks|remains)\s+(?:\w+\s+){0,3}?(?:correct|right|best|answer|better|closest|fit|choice|one|match)\b"
    r"|(?:best\s+|better\s+|also\s+)?(?:fits|matches|works|agrees|satisfies|remains|wins|(?:comes|stands)\s+out)\b|is\s+left\b|is\s+(?:the\s+most|more|where|what|how)\b|it\s+is\b|makes\s+(?:the\s+most\s+)?sense\b)"
)
SAYS = (
    r"(?:\b(?:[Ii]t'?s|[Ii]s|[Tt]hat's|be|choose|chose|pick|select|go\s+(?:with|for)|say|leaves?|leaving|[Oo]nly|to(?:wards?)?"
    r"|[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore)|[:\u2192\u21d2]|[=-]>)[,:]?\s+"
    r"(?:(?:definitely|probably|clearly|certainly|likely|most\s+likely|just|only|the|an?|option|choice|answer|alternative|letter)\s+)*"
)
LETTER = re.compile(r"(?<![A-Za-z0-9'\u2019^_\\])[(\[]?(?P<letter>[A-J])(?![A-Za-z0-9'\u2019^_])(?!\s*[=+*/^])[)\]]?")
BEFORE_LETTER = re.compile(rf"{SAYS}\W*$")
NOUN_BEFORE = re.compile(r"\b(?:option|choice|answer|alternative)\s+\W*$", re.IGNORECASE)
BEHIND_LETTER = re.compile(r"[*_]*(?:[.,;:)!\"]|\s*$|\s+(?:because|since|as|and\s+not|rather)\b|\s+[(\u2014\u2013\"])")
FITS_BEHIND = re.compile(rf"[*_\"]*\s+{FITS}")
RIGHT = re.compile(rf"(?:[Oo]ption\s+)?\(?(?P<letter>[A-J])\)?\s+{FITS}\W*")
# The one that differs from all others: `Only (B) does`, `only statement B is not`.
ODD_ONE = re.compile(
    r"(?<!not )\b[Oo]nly\s+(?:(?:option|statement|choice|answer|method)\s+)?\(?(?P<letter>[A-J])\)?\s+(?!and\b|or\b)[a-z]+"
)
# Before a name: what it is compared with, or is not.
COMPARED = re.compile(
    r"\b(?:than|not|over|instead\s+of|except|unlike|besides|whereas|while|neither|nor|out|eliminates?)\s+(?:option\s+)?\W*$",
    re.IGNORECASE,
)
# Before a letter: another.
LISTED = re.compile(r"(?<![A-Za-z])[A-J][)\]]?\s*(?:,|&|/|\band\b|\bor\b)\s*(?:option\s+)?\W*$")
# At the beginning: several letters.
SEVERAL = re.compile(r"\(?[A-J]\)?\s*(?:,|&|/|and\b|or\b)\s*(?:(?:and|or)\s+)?\(?[A-J]\b")
CLAUSES = re.compile(r"[,;]\s+(?=[a-z])|\s+(?=but\b|while\b|whereas\b|although\b)|\s+[\u2014\u2013]\s+")
TAKEN_BACK = re.compile(r"\s*(?:but|however|although|though|yet)\b", re.IGNORECASE)
# What is thought of, liked at first, or one of several, is not stated.
HEDGED = re.compile(
    r"\b(?:tempting|(?:also|seems?|sounds?|looks?)\s+plausible|common\s+(?:mistake|error|misconception)|at\s+first|might|could|maybe|perhaps|possibly|either(?!\W*$)|both\s+(?:of|options|answers|choices|\(?[A-J]\b)|all\s+of\s+(?:them|these)|also|first\s+thought"
    r"|consider|as\s+for|suppose|assume|if|(?:option|choice)\s+\(?[A-J]\)?\s+(?:says|reads|states|describes|refers|mentions|suggests))\b|\bor\b(?=\s+(?:option\s+)?\(?[A-J]\b)",
    re.IGNORECASE,
)
ANOTHER_BEFORE = re.compile(r"(?:,|\band|\bor)\s+(?:(?:the|an?|in|at|to)\s+)*\W*$", re.IGNORECASE)
VERB_BEFORE = re.compile(
    r"(?:\b(?:is|it's|are|be|was|were|would|called|namely|means?)\b|:)\W*(?:(?:an?|the|most\s+likely|probably|to|in|at|about)\s+)*\W*$",
    re.IGNORECASE,
)
# Behind an option that a sentence ends with.
ADVERB = r"(?:\s+(?:next|first|then|too|there|now|instead|anyway|afterwards))?"
# A sentence that only says what the others are not, and takes nothing back.
OBJECTS = re.compile(r"\W*(?:but|however|yet|actually|wait|no|that|this|it|which|so)\b", re.IGNORECASE)
# Of two statements, where the options are `True, True` and the like.
BOTH = re.compile(
    r"\W*(?:(?:so|thus|hence|therefore),?\s+)?both(?:\s+of\s+them)?(?:\s+(?:statements|claims|sentences))?\s+are\s+(?:therefore\s+|thus\s+)?"
    r"(?P<word>true|false|correct|incorrect|right|wrong)\W*$",
    re.IGNORECASE,
)
# A list of the options, each with its mark.
LETTERED = re.compile(r"[\s*_\u2022-]*(?:Option\s+)?\(?([A-J])[.):]")
TICKS = frozenset(("\u2713", "\u2714", "\u2714\ufe0f", "\u2705", "\u2611", "yes", "yes!", "correct"))
CROSSES = frozenset(("\u2717", "\u2718", "\u2716", "\u00d7", "\u274c", "x", "no", "incorrect", "wrong"))
TICKED_LENGTH = 1500
# An option of these alone is in nearly every sentence.
FUNCTION_WORDS = {"a", "an", "and", "are", "in", "is", "it", "not", "of", "or", "the", "to"}


def closing_option(ending: str, choices: Choices) -> str | None:
    """The letter that the last paragraph states, several as `B|E`; None where it names none, UNREADABLE where several."""
    paragraph = PARAGRAPHS.split(ending.strip())[-1]
    sentences = [sentence for sentence in PIECES.split(paragraph) if re.search(r"\w", sentence)]
    if not sentences or sentences[-1].rstrip(" *_\"'").endswith("?"):
        return None
    by_letter = _by_letter(sentences[-1], choices)
    if by_letter is None:
        by_letter = _of_both(sentences[-1], choices)
    if by_letter is not None:
        return by_letter
    for sentence in reversed(sentences):
        if (bold := _in_bold(sentence, choices)) is not None:
            return bold
    if not choices:
        return None
    found = _by_wording(_plain(sentences[-1]), choices)
    if found is None and len(sentences) > 1 and _rejects(sentences[-1]) and CONCLUSION.search(sentences[-2]):
        return _by_wording(_plain(sentences[-2]), choices)
    return found or (None if HEDGED.search(_plain(sentences[-1])) else _by_number(ending, choices))


def ticked_option(text: str, choices: Choices) -> str | None:
    """The only option with a tick, where the text ends with the list of all: `(A) 11 \u2717`, `(B) 12 \u2713`."""
    lines = PARAGRAPHS.split(text[-TICKED_LENGTH:].strip())[-1].splitlines()
    items = [
        (item[1], line.rstrip(" .!*_)").rpartition(" ")[2].strip("(*").lower())
        for line in lines
        if (item := LETTERED.match(line))
    ]
    ticked = [letter for letter, mark in items if mark in TICKS]
    crossed = [letter for letter, mark in items if mark in CROSSES]
    told = len(ticked) == 1 and sorted(ticked + crossed) == list(LETTERS[: len(choices)])
    return ticked[0] if told else None


def _of_both(sentence: str, choices: Choices) -> str | None:
    """`True, True` where the sentence says that both statements are true."""
    both = BOTH.match(sentence)
    if both is None:
        return None
    word = "True" if both["word"].lower() in ("true", "correct", "right") else "False"
    return letters_of(f"{word}, {word}", choices)


def _plain(sentence: str) -> str:
    return to_plain(sentence).replace("**", "").replace("$", " $").translate(SIGNS)


def _rejects(sentence: str) -> bool:
    """Whether the sentence says of other options that they do not fit."""
    return REFUSED.search(sentence) is not None and not OBJECTS.match(sentence) and not HEDGED.search(sentence)


def opening_option(start: str, choices: Choices) -> str | None:
    """The option that the first sentence is, and nothing else: `B.`, `(B) 600`, `B is correct.`"""
    sentence = to_plain(PIECES.split(start)[0]).replace("**", "").strip()
    if SEVERAL.match(sentence):
        return None
    if len(sentence) > 1 and (found := _by_all(sentence.strip(" .:()"), choices, by_number=False)):
        return found if sentence.strip(" .:()")[0] == found[0] else None
    right = RIGHT.fullmatch(sentence)
    return right["letter"] if right is not None and is_option(right["letter"], choices) else None


def _by_letter(sentence: str, choices: Choices) -> str | None:
    """The letter in the last clause that names one as right."""
    odd = ODD_ONE.search(sentence)
    if odd is not None and is_option(odd["letter"], choices) and not HEDGED.search(sentence):
        return odd["letter"]
    behind = ""
    for clause in reversed(CLAUSES.split(to_plain(sentence).replace("**", ""))):
        named = [letter for letter in LETTER.finditer(clause) if _is_named(clause, letter, choices)]
        if len({letter["letter"] for letter in named}) > 1 or any([LISTED.search(clause[: one.start()]) for one in named]):
            return UNREADABLE
        if named and not REFUSED.search(clause) and not HEDGED.search(clause) and not _is_taken_back(behind):
            return agreed(named[-1]["letter"], clause[named[-1].end() :], choices)
        behind = clause
    return None


def _is_taken_back(behind: str) -> bool:
    """Whether the clause that follows says that it is not so, or only seems so."""
    return HEDGED.search(behind) is not None or (TAKEN_BACK.match(behind) is not None and REFUSED.search(behind) is not None)


def _is_named(clause: str, letter: re.Match[str], choices: Choices) -> bool:
    """Whether the letter stands for an option that the clause says to be the one."""
    before, behind = clause[: letter.start()], clause[letter.end() :]
    if not is_option(letter["letter"], choices) or COMPARED.search(before):
        return False
    own_text = letters_of(behind.strip(" .:)"), choices)
    if FITS_BEHIND.match(behind) or own_text == letter["letter"]:
        return True
    if BEFORE_LETTER.search(before):
        return "(" in letter.group() or BEHIND_LETTER.match(behind) is not None or own_text is not None
    if not behind.strip(" .!)*_\"'") and _at_its_end(before, choices) == letter["letter"]:
        return True
    bracketed = letter.group() != letter["letter"] or NOUN_BEFORE.search(before) is not None
    return bracketed and not behind.strip(" .!)*_\"'")


def _in_bold(sentence: str, choices: Choices) -> str | None:
    """The only option that stands in bold in the sentence: by letter, text or value."""
    bold = [to_plain(words).strip(" .,:;()") for words in emphasised(sentence)]
    found = {option for words in bold if (option := _by_all(words, choices))}
    if len(found) != 1 or REFUSED.search(sentence) or HEDGED.search(sentence):
        return None
    return found.pop()


def _by_all(words: str, choices: Choices, by_number: bool = True) -> str | None:
    """The option that the words are, whole."""
    if len(words) == 1 and words.isupper() and is_option(words, choices):
        return words
    lettered = re.match(r"\(?([A-J])[).:]\s*(.*)", words)
    if lettered is not None and is_option(lettered[1], choices):
        return agreed(lettered[1], lettered[2], choices)
    same = letters_of(words, choices) or _by_own_words(words, choices)
    if same is not None or not by_number or not holds_number(words):
        return same
    number = number_of_sentence(words)
    option = option_of_number(number, words, choices) if number else None
    return option if option and option[0].isalpha() else None


def _by_wording(sentence: str, choices: Choices) -> str | None:
    """The only option whose text the sentence ends with or says to be the one, or whose own words it has."""
    clause = main_clause(sentence, lambda words: _at_its_end(words, choices) is not None)
    if HEDGED.search(clause):
        return None
    found = _at_its_end(clause, choices) or _said_to_be(clause, choices)
    if found is None and (CONCLUSION.search(sentence) or holds_number(clause)):
        found = _by_own_words(clause, choices) or _by_numbers(clause, choices)
    if found is None or not REFUSED.search(clause):
        return found
    return found if REFUSED.search(choices[LETTERS.index(found[0])]) else None


def _by_numbers(clause: str, choices: Choices) -> str | None:
    """The option of several numbers that are those of the clause: `62, 34` where it has `62 apples and 34 pears`."""
    said = _numbers(clause)
    same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if len(said) > 1 and _numbers(choice) == said]
    return same[0] if len(same) == 1 else None


def _numbers(words: str) -> list[str | None]:
    return [in_digits(number) for number in NUMBER.finditer(words)]


def _at_its_end(clause: str, choices: Choices) -> str | None:
    """The longest of the options that the clause ends with, where it is neither one of several nor only compared with."""
    held = [
        (place, choice) for choice in choices if (place := re.search(rf"{_pattern(choice)}{ADVERB}\W*$", clause, re.IGNORECASE))
    ]
    if not held:
        return None
    place, choice = max(held, key=lambda one: len(one[1]))
    before = clause[: place.start()]
    linked = ANOTHER_BEFORE.search(before) and any([re.search(_pattern(other), before, re.IGNORECASE) for other in choices])
    return None if linked or COMPARED.search(before) else letters_of(choice, choices)


def _said_to_be(clause: str, choices: Choices) -> str | None:
    """`A space station is the best fit`; `what one sees is a bloody mess after that`."""
    named = [choice for choice in choices if re.search(_pattern(choice), clause, re.IGNORECASE)]
    if len(named) != 1 or number_of(named[0]) is not None:
        return None
    place = re.search(_pattern(named[0]), clause, re.IGNORECASE)
    assert place is not None
    fits = re.match(rf"\W*{FITS}", clause[place.end() :], re.IGNORECASE) or VERB_BEFORE.search(clause[: place.start()])
    return letters_of(named[0], choices) if fits else None


@functools.lru_cache(maxsize=4096)
def _pattern(choice: str) -> str:
    """The option's signs and words, however they are spaced; as a whole, and no part of a longer expression."""
    if set(re.findall(r"\w+", choice.casefold())) <= FUNCTION_WORDS:
        return "(?!)"
    # `the hotel` is said for `at hotel`.
    bare = re.sub(r"^(?:at|in|on)\s+(?:an?\s+|the\s+)?(?=\w)", "", as_written(choice), flags=re.IGNORECASE)
    tokens = [re.escape(token) for token in re.findall(r"\w+|[^\w\s]", bare)]
    return r"(?<![\w/^*+.,-])(?<![/^*+-] )" + r"\s*".join(tokens) + r"(?!\w)(?!\s?[/^*+])"


def _by_own_words(clause: str, choices: Choices) -> str | None:
    """The only option whose own words, those that not all options have, all stand in the clause, where no other's do."""
    words = _words(clause)
    held = [(_held(own, words), len(own), place) for place, own in enumerate(_own_words(choices))]
    whole = [place for count, size, place in held if size > 1 and count == size and number_of(choices[place]) is None]
    if len(whole) != 1 or any([_unique(choices, place) & words for place in range(len(choices)) if place != whole[0]]):
        return None
    return LETTERS[whole[0]]


def _held(own: frozenset[str], words: set[str]) -> int:
    return sum(any(_same_stem(one, other) for other in words) for one in own)


def _same_stem(one: str, other: str) -> bool:
    """`lose` and `loses`."""
    return one == other or (
        min(len(one), len(other)) >= 4 and abs(len(one) - len(other)) <= 2 and (one.startswith(other) or other.startswith(one))
    )


def _unique(choices: Choices, place: int) -> set[str]:
    own = _own_words(choices)
    return set(own[place]).difference(*[other for at, other in enumerate(own) if at != place])


@functools.lru_cache(maxsize=4096)
def _own_words(choices: Choices) -> tuple[frozenset[str], ...]:
    words = [_words(choice) for choice in choices]
    common = set.intersection(*words) if words else set()
    return tuple(frozenset(one - common) for one in words)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*|\w+", as_written(text).casefold())) - {"the", "a", "an", "will", "to", "of"}


def _by_number(ending: str, choices: Choices) -> str | None:
    """The option of the number that the paragraph states; the number itself where a conclusion states that of no option."""
    stated = closing_number(ending)
    sentence = PIECES.split(ending)[-1]
    option = option_of_number(stated, sentence, choices) if stated else None
    return option if option and (option[0].isalpha() or CONCLUSION.search(sentence)) else None
