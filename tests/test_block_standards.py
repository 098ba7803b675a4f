"""Prefect's own standards for blocks, over every public block."""

from __future__ import annotations

import inspect
import json
from urllib.parse import urlsplit

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import prefect_ibmq
from prefect_ibmq import IBMQCredentials, IBMQJob, IBMQProvider

BLOCKS = [IBMQCredentials, IBMQJob, IBMQProvider]


def test_the_list_of_blocks_is_all_public_blocks() -> None:
    public = [getattr(prefect_ibmq, name) for name in prefect_ibmq.__all__]
    blocks = [each for each in public if inspect.isclass(each) and issubclass(each, Block)]
    assert sorted(blocks, key=lambda block: block.__name__) == BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
class TestBlockStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, block: type[Block]) -> type[Block]:
        return block

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """What can be told of the logo without the network; the picture itself is looked at below."""
        logo = urlsplit(str(block._logo_url))
        assert logo.scheme == "https"
        assert logo.hostname

    @pytest.mark.network
    def test_has_a_logo_that_is_square(self, block: type[Block]) -> None:
        pytest.importorskip("PIL")
        BlockStandardTestSuite.test_has_a_valid_image(self, block)

    def test_its_slug_never_changes(self, block: type[Block]) -> None:
        slugs = {IBMQCredentials: "ibmq-credentials", IBMQJob: "ibmq-job", IBMQProvider: "ibmq-provider"}
        assert block.get_block_type_slug() == slugs[block]

    def test_every_field_has_a_title(self, block: type[Block]) -> None:
        untitled = [name for name, field in block.model_fields.items() if not field.title]
        assert untitled == []

    def test_its_fields_are_json_and_no_objects_of_qiskit(self, block: type[Block]) -> None:
        json.dumps(block.model_json_schema())
        assert [name for name, field in block.model_fields.items() if "qiskit." in str(field.annotation)] == []
