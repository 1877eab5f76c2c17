import pytest

from vaedist.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1_024, "row", "1,024 rows"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (3, "process", "3 processes"),
    ],
)
def test_a_noun_follows_its_number(number, noun, text):
    assert counted(number, noun) == text
