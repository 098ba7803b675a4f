"""A job's tags: what finds it again on the service, and the author's own.

The service allows 8 tags of 86 characters (its OpenAPI document, `POST /jobs`). Ours are the set, the part with its
attempt, the run key (hashed), the root flow run and the name; one is kept free for marking a job later. Two are the
author's; an experiment takes one of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from prefect_ibmq.errors import InputError
from prefect_ibmq.wire.job_requests import MAX_TAG_LENGTH
from prefect_ibmq.wire.records import EXPERIMENT_PREFIX, NAME_PREFIX
from prefect_ibmq.wire.rivals import PART_PREFIX, SET_PREFIX

__all__ = [
    "FLOW_PREFIX",
    "MAX_NAME_LENGTH",
    "MAX_OWN_TAGS",
    "OUR_PREFIX",
    "experiment_tag",
    "flow_tag",
    "own_tags",
    "part_tags",
    "run_tag",
    "set_tag",
]

MAX_OWN_TAGS = 2
MAX_NAME_LENGTH = MAX_TAG_LENGTH - len(NAME_PREFIX)
OUR_PREFIX = "ibmq-"
FLOW_PREFIX = "ibmq-flow:"


def set_tag(set_key: str) -> str:
    """The tag that all jobs of a set bear."""
    return f"{SET_PREFIX}{set_key}"


def run_tag(run_key: str) -> str:
    """The tag that all jobs of a run key bear; hashed, since run keys may be long."""
    return f"ibmq-run:{hashlib.sha256(run_key.encode()).hexdigest()[:32]}"


def flow_tag(flow_run: object) -> str:
    """The tag that all jobs of a root flow run bear, by its id."""
    return f"{FLOW_PREFIX}{flow_run}"


def part_tags(
    set_key: str,
    part: str,
    attempt: int,
    run_key: str,
    flow_run: str | None,
    *,
    name: str | None = None,
    own: Sequence[str] = (),
    experiment_id: str | None = None,
    reordered: bool = False,
) -> tuple[str, ...]:
    """All tags of one attempt at one part; `reordered` where it runs other positions than its places say.

    Raises:
        InputError: A tag of the author's, or the name, breaks the service's limits.
    """
    place = f"{PART_PREFIX}{part}.{attempt}{'~' if reordered else ''}"
    flow = (flow_tag(flow_run),) if flow_run else ()
    return (set_tag(set_key), place, run_tag(run_key), *flow, *own_tags(name, own, experiment_id))


def experiment_tag(experiment_id: str) -> str:
    """The tag that all jobs of an experiment bear.

    Raises:
        InputError: The id is blank, or too long for a tag.
    """
    return f"{EXPERIMENT_PREFIX}{_checked(experiment_id, 'experiment id', MAX_TAG_LENGTH - len(EXPERIMENT_PREFIX))}"


def own_tags(name: str | None, tags: Collection[str], experiment_id: str | None = None) -> tuple[str, ...]:
    """The tags that the author asks for: of a name, and up to two of any text, one of which may be an experiment's.

    Raises:
        InputError: One of them breaks the service's limits, or could be taken for one of ours.
    """
    named = () if name is None else (f"{NAME_PREFIX}{_checked(name, 'name', MAX_NAME_LENGTH)}",)
    experiment = () if experiment_id is None else (experiment_tag(experiment_id),)
    if isinstance(tags, str):
        raise InputError(f"tags={tags!r} is one text.", hint=f"Pass a list: tags=[{tags!r}].")
    if not isinstance(tags, Collection):
        raise InputError(f"tags={tags!r} are no tags.", hint="Pass a list of texts.")
    if len(tags) + len(experiment) > MAX_OWN_TAGS:
        beside = " beside experiment_id" if experiment else ""
        raise InputError(
            f"{len(tags)} tags were given{beside}; {MAX_OWN_TAGS - len(experiment)} are free of the 8 of a job.",
            hint="Keep the most useful ones; run key, set and name are tags already.",
        )
    for tag in tags:
        if _checked(tag, "tag", MAX_TAG_LENGTH).lower().startswith(OUR_PREFIX):
            raise InputError(f"The tag {tag!r} could be taken for one of ours.", hint="Do not begin it with 'ibmq-'.")
    return (*named, *experiment, *tags)


def _checked(tag: object, what: str, most: int) -> str:
    if not isinstance(tag, str) or not tag.strip():
        raise InputError(f"{tag!r} is no {what}.", hint="A tag is a text that is not empty.")
    if len(tag) > most:
        raise InputError(f"The {what} {tag[:40]!r}… has {len(tag)} characters; {most} are allowed.", hint="Shorten it.")
    return tag
