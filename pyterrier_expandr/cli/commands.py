"""The app with every command: importing this registers them all."""

from . import (  # noqa: F401  their commands register themselves with the app
    analyse,
    experiment,
    explore,
    report,
    retrieve,
    train,
    train_expander,
    train_recipe,
    train_retriever,
    train_student,
    tune,
    verify,
)
from .common import app as app
