"""The equations that a chain states: which are false, and which make two chains the same."""

import pytest

from aft_ray.tasks.equations import equations, false_equation


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("3*6=<<3*6=18>>18, 18+2=<<18+2=20>>20", None),
        ("<<3*6=18>> <<18+2=21>>", "<<18+2=21>>"),
        ("<<10/3=3.33>>", None),
        ("<<20/3=6.66>>", None),
        ("<<20/3=6.67>>", None),
        ("<<10/3=3.4>>", "<<10/3=3.4>>"),
        ("<<10/3=3>>", "<<10/3=3>>"),
        ("<<20%*50=10>>", None),
        ("<<(2+3)*4=20>>", None),
        ("<<1/0=1>>", None),
        ("<<9**9=1>>", None),
        ("<<" + "(" * 150 + "=1>>", None),
        ("3*6=19", None),
    ],
)
def test_annotated_equations_are_checked(text, false):
    assert false_equation(text) == false


def test_equations_are_listed_as_rft_does():
    assert equations("He has 3*6=<<3*6=18>>18, and 18 + 2 = <<18+2=20>>20.") == ("3*6=18", "18+2=20")
    assert equations("3 * 6 = 18. 18+2=20. The answer is 20.") == ("3*6=18", "18+2=20")
    assert equations("No equation.") == ()
