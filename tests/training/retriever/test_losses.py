import math
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.training.data.examples import open_examples
from pyterrier_expandr.training.retriever.fused_batches import FusedBatchCollator, key_of
from pyterrier_expandr.training.retriever.losses import PROFILES, ExpandRLoss, find_false_negatives, fuse_rows, info_nce
from tests.tiny_encoder import build_tiny_bert, features_of, gradients, loss_of, open_tiny, used


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def rows():
    """Pocket's training queries, with as many expansions and negatives as their number says: 0 to 2 and 0 to 3."""
    documents = [row["text"] for row in pocket("train").get_corpus_iter()]
    found = []
    for n, example in enumerate(open_examples("pocket", "train", min_relevance=2)):
        own = {"query": example.query, "positive": example.positives[0], "positive_id": example.positive_ids[0]}
        found.append(
            own | {"expansions": documents[100 + 2 * n :][: n % 3], "negatives": documents[150 + 3 * n :][: n % 4]}
        )
    return found


def double(folder, **options):
    return open_tiny(folder, **options).double()


def test_the_loss_is_numpys(tiny_bert, rows):
    """Every setting against Eq. 6-9 written out with loops."""
    rng = np.random.default_rng(0)
    queries, texts = rng.normal(size=(3, 4)), rng.normal(size=(3 + 2 + 3, 4))
    counts, order = [2, 0, 1], [5, 0, 3, 1, 7, 2, 6, 4]  # 3 positives, 2 negatives, 2 + 0 + 1 expansions
    layout = {
        "query_order": torch.arange(3),
        "text_order": torch.tensor(order).argsort(),
        "expansion_counts": torch.tensor(counts),
        "document_keys": torch.tensor([[1, 11], [2, 12], [3, 13], [14, 14], [11, 11]]),
        "relevant_keys": torch.tensor([[1, 11], [2, 2], [3, 12]]),
    }
    left_out = {(0, 4), (2, 1)}  # the text of 0's positive as a negative; 1's positive, judged relevant to 2 as well
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    for normalize in (True, False):
        for renormalize in (True, False):
            for similarity in ("dot", "cosine"):
                for fusion, alpha in (("average", 0.5), (0.8, 0.8)):
                    prepare = unit if normalize else (lambda v: v)
                    losses = []
                    for i, count in enumerate(counts):
                        first = 5 + sum(counts[:i])
                        own = [prepare(texts[j]) for j in range(first, first + count)]
                        anchor = prepare(queries[i])
                        if own:
                            anchor = alpha * anchor + (1 - alpha) * sum(own) / len(own)
                        anchor = unit(anchor) if renormalize else anchor
                        scores = {}
                        for j in range(5):
                            if (i, j) not in left_out:
                                document = prepare(texts[j])
                                cosine = similarity == "cosine"
                                scores[j] = (unit(anchor) @ unit(document) if cosine else anchor @ document) / 0.3
                        losses.append(math.log(sum(math.exp(s) for s in scores.values())) - scores[i])
                    loss = ExpandRLoss(
                        open_tiny(tiny_bert, normalize=False),
                        fusion=fusion,
                        similarity=similarity,
                        temperature=0.3,
                        normalize=normalize,
                        renormalize=renormalize,
                    )
                    found = loss.loss_from_embeddings(
                        torch.from_numpy(queries), torch.from_numpy(texts[order]), layout
                    ).item()
                    assert found == pytest.approx(np.mean(losses), abs=1e-9), (normalize, renormalize, similarity)


def test_the_loss_of_hand_numbers():
    """Two orthogonal pairs at temperature 1: log(1 + 1/e); with the other document masked there is nothing to lose."""
    eye = torch.eye(2, dtype=torch.float64)
    assert info_nce(eye, eye, torch.arange(2), temperature=1).item() == pytest.approx(
        math.log1p(math.exp(-1)), abs=1e-12
    )
    masked = info_nce(eye, eye, torch.arange(2), false_negatives=~torch.eye(2, dtype=torch.bool))
    assert masked.item() == 0


def test_the_anchor_is_what_retrieval_uses(tiny_bert, rows):
    """The loss of a batch follows from ExpandREncoder's query and document vectors."""
    import pandas as pd

    encoder = ExpandREncoder(open_tiny(tiny_bert), device="cpu", query_prompt="query: ", doc_prompt="passage: ")
    frame = pd.DataFrame({"qid": [str(n) for n in range(6)], "query": [row["query"] for row in rows[:6]]})
    frame["query_expansions"] = [row["expansions"] for row in rows[:6]]
    anchors = np.stack(encoder.query_encoder()(frame)["query_vec"].to_list())
    texts = [row["positive"] for row in rows[:6]] + [text for row in rows[:6] for text in row["negatives"]]
    scores = anchors @ encoder.encode_docs(texts).T / 0.02
    expected = np.mean(np.log(np.exp(scores - scores.max()).sum(1)) + scores.max() - np.diag(scores))
    collate = FusedBatchCollator(encoder.model.preprocess, query_prompt="query: ", doc_prompt="passage: ")
    found = loss_of(ExpandRLoss.of_profile(encoder.model), collate(rows[:6])).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mini_batch_size", [1, 4, 7, 100])
