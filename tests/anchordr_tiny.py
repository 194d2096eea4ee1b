"""A random AnchorDR small enough for a test, in the files and under the names that the reference writes."""

import json
import shutil
from pathlib import Path

import torch

from pyterrier_expandr.encoding.models.anchordr_model import AnchorDRConfig, AnchorDRModel

FIXTURES = Path(__file__).parent / "fixtures" / "anchordr"


def build_tiny_anchordr(folder: Path, *, seed: int = 0, **changes) -> Path:
    """config.json of T5's type, pytorch_model.bin with the tied copies, and the tokenizer's files."""
    settings = {
        "vocab_size": 162,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-5,
        "feed_forward_proj": "relu",
        "dropout_rate": 0.1,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
        **changes,
    }
    torch.manual_seed(seed)
    model = AnchorDRModel(AnchorDRConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    shutil.copytree(FIXTURES / "tokenizer", folder, ignore=shutil.ignore_patterns("cases.json"))
    more = {"model_type": "t5", "architectures": ["T5Model"], "transformers_version": "4.21.0.dev0", "use_cache": True}
    (folder / "config.json").write_text(json.dumps({**settings, **more}))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder
