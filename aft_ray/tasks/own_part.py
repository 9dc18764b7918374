"""The part of a text that is about our question: models go on to a question of their own, or to another turn."""

import re
from collections.abc import Iterator

# The model goes on to a question of its own, or to another turn: no part of the answer to ours.
NEXT_QUESTION = re.compile(
    r"\n[\s#>*_]{0,20}(?:(?:next|new|another|follow-up)\s+)?(?:question|problem|example|exercise|q|human|user|instruction|input)"
    r"\s*(?P<number>\d+)?\s*(?:[:.)]|[*_]+\s*:|[*_]+\s*\n)"
    r"|(?P<heading>\n\#+\s*(?:question|problem|example|exercise|instruction|input))\s*\d*[ \t]*\n",
    re.IGNORECASE,
)
NEXT_TURN = re.compile(
    r"<\|[a-z_]+\|>|</s>|<eos>|<(?:start|end)_of_turn>(?:model\b|user\b)?|\[/?INST\]|<\uff5c[a-z\u2581]+\uff5c>", re.IGNORECASE
)
# `#### Step 2` and `#### 2. Costs` are headings of ours, and no answers.
STEP = r"\s*(?:\*\*)?\s*(?:step\b|\d+\.\s+[A-Za-z])"
# After `#### 15` (or `The answer is 15.`, or an option, and an empty line) another story that ends in a question.
NEXT_STORY = re.compile(
    rf"####(?!(?i:{STEP}))[^\n]*\n(?=(?:[^\n]*\n){{0,9}}?[^\n]*\?[ \t]*\n)"
    r"|(?:\banswer is|^\W{0,9}[A-J][.)])[^\n]*\n[ \t]*\n(?=[^\n]*\?[ \t]*\n)"
)


def own_part(text: str) -> str:
    """The text up to where the model goes on to another question or turn."""
    if _has_turns(text):
        text = next((part for part in NEXT_TURN.split(text) if part and not part.isspace()), text)
    if _has_headings(text):
        text = text[: next(_ends(text), len(text))]
    if "?" in text:
        story = NEXT_STORY.search(text)
        text = text if story is None else text[: story.end()]
    return text


# Nearly all texts have none of these, and `in` is much faster than a regular expression.
def _has_turns(t: str) -> bool:
    return "|>" in t or "</s>" in t or "<eos>" in t or "_turn>" in t or "INST]" in t or (not t.isascii() and "\uff5c" in t)


def _has_headings(t: str) -> bool:
    return (
        "uestion" in t or "roblem" in t or "xample" in t or "\nQ" in t or "xercise" in t or "ser:" in t or "uman:" in t
        or "struction" in t or "nput:" in t or "UESTION" in t or "ROBLEM" in t
    )  # fmt: skip


def goes_on_to_another(text: str) -> bool:
    """Whether the text was done with our question before it ended. Tokens around the one turn, or that end it, are no other."""
    if _has_turns(text):
        turns = [part for part in NEXT_TURN.split(text) if part and not part.isspace()]
        if len(turns) > 1:
            return True
        text = "".join(turns)
    return len(own_part(text)) < len(text)


def _ends(text: str) -> Iterator[int]:
    """Where the model goes on to another question.

    One that is numbered, or a heading (`### Problem`), may be a part of ours, where nothing was answered yet.
    """
    for heading in NEXT_QUESTION.finditer(text):
        before, of_ours = text[: heading.start()], heading["number"] is not None or heading["heading"] is not None
        if before.strip() and (not of_ours or re.search("nswer|NSWER|####|oxed", before)):
            yield heading.start()
