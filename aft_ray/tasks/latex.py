r"""LaTeX as models write it around plain answers: `\text{18 dollars}`, `1{,}234`, `\dfrac{3}{4}`, `\$5`, `90^\circ`."""

import re

SPACING = re.compile(r"\\[!,;:> ]|\\q?quad\b|~")
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!]|,\\!|[\u00a0\u202f\u2009])(?=\d{3})")
WRAPPER = re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf|it|sf)|mbox|operatorname|boxed|fbox|emph)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")
DEGREES = re.compile(r"\^?\s*(?:\{\s*\\circ\s*\}|\\circ\b)|\\degree\b")
DELIMITERS = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[()\[\]]")


def to_plain(text: str) -> str:
    """The same without what only sets type; what means more (roots, powers, letters) stays as it is."""
    text = text.replace("\x0crac", r"\frac")  # what an unescaped \f in JSON or Python has become
    if "\\" not in text and "{" not in text:
        return THOUSANDS.sub("", text) if not text.isascii() else text
    text = THOUSANDS.sub("", text)
    text = DELIMITERS.sub(" ", text)
    while True:
        text, found = WRAPPER.subn(r" \1 ", text)
        if not found:
            break
    text = FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    text = DEGREES.sub("", text)
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\%", "%").replace("\\$", "$")
    return SPACING.sub(" ", text)
