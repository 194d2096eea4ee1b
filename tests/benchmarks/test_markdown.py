import pytest

from benchmarks.markdown import table


def test_a_table_has_a_line_for_each_row_and_refuses_one_that_does_not_fit():
    assert table(["a", "b"], [["1", ""], ["2", "x"]]) == "| a | b |\n|---|---|\n| 1 |  |\n| 2 | x |"
    with pytest.raises(ValueError, match="a row of 1 cells in a table with the 2 heads a, b"):
        table(["a", "b"], [["1"]])
