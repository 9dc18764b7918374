"""The last stated answer, and its comparison with gold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.tasks.answers import compare_numbers, parse_number, stated_number


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("3 * 6 = 18. The answer is 18.", "18"),
        ("so 18\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("#### 12,345,678", "12345678"),
        ("The answer is $1,234.50.", "1234.50"),
        ("The answer is -$5", "-5"),
        ("The answer is $-5", "-5"),
        ("the answer is: -5", "-5"),
        ("the answer is \N{MINUS SIGN}5", "-5"),
        ("The final answer is **18**.", "18"),
        ("Answer: 3/4", "3/4"),
        ("The answer is 0.5", "0.5"),
        ("The answer is .5", "0.5"),
        ("The answer is 50%.", "50"),
        ("The answer is 18 apples.", "18"),
        (r"The answer is \boxed{18}.", "18"),
        ("The answer is 5. No, the answer is 6.", "6"),
        ("The answer is 18 - I think.", "18"),
    ],
)
def test_stated(text, stated):
    assert stated_number(text) == stated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "So there are 18.",
        "The answer is",
        "The answer is eighteen.",
        "The answer is 5. The answer is unclear.",
        "The answer is 3 * 6 = 18.",
        "The answer is 20 - 2 = 18.",
        "The answer is 12,34",
        "The answer is 1/0",
        "The answer is " + "9" * 1000,
    ],
)
def test_could_not_tell(text):
    assert stated_number(text) is None
    assert compare_numbers(stated_number(text), "18") == "unknown"


@pytest.mark.parametrize(
    ("extracted", "gold", "verdict"),
    [
        ("18", "18", "right"),
        ("18.00", "18", "right"),
        ("1234", "1,234", "right"),
        ("0.75", "3/4", "right"),
        ("19", "18", "wrong"),
        ("-18", "18", "wrong"),
        ("180", "18", "wrong"),
        ("4/3", "3/4", "wrong"),
    ],
)
def test_comparison(extracted, gold, verdict):
    assert compare_numbers(extracted, gold) == verdict


@given(st.integers(-(10**12), 10**12), st.sampled_from(["The answer is {}.", "#### {}", "... #### ${}", "Answer: {} km"]))
def test_any_integer_with_thousands_commas_is_right_and_its_neighbours_are_wrong(number, template):
    extracted = stated_number(template.format(f"{number:,}"))
    assert compare_numbers(extracted, str(number)) == "right"
    assert compare_numbers(extracted, str(number + 1)) == "wrong"
    assert compare_numbers(extracted, str(number * 10 + 1)) == "wrong"


@given(st.text())
def test_no_text_raises(text):
    for candidate in (text, f"The answer is {text}", f"#### {text}"):
        stated = stated_number(candidate)
        assert compare_numbers(stated, "18") in ("right", "wrong", "unknown")


@pytest.mark.parametrize("text", ["", "x", "1 2", "__import__('os')", "1e5", "5 apples"])
def test_gold_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="not a number"):
        parse_number(text)
