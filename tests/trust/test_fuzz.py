"""Every reader answers hostile and broken input with a result or one of our sentences, never with a raw error."""

import pytest

from tests.trust.fuzzing import fuzz
from tests.trust.targets import targets

#: inputs for each reader; those that open models are slower
EXAMPLES = {"adapter, opened": 5, "system record": 12, "system record, bytes": 12}
MOST = 25


@pytest.fixture(scope="module")
def readers(tmp_path_factory, tiny_llama):
    return targets(tmp_path_factory.mktemp("fuzz"), tiny_llama)


def test_no_reader_gives_a_raw_error(readers):
    found = {name: fuzz(strategy, run, EXAMPLES.get(name, MOST)) for name, (strategy, run) in readers.items()}
    assert all(tried >= EXAMPLES.get(name, MOST) for name, (tried, _) in found.items())
    raw = [f"{name}: {error}" for name, (_, errors) in found.items() for error in errors]
    assert not raw, "\n".join(raw)


@pytest.mark.slow
def test_a_thousand_inputs_for_each_reader(readers):
    found = {
        name: fuzz(strategy, run, 100 if name == "adapter, opened" else 1000)[1]
        for name, (strategy, run) in readers.items()
    }
    raw = [f"{name}: {error}" for name, errors in found.items() for error in errors]
    assert not raw, "\n".join(raw)
