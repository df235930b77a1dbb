"""Every mutation applies to etl.py as it is: an edit does not silently disarm one."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT
from mutations import MUTATIONS, file_of, mutated


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 8), reason="this Python does not say where a definition ends")
def test_every_mutation_applies() -> None:
    source = (ROOT / "etl.py").read_text("utf-8")
    for mutation in MUTATIONS:
        _, text = mutated(source, mutation)
        assert text not in source, mutation.rule
        assert (ROOT / file_of(mutation.tests.partition(" ")[0])).is_file(), mutation.rule
