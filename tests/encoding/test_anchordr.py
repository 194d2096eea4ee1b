"""The port against what the reference computed, and against NumPy where the reference's files say nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyterrier_expandr.encoding.models import anchordr_layers
from pyterrier_expandr.encoding.models.anchordr_layers import MAX_POSITIONS, relative_buckets, token_positions
from pyterrier_expandr.encoding.models.anchordr_model import AnchorDRConfig, AnchorDRModel
from tests.anchordr_numpy import NumpyAnchorDR, bucket

pytestmark = pytest.mark.usefixtures("pickles_allowed")

FIXTURES = Path(__file__).parents[1] / "fixtures" / "anchordr"
CLOSE = {"rtol": 0, "atol": 1e-5}


def random_model(seed=0, **changes) -> AnchorDRModel:
    settings = {
        "vocab_size": 60,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 32,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "layer_norm_epsilon": 1e-5,
        "pad_token_id": 1,
        **changes,
    }
    torch.manual_seed(seed)
    model = AnchorDRModel(AnchorDRConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Every part must move the result by far more than the tolerance, and none drown the others.
            std = 3.0 if "relative" in name else 1.0 if "embed" in name or "shared" in name else 0.25
            parameter.copy_(torch.randn_like(parameter) * std + (1.0 if "norm.weight" in name else 0.0))
    return model


def compare(model, ids, mask):
    with torch.no_grad():
        output = model(torch.tensor(ids), torch.tensor(mask))
    reference = NumpyAnchorDR(model.config, model.state_dict())
    for row, (own_ids, own_mask) in enumerate(zip(ids, mask, strict=True)):
        states, embedding = reference(own_ids, own_mask)
        np.testing.assert_allclose(output.encoder_last_hidden_state[row], states, rtol=0, atol=2e-5)
        np.testing.assert_allclose(output.last_hidden_state[row, 0], embedding, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["small_relu", "gated_gelu_3dec"])
def test_every_recorded_state_of_the_reference(name):
    model = AnchorDRModel.from_pretrained(FIXTURES / name)
    recorded = load_file(FIXTURES / name / "inputs_outputs.safetensors")
    ids, mask = recorded["input_ids"], recorded["attention_mask"]
    layers = []
    for block in [*model.encoder.block, *model.decoder.block]:
        block.register_forward_hook(lambda module, inputs, output: layers.append(output))
    with torch.no_grad():
        output = model(ids, mask)
        in_encoder = torch.stack(layers[: model.config.num_layers])
        in_decoder = torch.stack(layers[model.config.num_layers :]).squeeze(2)
        several = model(ids, mask, recorded["multi_decoder_input_ids"]).last_hidden_state
        found = {
            "encoder_first_hidden": model.encoder.embed(ids),
            "encoder_layer_outputs": in_encoder,
            "encoder_last_hidden_state": output.encoder_last_hidden_state,
            "decoder_first_hidden": model.decoder.embed(recorded["decoder_input_ids"]),
            "decoder_layer_outputs": in_decoder,
            "embedding": model.embed(ids, mask),
            "multi_decoder_last_hidden_state": several,
            "row0_no_mask_embedding": model.embed(ids[:1]),
        }
    assert found.keys() == {key for key in recorded if recorded[key].is_floating_point()}
    if recorded["encoder_layer_outputs"].numel() == 0:  # not recorded for this model
        del found["encoder_layer_outputs"]
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, recorded[key], **CLOSE, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(output.last_hidden_state[:, 0], recorded["embedding"], **CLOSE)
    torch.testing.assert_close(several[:, 0], recorded["embedding"], **CLOSE)  # the short way of one token


@pytest.mark.parametrize("name", ["small_relu", "gated_gelu_3dec"])
def test_the_description_in_numpy_is_the_reference_too(name):
    model = AnchorDRModel.from_pretrained(FIXTURES / name)
    recorded = load_file(FIXTURES / name / "inputs_outputs.safetensors")
    described = NumpyAnchorDR(model.config, model.state_dict())
    for row, (ids, mask) in enumerate(zip(recorded["input_ids"], recorded["attention_mask"], strict=True)):
        states, embedding = described(ids.tolist(), mask.tolist())
        np.testing.assert_allclose(states, recorded["encoder_last_hidden_state"][row], rtol=0, atol=1e-5)
        np.testing.assert_allclose(embedding, recorded["embedding"][row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["small_relu", "gated_gelu_3dec"])
def test_names_and_shapes_are_the_checkpoints(name):
    shapes = json.loads((FIXTURES / name / "fork_state_dict_shapes.json").read_text())
    model = AnchorDRModel.from_pretrained(FIXTURES / name)
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == shapes


def test_base_size():
    with torch.device("meta"):
        config = AnchorDRConfig(
            vocab_size=33280,
            d_model=768,
            d_kv=64,
            d_ff=3072,
            num_layers=12,
            num_heads=12,
            layer_norm_epsilon=1e-5,
            pad_token_id=1,
        )
        model = AnchorDRModel(config)
    assert len(model.state_dict()) == 525
    assert sum(parameter.numel() for parameter in model.parameters()) == 225_618_432


def test_buckets_of_the_base_size():
    row = relative_buckets(1024, 32)[0].tolist()  # query 0: key minus query is the column
    assert row[:8] == list(range(15, 23))
    first = {n for n in range(8, 1024) if row[n] != row[n - 1]}
    assert first == {8, 9, 12, 18, 27, 39, 58, 86}
    assert row[8] == 23 and row[86] == row[127] == row[1023] == 30
    column = relative_buckets(1024, 32)[:, 0].tolist()
    assert all(left == 30 - right for left, right in zip(column, row, strict=True))


@pytest.mark.parametrize("buckets", [4, 8, 16, 31, 32, 64, 128])
def test_buckets_of_other_sizes(buckets):
    expected = [[bucket(j - i, buckets) for j in range(300)] for i in (0, 150, 299)]
    assert relative_buckets(300, buckets)[[0, 150, 299]].tolist() == expected


@pytest.mark.parametrize("d_kv", [3, 6, 11])
@pytest.mark.parametrize("feed_forward_proj", ["relu", "gated-gelu"])
def test_scale_comes_from_the_width_and_not_from_d_kv(d_kv, feed_forward_proj):
    model = random_model(d_kv=d_kv, feed_forward_proj=feed_forward_proj)
    compare(model, [[0, 7, 9, 33, 2], [0, 50, 2, 1, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_heads_that_do_not_divide_the_width():
    model = random_model(d_model=25, num_heads=4, d_kv=5)
    assert model.encoder.block[0].layer[0].part.scale == 6**-0.5
    compare(model, [[0, 7, 9, 33, 2]], [[1, 1, 1, 1, 1]])


def test_far_buckets(monkeypatch):
    rng = np.random.default_rng(0)
    ids = [[0, *rng.integers(4, 60, 298).tolist(), 2]]
    model = random_model()
    compare(model, ids, [[1] * 300])
    with torch.no_grad():
        ours = model.encode(torch.tensor(ids))[0]
        monkeypatch.setattr(anchordr_layers, "MAX_DISTANCE", 129)  # T5's logarithm: distances 39 and 86 move
        assert (model.encode(torch.tensor(ids))[0] - ours).abs().max() > 1e-2


def test_row_31_of_the_table_is_never_used():
    model, ids = random_model(), torch.arange(4, 59).repeat(1, 5)
    with torch.no_grad():
        before = model.embed(ids)
        for block in model.encoder.block:
            block.layer[0].part.relative_attention_bias.weight[31] += 100
        assert torch.equal(model.embed(ids), before)


def test_padding_on_the_left_and_inside():
    ids = [[1, 1, 1, 0, 8, 9, 2], [0, 8, 1, 1, 9, 10, 2], [0, 8, 9, 10, 2, 1, 1]]
    masks = [[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 0, 0]]
    compare(random_model(), ids, masks)
    assert token_positions(torch.tensor(ids), 1).tolist()[0] == [1, 1, 1, 2, 3, 4, 5]
    assert token_positions(torch.tensor(ids), 1).tolist()[1] == [2, 3, 1, 1, 4, 5, 6]


def test_left_padding_equals_right_padding():
    model = random_model()
    with torch.no_grad():
        right = model.embed(torch.tensor([[0, 8, 9, 2, 1, 1]]), torch.tensor([[1, 1, 1, 1, 0, 0]]))
        left = model.embed(torch.tensor([[1, 1, 0, 8, 9, 2]]), torch.tensor([[0, 0, 1, 1, 1, 1]]))
    torch.testing.assert_close(left, right, **CLOSE)


def test_another_pad_id():
    model = random_model(pad_token_id=5)
    assert model.encoder.pos_embed.weight.shape == (MAX_POSITIONS + 6, 24)
    compare(model, [[0, 7, 5, 1, 2], [0, 1, 2, 5, 5]], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_the_longest_text_and_one_token_more():
    model = random_model(num_layers=1, num_decoder_layers=1)
    rng = np.random.default_rng(1)
    full = rng.integers(4, 60, MAX_POSITIONS)
    padded = np.concatenate([full[:1000], np.ones(24, int)])
    assert token_positions(torch.tensor(full[None]), 1)[0, -1] == MAX_POSITIONS + 1
    compare(model, [full.tolist(), padded.tolist()], [[1] * 1024, [1] * 1000 + [0] * 24])
    with pytest.raises(ValueError, match="1025 tokens, but the model has 1024"):
        model.embed(torch.full((1, 1025), 7))
    wide = torch.ones(1, 1030, dtype=torch.long)  # 1,024 tokens and 6 pads: pads take no position
    wide[:, :1024] = torch.tensor(full)
    with torch.no_grad():
        same = model.embed(wide, (wide != 1).long())
        torch.testing.assert_close(same, model.embed(torch.tensor(full[None])), **CLOSE)


def test_a_row_that_is_masked_throughout_stays_finite():
    compare(random_model(), [[0, 8, 2]], [[0, 0, 0]])


def test_half_precision():
    model = random_model(d_kv=8, num_heads=3)
    ids = torch.tensor([[0, 7, 9, 33, 2], [0, 50, 2, 1, 1]])
    mask = (ids != 1).long()
    with torch.no_grad():
        full = model.embed(ids, mask)
        for dtype, limit in ((torch.bfloat16, 0.15), (torch.float16, 0.02)):
            half = model.to(dtype).embed(ids, mask)
            assert half.dtype == dtype
            assert (half.float() - full).abs().max() < limit * full.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    model = random_model(dropout_rate=0.0).train()
    ids = torch.tensor([[0, 7, 9, 33, 2], [0, 50, 2, 1, 1]])
    mask = (ids != 1).long()
    full = model.embed(ids, mask).detach()
    with torch.autocast("cpu", dtype=dtype):
        mixed = model.embed(ids, mask)
    assert (mixed - full).abs().max() < 0.15 * full.abs().max()
    mixed.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_float16_overflow_is_clamped():
    from pyterrier_expandr.encoding.models.anchordr_layers import finite

    tensor = torch.tensor([1.0, math.inf, -math.inf], dtype=torch.float16)
    assert finite(tensor).tolist() == [1.0, 64512.0, -64512.0]  # 65504 - 1000, as float16 holds it
    assert torch.equal(finite(tensor.float()), tensor.float())


def test_gradient_checkpointing_changes_no_gradient():
    ids = torch.tensor([[0, 7, 9, 33, 2], [0, 50, 2, 1, 1]])
    grads = []
    for checkpointing in (False, True):
        model = random_model(dropout_rate=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(block.gradient_checkpointing for block in [*model.encoder.block, *model.decoder.block])
        model.embed(ids, (ids != 1).long()).square().sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    dead = {name for name, grad in grads[0].items() if grad is None}
    assert dead == set(model.unused_parameters())
    for name in grads[0].keys() - dead:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-4, atol=1e-5)


def test_parameters_that_cannot_matter():
    model, ids = random_model(), torch.tensor([[0, 7, 9, 33, 2]])
    assert len(model.unused_parameters()) == 2 * 5
    with torch.no_grad():
        before = model.embed(ids)
        for parameter in model.unused_parameters().values():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(model.embed(ids), before)


def test_dropout_acts_in_training_only():
    model, ids = random_model(dropout_rate=0.3), torch.tensor([[0, 7, 9, 33, 2]])
    with torch.no_grad():
        assert torch.equal(model.embed(ids), model.embed(ids))
        model.train()
        assert not torch.equal(model.embed(ids), model.embed(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": 0}, "pad_token_id must be between 1 and 59, got 0"),
        ({"pad_token_id": None}, "got None"),
        ({"pad_token_id": 60}, "got 60"),
        ({"feed_forward_proj": "gated-silu"}, "'relu' or 'gated-gelu'"),
        ({"relative_attention_num_buckets": 2}, "4 or more"),
        ({"num_heads": 25}, "num_heads"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        random_model(**changes)


def test_what_the_model_cannot_take_is_refused():
    model, ids = random_model(), torch.tensor([[0, 7, 2]])
    with pytest.raises(TypeError, match="inputs_embeds"):
        model(ids, inputs_embeds=torch.zeros(1, 3, 24))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model.embed(ids, torch.ones(1, 4))
