"""Whatever happens to what a run left, `verify` finds it and says where."""

from __future__ import annotations

from tests.faults.damage import OF_RECORD, OF_VOLUME, damage_and_verify


def test_every_damage_to_shards_metadata_ledgers_and_plans_is_found_and_named(tmp_path):
    number = 10 * (len(OF_VOLUME) + 2 * len(OF_RECORD))
    figures = damage_and_verify(tmp_path, number)
    assert figures == {"injected": number, "found": number, "named": number, "missed": []}
