"""Texts in, vectors out: `query_vec` of a query fused with its expansions (Eq. 8), `doc_vec` of a document.

`encoder.ExpandREncoder` hosts any model of sentence-transformers and creates the transformers in `views`; `registry`
opens encoders by name; `models/` contains what sentence-transformers cannot open by itself. Meant to be changed: fusion
rules (`fusion`) and the list of encoders (`models.catalogue`). Vectors carry a description of the encoder that made
them (`vectors`), which indexes record.
"""

from ..common.lazy import lazy_names

_HOME = {
    "ENCODERS": "models.catalogue",
    "demo_encoder": "registry",
    "demo_encoder_folder": "registry",
    "ExpandREncoder": "encoder",
    "fuse": "fusion",
    "load_encoder": "registry",
    "models_table": "registry",
    "quantize": "quantized",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
