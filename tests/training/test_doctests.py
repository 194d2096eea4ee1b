"""The examples in `training/`: pytest cannot collect them there, since that folder is installed under another name."""

import doctest
import importlib
import pkgutil

import pytest

import pyterrier_expandr.training


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(pyterrier_expandr.training.__path__)])
def test_examples_of(name):
    module = importlib.import_module(f"pyterrier_expandr.training.{name}")
    assert doctest.testmod(module).failed == 0
