"""Packed stretches of running text: every token once a round, borders where documents end, none judged unseen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread.data.corpora import Corpus


def _corpus(lengths) -> Corpus:
    bounds = np.cumsum([0, *lengths])
    return Corpus(np.arange(bounds[-1], dtype=np.int32), bounds, tuple(map(str, lengths)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_a_stretch_is_the_text_in_order_cut_where_documents_end(lengths, count, length, seed):
    corpus = _corpus(lengths)
    if corpus.size < length:
        with pytest.raises(UsageError, match="tokens together"):
            corpus.packed(count, length, seed)
        return
    batch = corpus.packed(count, length, seed)
    assert batch.ids.shape == batch.judged.shape == (count * length,)
    assert sum(batch.lengths) == count * length
    assert min(batch.lengths) > 0
    owner = np.repeat(np.arange(len(lengths)), lengths)
    pieces = torch.split(batch.ids, list(batch.lengths))
    for piece in pieces:  # the tokens are their own places, so a piece of one document counts up by one
        assert piece.tolist() == list(range(int(piece[0]), int(piece[0]) + len(piece)))
        assert len(set(owner[piece.numpy()])) == 1
    for row in torch.split(batch.ids, length):
        assert row.tolist() == [(int(row[0]) + i) % corpus.size for i in range(length)]
    firsts = np.cumsum([0, *batch.lengths[:-1]])
    assert (~batch.judged).nonzero().flatten().tolist() == firsts.tolist()


def test_every_place_is_drawn_and_the_draw_is_the_seed_alone():
    corpus = _corpus([3, 4, 5])
    starts = {int(corpus.packed(1, 5, seed).ids[0]) for seed in range(200)}
    assert starts == set(range(12))
    assert torch.equal(corpus.packed(2, 5, 7).ids, corpus.packed(2, 5, 7).ids)
