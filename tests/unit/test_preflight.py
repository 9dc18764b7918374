"""A run whose directory cannot be written is refused before it begins. (Models, contexts, boundaries: beside what they guard.)"""

import pytest

from aft_ray.preflight import check_writable
from aft_ray.tasks import BadInputError


def test_a_directory_that_can_be_written_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "runs" / "mine")
    assert list((tmp_path / "runs" / "mine").iterdir()) == []


def test_one_below_a_file_is_refused_with_its_path_and_reason(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BadInputError, match=r"runs/mine: cannot be written \(Not a directory\): set runs_dir"):
        check_writable(tmp_path / "runs" / "mine")
