"""A short walk through what `make torture` does at length: hostile files for every reader."""

import fuzz
import pytest


@pytest.mark.parametrize("part", fuzz.PARTS)
def test_hostile_files_get_one_line_and_leave_nothing(part, tmp_path, capsys):
    count, wrong = fuzz.run(800, 1, tmp_path, [part])
    assert (count, wrong) == (round(800 * fuzz.SHARES[part]), 0), capsys.readouterr().out
