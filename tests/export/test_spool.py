"""Records between the API and their files."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export.spool import Spool, encode_record

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_quick_encoder_writes_what_the_standard_one_writes(record: dict[str, object]) -> None:
    assert encode_record(record) == json.dumps(record, separators=(",", ":"))


def test_lines_come_back_by_partition_in_the_order_in_which_they_came() -> None:
    with Spool() as spool:
        for number in range(200_000):
            spool.add((str(number % 3),), f"{number:050d}")
        assert spool.partitions() == [("0",), ("1",), ("2",)]
        for partition in spool.partitions():
            lines = [int(line) for block in spool.blocks(partition) for line in block.splitlines()]
            assert lines == list(range(int(partition[0]), 200_000, 3))
            assert spool.rows(partition) == len(lines)
