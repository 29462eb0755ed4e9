"""Each parameter stands in one place: what its schema allows is read, what it forbids refused."""

from __future__ import annotations

import pytest

from media.spec import AXES
from service.engine.failures import BadParameter
from service.engine.vocabulary import OF_JOBS, PARAMETERS, Parameter

ROWS = {name: one for known in PARAMETERS.values() for name, one in known.items()}


COUNTS = [one for one in ROWS.values() if one.schema["type"] == "integer"]
WORDS = [one for one in ROWS.values() if "default" in one.schema]


@pytest.mark.parametrize("one", COUNTS, ids=lambda one: one.name)
def test_counts_begin_where_their_schema_does(one: Parameter) -> None:
    """From its minimum to the most that is asked for; a number, and written as one."""
    most = one.schema.get("maximum", 7)
    assert one.parse(str(one.schema["minimum"]), most) == one.schema["minimum"]
    assert one.parse(str(most), most) == most
    for text in (str(one.schema["minimum"] - 1), str(most + 1), "", "1.0", "+1", "٣", "true"):
        with pytest.raises(BadParameter, match=f"{one.name}: expected a whole number from 1 to"):
            one.parse(text, most)


@pytest.mark.parametrize("one", WORDS, ids=lambda one: one.name)
def test_words_are_those_of_the_schema(one: Parameter) -> None:
    """Every one of them is read, its default where nothing is said, and no other."""
    allowed = one.schema.get("enum", [False, True])
    written = [str(word).lower() for word in allowed]
    assert [one.read({one.name: word}) for word in written] == written
    assert one.read({}) == str(one.schema["default"]).lower()
    for word in ("", "none", written[0].upper(), f" {written[0]}"):
        with pytest.raises(BadParameter, match=f"{one.name}: expected one of {', '.join(written)}"):
            one.read({one.name: word})


def test_every_parameter_says_what_it_is() -> None:
    """Under its own name, in a sentence; jobs know none that requests do not."""
    assert set(PARAMETERS) == set(AXES)
    assert {len(known) for known in PARAMETERS.values()} == {len(ROWS), len(ROWS) - 1}
    for name, one in ROWS.items():
        assert one.name == name
        assert one.description.endswith(".")
    assert OF_JOBS.items() <= ROWS.items()
