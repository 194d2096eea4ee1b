"""AnchorDR under sentence-transformers' own trainer and losses."""

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra: train")
pytest.importorskip("datasets", reason="needs the extra: train")
pytest.importorskip("sentence_transformers.base.losses", reason="needs the extra: train")
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

from pyterrier_expandr.encoding.models.anchordr import AnchorDR, open_anchordr
from tests.anchordr_tiny import build_tiny_anchordr

pytestmark = pytest.mark.usefixtures("pickles_allowed")

TEXTS = ["hello world", "The quick brown fox jumps over the lazy dog.", "", "dense retrieval finds 2,000 passages"]
POSITIVES = [f"{text} the fox" for text in TEXTS[::-1]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return build_tiny_anchordr(tmp_path_factory.mktemp("anchordr") / "reference")


def train(reference, folder, resume=None, **changes):
    model = SentenceTransformer(modules=[AnchorDR.from_pretrained(reference)], device="cpu")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 1}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **settings, **changes
    )
    rows = Dataset.from_dict({"anchor": TEXTS * 2, "positive": POSITIVES * 2})
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.train(resume_from_checkpoint=resume)
    return model, before


def test_training_changes_every_trainable_parameter_and_can_be_taken_up_again(reference, tmp_path):
    model, before = train(reference, tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"0.model.{name}" for name in model[0].model.unused_parameters()}
    vectors = model.encode(TEXTS)
    resumed, _ = train(reference, tmp_path, resume=str(tmp_path / "checkpoint-2"))
    np.testing.assert_array_equal(resumed.encode(TEXTS), vectors)
    np.testing.assert_array_equal(open_anchordr(str(tmp_path / "checkpoint-4"), device="cpu").encode(TEXTS), vectors)


def test_gradient_checkpointing_trains_the_same(reference, tmp_path):
    plain, _ = train(reference, tmp_path / "plain")
    saving, _ = train(reference, tmp_path / "saving", gradient_checkpointing=True)
    assert all(block.gradient_checkpointing for block in saving[0].model.encoder.block)
    np.testing.assert_allclose(saving.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)


def test_cached_gradients_are_the_plain_ones(tmp_path):
    reference = build_tiny_anchordr(tmp_path / "reference", dropout_rate=0.0)
    found = []
    for loss, options in (
        (MultipleNegativesRankingLoss, {}),
        (CachedMultipleNegativesRankingLoss, {"mini_batch_size": 1}),
    ):
        model = SentenceTransformer(modules=[AnchorDR.from_pretrained(reference)], device="cpu").double().train()
        loss(model, scale=1.0, **options)([model.preprocess(TEXTS), model.preprocess(POSITIVES)], None).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert found[0].keys() == found[1].keys() and all(gradient is not None for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).abs().max() < 1e-9, name