@pytest.mark.parametrize("profile", ["paper", "reference-anchordr"])
def test_cached_gradients_are_the_plain_ones(tiny_bert, rows, mini_batch_size, profile):
    model = double(tiny_bert, normalize=profile == "paper")
    batch = FusedBatchCollator(model.preprocess)(rows[:8])
    plain = loss_of(ExpandRLoss.of_profile(model, profile, mini_batch_size=None), batch)
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    cached = loss_of(ExpandRLoss.of_profile(model, profile, mini_batch_size=mini_batch_size), batch)
    cached.backward()
    assert cached.item() == pytest.approx(plain.item(), abs=1e-9)
    assert expected.keys() == used(model)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-6)


def test_with_dropout_the_second_pass_draws_what_the_first_drew(tmp_path, rows):
    model = double(build_tiny_bert(tmp_path, dropout=0.3)).train()
    batch = FusedBatchCollator(model.preprocess)(rows[:8])
    plain, cached = [], []
    for found, size in ((plain, None), (cached, 1000)):
        torch.manual_seed(0)
        model.zero_grad()
        loss = loss_of(ExpandRLoss(model, mini_batch_size=size), batch)
        loss.backward()
        found += [loss.item(), *gradients(model).values()]
    assert plain[0] == pytest.approx(cached[0], abs=1e-9)
    for one, other in zip(plain[1:], cached[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_accumulation_is_another_loss(tiny_bert, rows):
    """8 x 1 has nothing to tell a positive from but its own negatives; in-batch 8 has seven other positives more."""
    model = double(tiny_bert)
    collate = FusedBatchCollator(model.preprocess)
    loss = ExpandRLoss.of_profile(model)
    together = loss_of(loss, collate(rows[:8])).item()
    alone = [loss_of(loss, collate([row])).item() for row in rows[:8]]
    assert np.mean(alone) < 0.8 * together
    without = [row | {"negatives": []} for row in rows[:8]]
    assert [loss_of(loss, collate([row])).item() for row in without] == [0.0] * 8
    assert loss_of(loss, collate(without)).item() > 0.1


def test_false_negatives_have_no_influence(tiny_bert, rows):
    model = double(tiny_bert)
    loss = ExpandRLoss.of_profile(model)
    first, second = (row | {"negatives": [], "expansions": []} for row in rows[1:3])
    collate = FusedBatchCollator(model.preprocess)
    base = loss_of(loss, collate([first, second])).item()
    # The same text as a hard negative, whatever its id.
    assert loss_of(loss, collate([first | {"negatives": [first["positive"]]}, second])).item() == pytest.approx(
        loss_of(loss, collate([first, second | {"negatives": [first["positive"]]}])).item()
    )
    # The same positive (by id, with another text) under another query: neither is the other's negative.
    twin = second | {"positive_id": first["positive_id"]}
    assert loss_of(loss, collate([first, twin])).item() == 0
    # A document judged relevant to the query, known from elsewhere.
    knowing = first | {"relevant": [key_of(f"id:{second['positive_id']}")]}
    half = loss_of(loss, collate([knowing, second])).item()
    alone = info_nce_of_second_row(model, collate([first, second]))
    assert half == pytest.approx(alone / 2) and half < base
    # Two rows of one query.
    assert loss_of(loss, collate([first, second | {"query": first["query"]}])).item() == 0
    # No gradient either.
    model.zero_grad()
    loss_of(loss, collate([first, twin])).backward()
    assert all(gradient.abs().max() == 0 for gradient in gradients(model).values())


def info_nce_of_second_row(model, batch):
    queries, texts = (model(feature)["sentence_embedding"] for feature in features_of(batch))
    queries, texts = queries[batch["label"]["query_order"]], texts[batch["label"]["text_order"]]
    return info_nce(queries[1:], texts, torch.tensor([1])).item()


def test_a_mask_never_hides_the_positive():
    keys = torch.tensor([[1, 1], [1, 1], [2, 2]])
    found = find_false_negatives(keys, torch.tensor([[1], [1], [2]]), torch.arange(3))
    assert found.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_permuting_the_batch_changes_nothing(tiny_bert, rows):
    model = double(tiny_bert)
    collate, loss = FusedBatchCollator(model.preprocess), ExpandRLoss.of_profile(model, mini_batch_size=3)
    order = np.random.default_rng(1).permutation(12)
    loss_of(loss, collate(rows[:12])).backward()
    expected = gradients(model)
    model.zero_grad()
    permuted = loss_of(loss, collate([rows[place] for place in order]))
    permuted.backward()
    assert permuted.item() == pytest.approx(loss_of(loss, collate(rows[:12])).item(), abs=1e-9)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-6)


def test_every_weight_moves_and_frozen_ones_do_not(tiny_bert, rows):
    model = open_tiny(tiny_bert)
    frozen = {name for name, _ in model.named_parameters() if "layer.0" in name}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    loss_of(ExpandRLoss.of_profile(model), FusedBatchCollator(model.preprocess)(rows[:8])).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert frozen and moved == used(model) - frozen


def test_sixteen_pairs_are_learnt_by_heart(tiny_bert, rows):
    model = open_tiny(tiny_bert)
    loss, batch = ExpandRLoss.of_profile(model), FusedBatchCollator(model.preprocess)(rows[:16])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def recall():
        with torch.no_grad():
            queries, texts = (model(feature)["sentence_embedding"] for feature in features_of(batch))
        layout = batch["label"]
        texts, n_documents = texts[layout["text_order"]], len(layout["document_keys"])
        anchors = fuse_rows(queries[layout["query_order"]], texts[n_documents:], layout["expansion_counts"], "average")
        return (anchors @ texts[:n_documents].T).argmax(1).eq(torch.arange(16)).float().mean()

    assert recall() < 0.5
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(loss, batch).backward()
        optimizer.step()
    assert recall() == 1.0


def test_in_evaluation_nothing_is_cached(tiny_bert, rows):
    model = open_tiny(tiny_bert)
    batch = FusedBatchCollator(model.preprocess)(rows[:5])
    loss = ExpandRLoss.of_profile(model, mini_batch_size=2)
    with torch.no_grad():
        found = loss_of(loss, batch)
    assert not found.requires_grad and found.item() == pytest.approx(loss_of(loss, batch).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "above 0"),
        ({"similarity": "l2"}, "'dot' or 'cosine'"),
        ({"mini_batch_size": 0}, "None for no caching"),
        ({"fusion": 1.5}, "between 0 and 1"),
        ({"normalize": False}, "remove that module"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny_bert, options, message):
    with pytest.raises(ValueError, match=message):
        ExpandRLoss(open_tiny(tiny_bert), **options)


def test_profiles_by_name(tiny_bert):
    assert PROFILES["paper"].batch_size == 1024 and PROFILES["reference-contriever"].pooling == "mean"
    loss = ExpandRLoss.of_profile(open_tiny(tiny_bert, normalize=False), "reference-anchordr")
    assert (loss.temperature, loss.normalize, loss.similarity) == (1.0, False, "dot")
    with pytest.raises(ValueError, match="one of .*reference-contriever"):
        ExpandRLoss.of_profile(open_tiny(tiny_bert), "contriever")


def _on_one_of_two(rank, folder, rows, port, out):
    """The gradients of 3 rows of 6, in a process of its own; one of the two has no expansion at all."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = double(folder)
    loss = ExpandRLoss.of_profile(model, mini_batch_size=2, gather_across_devices=True)
    loss.model = DistributedDataParallel(model, find_unused_parameters=True)  # BERT's pooler is not used
    value = loss_of(loss, FusedBatchCollator(model.preprocess)(rows[3 * rank : 3 * rank + 3]))
    value.backward()
    torch.save((value.item(), gradients(model)), f"{out}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # Gloo's destructor joins a thread that may wait for the GIL, and then neither ever ends


def test_two_processes_make_one_batch(tiny_bert, rows, tmp_path):
    """Loss and gradients over 2 x 3 rows, ragged everywhere, are those of one process with 6."""
    import socket

    batch = [*rows[:3], *(row | {"expansions": []} for row in rows[3:6])]
    batch[4] = batch[4] | {"positive": batch[0]["positive"]}  # a false negative in the other process
    assert len({len(row["negatives"]) for row in batch[:3]}) == 3 and any(row["expansions"] for row in batch)
    model = double(tiny_bert)
    expected = loss_of(ExpandRLoss.of_profile(model), FusedBatchCollator(model.preprocess)(batch))
    expected.backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_on_one_of_two, (tiny_bert, batch, port, str(tmp_path)), nprocs=2)
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert (first + second) / 2 == pytest.approx(expected.item(), abs=1e-9)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(one[name], gradient, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-6)
