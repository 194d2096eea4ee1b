"""The app with every command: importing this registers them all."""

from . import (  # noqa: F401  their commands register themselves with the app
    analyse,
    doctor,
    experiment,
    explore,
    plan,
    report,
    retrieve,
    train,
    tune,
    verify,
)
from .common import app as app
