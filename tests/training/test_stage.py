import pytest

from pyterrier_expandr.training.stage import Stage, build, in_order, status


class Chain:
    """examples -> candidates -> pairs, and examples -> index; `log` says what was run."""

    def __init__(self, n=3, factor=2, broken=False):
        self.log = []
        self.broken = broken
        self.examples = Stage("examples", {"n": n}, (), self._examples)
        self.candidates = Stage("candidates", {"factor": factor}, (self.examples,), self._candidates)
        self.pairs = Stage("pairs", {}, (self.candidates, self.examples), self._pairs)
        self.index = Stage("index", {}, (self.examples,), lambda folder, examples: self.log.append("index") or {})

    def _examples(self, folder):
        self.log.append("examples")
        (folder / "n").write_text(str(self.examples.settings["n"]))
        return {"examples": self.examples.settings["n"]}

    def _candidates(self, folder, examples):
        self.log.append("candidates")
        (folder / "half").write_text("kept")
        if self.broken:
            raise OSError("no space left on device")
        (folder / "n").write_text(str(int((examples / "n").read_text()) * self.candidates.settings["factor"]))
        return {}

    def _pairs(self, folder, candidates, examples):
        self.log.append("pairs")
        (folder / "n").write_text((candidates / "n").read_text() + "/" + (examples / "n").read_text())
        return {}


def test_inputs_run_first_and_nothing_runs_twice(tmp_path):
    chain, said = Chain(), []
    build([chain.pairs, chain.index], tmp_path, said.append)
    assert chain.log == ["examples", "candidates", "pairs", "index"]
    assert (chain.pairs.folder(tmp_path) / "n").read_text() == "6/3"
    assert said[1].endswith("examples 3") and said[0].startswith("[1/4] examples ")
    again = Chain()
    build([again.pairs], tmp_path, said.append)
    assert again.log == [] and said[-1].endswith("finished before")


def test_a_changed_setting_runs_its_stage_and_those_behind_it(tmp_path):
    first = Chain()
    build([first.pairs, first.index], tmp_path)
    changed = Chain(factor=5)
    build([changed.pairs, changed.index], tmp_path)
    assert changed.log == ["candidates", "pairs"]
    assert (changed.pairs.folder(tmp_path) / "n").read_text() == "15/3"
    assert (first.pairs.folder(tmp_path) / "n").read_text() == "6/3"


def test_an_interrupted_stage_goes_on_in_its_folder(tmp_path):
    broken, said = Chain(broken=True), []
    with pytest.raises(OSError, match="no space left"):
        build([broken.pairs], tmp_path, said.append)
    states = dict(zip(*status([broken.pairs], tmp_path)[["stage", "state"]].T.to_numpy(), strict=True))
    assert states == {"examples": "finished", "candidates": "interrupted", "pairs": "missing"}
    mended = Chain()
    build([mended.pairs], tmp_path, said.append)
    assert mended.log == ["candidates", "pairs"]
    assert any("goes on" in line for line in said)


def test_status_tells_sizes_times_and_counts(tmp_path):
    chain = Chain()
    assert status([chain.pairs], tmp_path)["state"].tolist() == ["missing"] * 3
    build([chain.pairs], tmp_path)
    table = status([chain.pairs], tmp_path).set_index("stage")
    assert table.loc["examples", "counts"] == "examples 3"
    assert (table["bytes"] > 0).all() and (table["seconds"] >= 0).all()


def test_equal_stages_are_one(tmp_path):
    left, right = Chain(), Chain()
    assert [s.name for s in in_order([left.pairs, right.pairs])] == ["examples", "candidates", "pairs"]
