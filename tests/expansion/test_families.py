"""Each family of architectures writes the same text alone and in a batch, whatever it keeps of a prompt."""

from dataclasses import replace

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.expansion.backends.base import Request
from pyterrier_expandr.expansion.backends.local.decoding import ONE_IN
from tests.backend_contract import ask
from tests.tiny_families import OTHER_STATE, SHARING, build_tiny

#: prompts of five lengths, two of them equal; one with several samples, one greedy
REQUESTS = [
    ask("why is the sky blue", max_new_tokens=6),
    ask("light " * 20, samples=(0, 1, 2), temperature=0.7, max_new_tokens=6),
    ask("sea", samples=(5,), max_new_tokens=4),
    ask("fog", temperature=0, max_new_tokens=6),
    ask("fox", samples=(0, 1), max_new_tokens=6),
]


@pytest.mark.parametrize("family", [*SHARING, *OTHER_STATE])
def test_a_text_does_not_depend_on_its_batch(family, tmp_path, caplog):
    build_tiny(family, tmp_path)
    backend = HuggingFaceBackend(tmp_path, device="cpu", batch_size=16)
    together = backend.generate(REQUESTS)
    alone = [[backend.generate([Request(r.messages, r.sampling, (s,))])[0][0] for s in r.samples] for r in REQUESTS]
    assert together == alone
    assert len({generation.text for group in together for generation in group}) >= 5
    said = [record for record in caplog.records if "more than keys and values" in record.getMessage()]
    assert len(said) == (family in OTHER_STATE)


@pytest.mark.parametrize("family", [*SHARING, "lfm2"])
def test_rows_that_have_ended_are_not_decoded_with_the_others(family, tmp_path):
    build_tiny(family, tmp_path)
    backend = HuggingFaceBackend(tmp_path, device="cpu", batch_size=32)
    backend.load().generation_config.eos_token_id = list(range(0, 400, 12))  # rows end early, each at a step of its own
    rows = []
    embeddings = backend.load().get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _, args, __: rows.append(args[0].shape))
    requests = [ask(text, samples=range(8), temperature=1.2, max_new_tokens=20) for text in ("sky", "fox")]
    together = backend.generate(requests)
    handle.remove()
    written = [generation.tokens[1] for group in together for generation in group]
    decoded = sum(count for count, length in rows if length == 1)
    assert min(written) < max(written) / 2
    if family in SHARING:
        assert decoded < sum(written) * ONE_IN / (ONE_IN - 1) < 16 * max(written)
    else:  # the step that reads the prompts writes a token as well
        assert decoded == 16 * (max(written) - 1)
    assert together == [[backend.generate([replace(r, samples=(s,))])[0][0] for s in r.samples] for r in requests]


@pytest.mark.parametrize("family", ["lfm2", "llama"])
def test_how_often_a_prompt_is_read(family, tmp_path):
    build_tiny(family, tmp_path)
    backend = HuggingFaceBackend(tmp_path, device="cpu", batch_size=16)
    read = []
    embeddings = backend.load().get_input_embeddings()
    embeddings.register_forward_hook(lambda _, args, __: read.append(tuple(args[0].shape)))
    backend.generate([ask("sky", samples=range(4), max_new_tokens=3)])
    prompt = backend.prompt_tokens(ask("sky").messages)
    assert read[0] == ((4, prompt) if family in OTHER_STATE else (1, prompt - 1))


def test_an_encoder_decoder_model_is_refused_at_once(tmp_path):
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is an encoder-decoder model \(t5\), which this package does not decode"):
        HuggingFaceBackend(tmp_path)


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"the config\.json of .* is damaged"):
        HuggingFaceBackend(tmp_path)
