"""`torchrun -m pyterrier_expandr.training.retriever`: the command `expandr train retriever` as a module."""

import sys
from importlib import import_module

# By name: the command line is a layer above training, and imports it.
sys.argv[1:1] = ["train", "retriever"]
import_module("pyterrier_expandr.cli").main()
