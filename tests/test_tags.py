"""A job's tags: within the service's limits, ours and the author's kept apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_ibmq.errors import InputError
from prefect_ibmq.tags import MAX_NAME_LENGTH, part_tags, run_tag, set_tag
from prefect_ibmq.wire.job_requests import MAX_TAG_LENGTH

SET_KEY = "a" * 64
FLOW_RUN = "0197d2c4-1111-7abc-8def-0123456789ab"


def test_a_job_has_eight_tags_at_most_with_one_kept_free() -> None:
    tags = part_tags(SET_KEY, "0-99999", 12, "nightly" * 50, FLOW_RUN, name="n" * MAX_NAME_LENGTH, own=["x" * 86, "y"])
    assert len(tags) == 7
    assert len(set(tags)) == 7
    assert max(map(len, tags)) <= MAX_TAG_LENGTH


def test_ours_are_the_set_the_part_with_its_attempt_and_the_run_key() -> None:
    tags = part_tags(SET_KEY, "3-7", 2, "nightly", None)
    assert tags == (set_tag(SET_KEY), "ibmq-part:3-7.2", run_tag("nightly"))


def test_flow_run_and_name_are_tags_where_they_are_given() -> None:
    tags = part_tags(SET_KEY, "0-0", 1, "nightly", FLOW_RUN, name="ghz")
    assert tags[3:] == (f"ibmq-flow:{FLOW_RUN}", "ibmq-name:ghz")


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_run_key_of_any_length_becomes_a_short_tag_of_its_own(one: str, other: str) -> None:
    assert len(run_tag(one)) <= MAX_TAG_LENGTH
    assert (run_tag(one) == run_tag(other)) == (one == other)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (["a", "b", "c"], "3 tags were given; 2 are free"),
        ("abc", "is one text"),
        ([""], "is no tag"),
        (["  "], "is no tag"),
        ([5], "is no tag"),
        (["x" * 87], "87 characters; 86 are allowed"),
        (["ibmq-set:0"], "taken for one of ours"),
        (["IBMQ-part:0-0.1"], "taken for one of ours"),
    ],
)
def test_tags_over_the_limits_are_refused(own: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        part_tags(SET_KEY, "0-0", 1, "nightly", None, own=own)


def test_a_name_that_is_too_long_is_refused_with_its_own_length() -> None:
    with pytest.raises(InputError, match=f"The name .* has 87 characters; {MAX_NAME_LENGTH} are allowed"):
        part_tags(SET_KEY, "0-0", 1, "nightly", None, name="n" * 87)


def test_an_experiment_is_a_tag_that_takes_the_place_of_one_of_the_authors() -> None:
    tags = part_tags(SET_KEY, "0-0", 1, "nightly", FLOW_RUN, name="ghz", own=["mine"], experiment_id="e-1")
    assert tags[5:] == ("ibmq-experiment:e-1", "mine")
    with pytest.raises(InputError, match="2 tags were given beside experiment_id; 1 are free"):
        part_tags(SET_KEY, "0-0", 1, "nightly", FLOW_RUN, own=["a", "b"], experiment_id="e-1")
    with pytest.raises(InputError, match="is no experiment id"):
        part_tags(SET_KEY, "0-0", 1, "nightly", FLOW_RUN, experiment_id=" ")
