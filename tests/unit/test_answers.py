"""What a text states as its answer, and what becomes of it: every kind of answer, in the ways that models write."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.isolated import Isolated
from aft_ray.tasks.answers import CHOICE, EXPRESSION, NUMBER, TEXT, by_function, check_answer
from aft_ray.tasks.choices import read_choices, stated_choice
from aft_ray.tasks.numbers import compare_numbers, plain_number, stated_number

VALUES = ("32400", "6000", "600", "60000", "10")
TEXTS = ("bloody mess", "pleasure", "being imprisoned", "feeling of guilt", "cake")
LENGTHS = ("100 m", "150 m", "200 m", "250 m", "300 m")


@pytest.fixture(scope="module")
def isolated():
    process = Isolated(5.0)
    yield process
    process.close()


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("3 * 6 = 18. The answer is 18.", "18"),
        ("so 18\n#### 18", "18"),
        ("#### 12,345,678", "12345678"),
        ("The answer is $1,234.50.", "1234.50"),
        ("The answer is -$5", "-5"),
        ("The answer is $-5", "-5"),
        ("the answer is: -5", "-5"),
        ("the answer is \N{MINUS SIGN}5", "-5"),
        ("The answer is \N{EN DASH}5.", "-5"),
        ("The answer is negative 5", "-5"),
        ("The final answer is **18**.", "18"),
        ("**Answer:** 18", "18"),
        ("## Final Answer\n\n18 eggs", "18"),
        ("Answer: 3/4", "3/4"),
        ("The answer is 3 1/2 cups", "7/2"),
        ("The answer is 3\N{VULGAR FRACTION ONE HALF}.", "7/2"),
        ("The answer is .5", "0.5"),
        ("The answer is 50%.", "50%"),
        ("The answer is 1.5 million dollars.", "1.5 million"),
        ("The answer is 1e5.", "100000"),
        (r"The answer is $3 \times 10^{8}$", "300000000"),
        ("The answer is Rs. 1,00,000.", "100000"),
        ("The answer is \u0661\u0668.", "18"),
        ("The answer is eighteen.", "18"),
        ("The answer is minus twenty-one dollars", "-21"),
        ("The answer is two hundred and five", "205"),
        ("The answer is 18 apples.", "18"),
        ("The answer is x = 18", "18"),
        ("The answer is 3 * 6 = 18.", "18"),
        ("The answer is that she makes $18 a day.", "18"),
        (r"The answer is \boxed{18}.", "18"),
        (r"\boxed{\$1{,}234}", "1234"),
        (r"\boxed{18\text{ dollars}}", "18"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        (r"\boxed{-\frac34}", "-3/4"),
        (r"\boxed{18", "18"),
        ("\boxed{18}", "18"),  # the backspace of an unescaped \b
        ("The answer is 5. No, the answer is 6.", "6"),
        ("The answer is 5. No: 6", "6"),
        ("The answer is 5. No it is 6.", "6"),
        ("The answer is 18. No rounding is needed.", "18"),
        ("The answer is 18. No tax was added to the 20 dollars.", "18"),
        ("Answer: Negative 5", "-5"),
        ("Answer: Minus $5", "-5"),
        ("Let us see.\n\n### Problem Breakdown\n- 16 eggs a day\n\nThe answer is 18.", "18"),
        ("Let us see.\n\n## Question\n\n3 bags with 6?\n\nThe answer is 18.", "18"),
        ("The answer is 18.\n\n## Question 2\n\nThe answer is 7.", "18"),
        ("#### Step 1: Daily eggs\nHow many are left?\n16 - 7 = 9\n\nThe answer is 18.", "18"),
        ("So 18.\n#### 18\nTom has 3 bags.\nHow many?\n\nThe answer is 7.", "18"),
        ("The answer is 1. The answer is 2. The answer is 3. The answer is 4. The answer is 5.", "5"),
        ("The answer is 18 - I think.", "18"),
        ("The answer is 18. I hope this answer is correct.", "18"),
        ("The answer is 18.\n\nQuestion: And 2 + 5?\nAnswer: The answer is 7.", "18"),
        ("#### 18<|im_end|>\nThe answer is 7", "18"),
        ("Answer: Let us see. 16-3-4=9. So she makes 9*2=$18.", "18"),
        ("So there are 18 left.", "18"),
        ("First 3*6=18, then 18+2=20.\n20", "20"),
        ("First 16-3=13. Then 13-4=9.", "9"),
        ("18", "18"),
    ],
)
def test_numbers_as_people_write_them(text, stated):
    assert stated_number(text) == stated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is",
        "The answer is 5. The answer is unclear.",
        "The answer is not 18.",
        "The answer is 20 - 2.",
        "The answer is 18 or 20.",
        "The answer is 18-20",
        "The answer is between 5 and 6.",
        "The answer is 1, 2 and 3.",
        "The answer is 5 hours and 30 minutes",
        "The answer is 12:30",
        "The answer is 12,34",
        "The answer is 1 234",
        "The answer is 1.2.3",
        "The answer is 10\N{SUPERSCRIPT TWO}",
        "The answer is 5x",
        r"The answer is 5\sqrt{2}",
        r"\boxed{}",
        "The answer is 1/0",
        "The answer is " + "9" * 1000,
        "The answer is one of them.",
        "Janet has 16 eggs.",
        "She has to answer 3 questions.",
        "#### 2. Compute the sum",
        "I do not know.",
    ],
)
def test_numbers_that_could_not_be_told(text, isolated):
    assert check_answer(text, "18", (), NUMBER, isolated).verdict == "unknown"


@pytest.mark.parametrize(
    ("extracted", "gold", "verdict"),
    [
        ("18", "18", "right"),
        ("18.00", "18", "right"),
        ("1234", "1,234", "right"),
        ("0.75", "3/4", "right"),
        ("50%", "50", "right"),
        ("50%", "0.5", "right"),
        ("0.5", "50%", "right"),
        ("1.5 million", "1500000", "right"),
        ("1.5 million", "1.5", "right"),
        ("50%", "5", "wrong"),
        ("5000%", "50%", "wrong"),
        ("19", "18", "wrong"),
        ("-18", "18", "wrong"),
        ("180", "18", "wrong"),
        ("4/3", "3/4", "wrong"),
    ],
)
def test_numbers_compare_exactly(extracted, gold, verdict):
    assert compare_numbers(extracted, gold) == verdict


@given(st.integers(-(10**12), 10**12), st.sampled_from(["The answer is {}.", "#### {}", "... #### ${}", "Answer: {} km"]))
def test_any_integer_with_thousands_commas_is_right_and_its_neighbours_are_wrong(number, template):
    extracted = stated_number(template.format(f"{number:,}"))
    assert compare_numbers(extracted, str(number)) == "right"
    assert compare_numbers(extracted, str(number + 1)) == "wrong"
    assert compare_numbers(extracted, str(number * 10 + 1)) == "wrong"


@pytest.mark.parametrize("text", ["", "x", "1 2", "__import__('os')", "5 apples", "1/0"])
def test_gold_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="not a number"):
        plain_number(text)


@pytest.mark.parametrize(
    ("text", "choices", "stated"),
    [
        ("The answer is (C).", VALUES, "C"),
        ("The answer is C", VALUES, "C"),
        ("the answer is (c)", VALUES, "C"),
        ("Answer: C) 600", VALUES, "C"),
        ("#### C", VALUES, "C"),
        (r"$\boxed{\textbf{(C)}\ 600}$", VALUES, "C"),
        ("**Answer: (C)**", VALUES, "C"),
        ("The correct option is C) 600", VALUES, "C"),
        ("Option C is correct.", VALUES, "C"),
        ("Hence, C.", VALUES, "C"),
        ("Correct answer - A", VALUES, "A"),
        ("Answer D", VALUES, "D"),
        ("C", VALUES, "C"),
        ("(C) 600", VALUES, "C"),
        ("The answer is (B), no wait, the answer is (C).", VALUES, "C"),
        ("The answer is 600.", VALUES, "C"),
        ("The answer is 150 meters.", LENGTHS, "B"),
        ("The answer is 150", LENGTHS, "B"),
        ("The answer is bloody mess.", TEXTS, "A"),
        ("The answer is A bloody mess", TEXTS, "A"),
        ("The answer is a cake", TEXTS, "E"),
        ("The answer is A because there is blood", TEXTS, "A"),
        ("The answer is the feeling of guilt", TEXTS, "D"),
        ("So, they would see a bloody mess.", TEXTS, "A"),
        ("The answer is studio", ("house", "studio", "mansion", "studio"), "B|D"),
        ("The answer is new york city", ("york", "new york", "new york city"), "C"),
        ("The answer is None of these", ("1", "2", "None of these"), "C"),
        ("The answer is 42", VALUES, "42"),
    ],
)
def test_options_by_letter_text_and_value(text, choices, stated):
    assert stated_choice(text, choices) == stated


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("The answer is A or B", TEXTS),
        ("The answer is (A) cake", TEXTS),
        ("The answer is cake (A)", TEXTS),
        ("The answer is not A", TEXTS),
        ("The answer is not cake", TEXTS),
        ("The answer is F", VALUES),
        ("I think it is A or B.", TEXTS),
        ("A dog is a pet.", TEXTS),
        ("The answer is 150", ("150 m", "150 km", "1 m")),
        ("", TEXTS),
    ],
)
def test_options_that_could_not_be_told(text, choices, isolated):
    assert check_answer(text, "A", choices, CHOICE, isolated).verdict == "unknown"


@pytest.mark.parametrize(
    ("text", "gold", "choices", "verdict"),
    [
        ("The answer is (C).", "C", VALUES, "right"),
        ("The answer is (C).", "(C)", (), "right"),
        ("The answer is (B).", "C", VALUES, "wrong"),
        ("The answer is studio", "B", ("house", "studio", "mansion", "studio"), "right"),
        ("The answer is 42", "C", VALUES, "wrong"),
        ("The answer is 42", "A", TEXTS, "unknown"),
        ("The answer is cake", "bloody mess", TEXTS, "wrong"),
    ],
)
def test_options_compare(text, gold, choices, verdict, isolated):
    assert check_answer(text, gold, choices, CHOICE, isolated).verdict == verdict


@pytest.mark.parametrize(
    "found",
    [
        ["50", "60"],
        ["A)50", "B)60"],
        ["(A) 50", "(B) 60"],
        [["A", "50"], ["B", "60"]],
        {"A": "50", "B": "60"},
        {"label": ["A", "B"], "text": ["50", "60"]},
    ],
)
def test_options_as_files_hold_them(found):
    assert read_choices(found) == ("50", "60")


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac12", "right"),
        (r"\boxed{0.5}", r"\frac{1}{2}", "right"),
        (r"The answer is $2\sqrt{2}$.", r"\sqrt{8}", "right"),
        (r"\boxed{(x+1)^2}", "x^2+2x+1", "right"),
        (r"\boxed{x=5}", "5", "right"),
        (r"\boxed{90^\circ}", "90", "right"),
        (r"\boxed{\text{(C)}}", "C", "right"),
        (r"\boxed{even}", r"\text{even}", "right"),
        (r"\boxed{1,234}", "1234", "right"),
        (r"\boxed{x \in [0, 1)}", "[0,1)", "right"),
        (r"\boxed{\text{odd}}", r"\text{even}", "wrong"),
        (r"\boxed{(2, 1)}", "(1,2)", "wrong"),
        (r"\boxed{[0,1]}", "[0,1)", "wrong"),
        (r"\boxed{\frac \pi4 + 2}", r"\frac{\pi}{4} + 2", "right"),
        (r"\boxed{\frac\pi4 + 3}", r"\frac \pi4 + 2", "wrong"),
        (r"\boxed{2 \cdot 10^{-8}}", r"10^{-8}", "wrong"),
        (r"\boxed{2 \cdot 10^{-8}}", "0.00000001", "wrong"),
        (r"\boxed{\frac{2}{2004!}}", r"\frac{1}{2004!}", "wrong"),
        (r"\boxed{3.141593}", r"\pi", "right"),
        (r"\boxed{10}", r"10\%", "right"),
        (r"\boxed{-\frac{1}{2}}", r"\frac{1}{2}", "wrong"),
        (r"\boxed{\frac{2}{1}}", r"\frac{1}{2}", "wrong"),
        (r"\boxed{3, 125}", "3125", "wrong"),
        (r"\boxed{}", "5", "unknown"),
        ("It is five.", "5", "unknown"),
        (r"So $x$ is 5 or $y$ is 6.", "5", "unknown"),
        (r"The answer is $5$ or $6$.", "5", "unknown"),
        (r"The answer is $5$, since $2 + 3 = 5$.", "5", "right"),
        # Nothing marks them.
        (r"The sum of the roots is $-\frac{b}{a} = -3$.", "-3", "right"),
        (r"So $x=2$ or $x=3$.", "2,3", "right"),
        (r"Then $x = 5$ and $y = 3$, so $xy = 15$.", "15", "right"),
        ("So p = 6, q = 31, r = -1.", "(6,31,-1)", "right"),
        (r"The minimum is therefore $2\sqrt{6}$, attained at $x = 3$.", r"2\sqrt6", "right"),
        ("Therefore f(x) = 2x + 1.", "2x+1", "right"),
        (r"We have to find $x$ such that $x^2 = 49$.", "7", "unknown"),
        (r"Suppose $x = 7$.", "7", "unknown"),
        (r"Since $n$ must be even, $n = 4$ is not possible.", "4", "unknown"),
    ],
)
def test_expressions(text, gold, verdict, isolated):
    assert check_answer(text, gold, (), EXPRESSION, isolated).verdict == verdict


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("16 - 7 = 9, 9 * 2 = 18.\n\nJanet earns $18 per day at the market.", "18", "right"),
        ("5 + 3 = 8\n\n**8 fruits** are left (5 apples and 3 pears).\n\n*Check:* 8 - 3 = 5", "8", "right"),
        ("So Ann will be 30 in 5 years.", "30", "right"),
        ("After buying 3 books she has 40 dollars left.", "40", "right"),
        ("He sold 5 in the morning and 3 in the afternoon, for a total of 8.", "8", "right"),
        ("Each of the 4 children gets 6 cookies, with 2 left over. Let me know if you have questions!", "6", "right"),
        ("Now 24 / 4 = 6. Six cookies per friend.", "6", "right"),
        ("The cost is $20. Would you like me to explain any of the steps?", "20", "right"),
        ("He has 5 apples and 3 pears.", "8", "unknown"),
        ("The sum is 20. To find the average, divide this by 4.", "4", "unknown"),
        ("So 12 + 8 = 20, and", "20", "unknown"),
        ("I cannot solve this without knowing the price. It was $5 last year.", "5", "unknown"),
        ("It could be 20.", "20", "unknown"),
    ],
)
def test_numbers_that_nothing_marks(text, gold, verdict, isolated):
    assert check_answer(text, gold, (), NUMBER, isolated).verdict == verdict


@pytest.mark.parametrize(
    ("text", "choices", "gold", "verdict"),
    [
        ("It comes to 600, so C is the one.", VALUES, "C", "right"),
        ("Since A, B and D are too large and E too small, only C is left.", VALUES, "C", "right"),
        ("The cost is 6000 / 10 = 600.", VALUES, "C", "right"),
        ("What one feels is a **feeling of guilt**. Cake has nothing to do with it.", TEXTS, "D", "right"),
        ("A person who hits someone feels remorse. I'd go with D.", TEXTS, "D", "right"),
        ("B. One feels pleasure. Cake (E) is a common mistake.", TEXTS, "B", "right"),
        ("That would be a pleasure, not a cake.", TEXTS, "B", "right"),
        ("There would be pleasure or cake.", TEXTS, "E", "unknown"),
        ("Pleasure makes no sense here. A cake is not related to killing.", TEXTS, "A", "unknown"),
        ("I am torn between A and D.", TEXTS, "D", "unknown"),
    ],
)
def test_options_that_nothing_marks(text, choices, gold, verdict, isolated):
    assert check_answer(text, gold, choices, CHOICE, isolated).verdict == verdict


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("The answer is Paris.", "Paris", "right"),
        ("The answer is 'paris'", "Paris", "right"),
        (r"\boxed{\text{Paris}}", "Paris", "right"),
        ("The answer is Dr. Smith.", "Dr. Smith", "right"),
        ("Answer: new  york", "New York", "right"),
        ("The answer is London.", "Paris", "wrong"),
        ("The answer is New York City", "New York", "unknown"),
        ("The answer is", "Paris", "unknown"),
        ("The answer is -5 degrees.", "-5 degrees", "right"),
        ("The answer is \u22125 degrees.", "-5 degrees", "right"),
        ("The answer is 5 degrees.", "-5 degrees", "wrong"),
        ("Answer:\n- 5 degrees", "5 degrees", "right"),
    ],
)
def test_exact_text(text, gold, verdict, isolated):
    assert check_answer(text, gold, (), TEXT, isolated).verdict == verdict


def user_check(completion: str, gold: str) -> bool | None:
    if "crash" in completion:
        raise RuntimeError("no way")
    numbers = re.findall(r"\d+", completion)
    return gold in numbers if numbers else None


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("7 8", "right", "right answer"),
        ("9", "wrong", "wrong answer"),
        ("none", "unknown", "answer not comparable"),
        ("crash", "unknown", "check failed: RuntimeError: no way"),
    ],
)
def test_a_function_of_the_users(text, verdict, reason, isolated):
    answer = by_function("tests.unit.test_answers:user_check")
    check = check_answer(text, "8", (), answer, isolated)
    assert (check.verdict, check.extracted, check.reason) == (verdict, None, reason)
