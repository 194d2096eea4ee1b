"""The app with every command: importing this registers them all."""

from . import (  # noqa: F401  their commands register themselves with the app
    analyse,
    doctor,
    experiment,
    report,
    retrieve,
    train,
    tune,
)
from .common import app as app
