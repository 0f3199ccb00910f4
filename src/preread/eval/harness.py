"""lm-eval's tasks for our answerers: a bridge that hands the document over apart from the question.

    from lm_eval import simple_evaluate
    simple_evaluate(PrereadLM(kit, answerer), tasks=["longbench_qasper"])

A request of a task has one prompt. Where its `doc` has a field with the document (`context`), and the prompt holds that
text, the request is split there: the document goes to the answerer, in its own way, and the rest of the prompt is the
question, in the decoder's chat template. Any other request is read as it is, as lm-eval's own `hf` model reads it:
bare, and without its beginning where it is longer than the window. What is judged is greedy only.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from preread.core.errors import PrereadWarning, UsageError, first_line
from preread.core.progress import progress
from preread.core.types import Document, Prompt, Sampling, text_hash
from preread.engines.local import LocalEngine
from preread.eval.answerer import Answerer
from preread.eval.case import Case, Item, Response
from preread.eval.kit import Kit
from preread.eval.leaks import refuse_leaks
from preread.eval.measuring import PIECE, ROWS_AT_ONCE
from preread.nn.hf import Decoder
from preread.nn.reading import read_all

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise UsageError(
        expected="lm-eval",
        got=first_line(missing),
        consequence="Its tasks cannot be run.",
        remedy="Install it: pip install 'preread[lm-eval]'.",
    ) from missing

MAX_TOKENS = 256
"""Of an answer, where the task does not say; as lm-eval's `hf` has it."""

Scored = tuple[float, bool]
"""Log-likelihood in nats, and whether the decoder would have written the same."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A request whose document is handed over apart.

    Args:
        document: the document's text.
        item: the rest of the prompt, with a continuation that is judged as its choice.
        max_tokens: of the answer.
    """

    document: str
    item: Item
    max_tokens: int


class PrereadLM(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """A decoder with an answerer, as lm-eval takes a model.

    Args:
        kit: decoder, and the folders that the answerer may need.
        answerer: who reads the documents; None reads every request as it is.
        field: of a task's documents, where the text stands.
    """

    def __init__(self, kit: Kit, answerer: Answerer | None = None, field: str = "context") -> None:
        super().__init__()
        self.kit, self.answerer, self.field = kit, answerer, field
        self.tokenizer = kit.decoder.tokenizer
        if answerer is not None:
            answerer.ready(kit)

    @property
    def label(self) -> str:
        """As refusals name what it judges."""
        return "lm-eval's tasks"

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, special tokens as the tokenizer adds them, unless the text has its start token already."""
        start = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (start and string.startswith(start))
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Scored]:  # noqa: ARG002
        """Of each request's continuation.

        Raises:
            Unfit: the answerer cannot do a document.
            UsageError: its weights were trained on one.
        """
        split, tokens = self._split(requests), self.kit.decoder.tokens
        plain = [i for i in range(len(requests)) if i not in split]
        found = dict(zip(plain, super().loglikelihood([requests[i] for i in plain], True), strict=True))
        texts = {i: requests[i].args[1].strip() for i in split}
        room = max((len(tokens(text)) for text in texts.values()), default=0)
        asked = {i: Apart(text, Item(str(i), question, (), (texts[i],)), room) for i, (text, question) in split.items()}
        for i, response in self._responses(asked).items():
            wanted = tokens(texts[i]).tolist()
            found[i] = (-response.choices[0].nats, tokens(response.answer).tolist()[: len(wanted)] == wanted)
        return [found[i] for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Of each request's whole text, in windows that judge every token once."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        each = [get_rolling_token_windows(ids, self.prefix_token_id, self.kit.decoder.window, 1) for ids in texts]
        windows = [[make_disjoint_window(pair) for pair in own] for own in each]
        scored = iter(self._scored([pair for own in windows for pair in own]))
        return [sum(next(scored)[0] for _ in own) for own in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """A greedy answer to each request; raises as `loglikelihood`, and `UsageError` for one that is to be drawn."""
        samplings = [_sampling(request.args[1]) for request in requests]
        split = self._split(requests)
        plain = [i for i in range(len(requests)) if i not in split]
        found = self._written({i: (requests[i].args[0], samplings[i]) for i in plain})
        asked = {
            i: Apart(text, Item(str(i), question, ()), samplings[i].max_tokens) for i, (text, question) in split.items()
        }
        for i, response in self._responses(asked).items():
            ends = [at for stop in samplings[i].stop if (at := response.answer.find(stop)) >= 0]
            found[i] = response.answer[: min(ends, default=None)]
        return [found[i] for i in range(len(requests))]

    def _split(self, requests: Sequence[Instance]) -> dict[int, tuple[str, str]]:
        """Document and question of the requests that have a document, by their place.

        Examples before the document are a part of the question.
        """
        found, lost = {}, 0
        for i, request in enumerate(requests if self.answerer else ()):
            text = request.doc.get(self.field) if isinstance(request.doc, Mapping) else None
            if not text or not isinstance(text, str):
                continue
            before, document, after = request.args[0].rpartition(text)
            if document:
                found[i] = document, "\n\n".join(filter(None, (before.strip(), after.strip())))
            lost += not document
        if lost:
            _warn(f"{lost} of {len(requests)} prompts do not hold their {self.field} word for word; read as they are")
        return found

    def _responses(self, asked: Mapping[int, Apart]) -> dict[int, Response]:
        """What the answerer does with requests, a document's in one case."""
        groups: dict[tuple[str, int], list[Item]] = defaultdict(list)
        for one in asked.values():
            groups[one.document, one.max_tokens].append(one.item)
        cases = [
            (Case(text_hash(text), Document(text_hash(text), text_hash(text), text), tuple(items)), most)
            for (text, most), items in groups.items()
        ]
        found: dict[int, Response] = {}
        if not cases or self.answerer is None:
            return found
        refuse_leaks(self.kit, self, self.answerer, [case for case, _ in cases])
        with progress("judging", len(cases)) as advance:
            for case, most in cases:
                answers = self.answerer.respond(self.kit, case, most)
                found |= {int(item.id): one for item, one in zip(case.items, answers.responses, strict=True)}
                advance()
        return found

    def _written(self, asked: Mapping[int, tuple[str, Sampling]]) -> dict[int, str]:
        """Answers to bare prompts, whose ends fit the window with room behind them."""
        engine, order, found = LocalEngine(self.kit.decoder, ROWS_AT_ONCE), list(asked), dict[int, str]()
        with progress("answering", len(order)) as advance:
            for start in range(0, len(order), ROWS_AT_ONCE):
                some = order[start : start + ROWS_AT_ONCE]
                samplings = [asked[i][1] for i in some]
                ids = [self.tok_encode(asked[i][0]) or [self.prefix_token_id] for i in some]
                rooms = [max(1, self.kit.decoder.window - sampling.max_tokens) for sampling in samplings]
                prompts = [Prompt(torch.tensor(_end(*pair))) for pair in zip(ids, rooms, strict=True)]
                answers = engine.complete(prompts, samplings)
                found |= {i: answer.text for i, answer in zip(some, answers, strict=True)}
                advance(len(some))
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[Scored]:
        """As `TemplateLM` calls it: texts, and ids of context and continuation."""
        return self._scored([(before, ids) for _, before, ids in requests])

    @torch.inference_mode()
    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        """Of ids behind ids, each read on its own, in batches of like length."""
        decoder, found = self.kit.decoder, {}
        whole = [_end([*before, *ids], decoder.window + 1) for before, ids in pairs]
        order = sorted(range(len(pairs)), key=lambda i: -len(whole[i]))
        with progress("judging", len(pairs)) as advance:
            for start in range(0, len(order), ROWS_AT_ONCE):
                some = order[start : start + ROWS_AT_ONCE]
                read = read_all(decoder, [Prompt(torch.tensor(whole[i][:-1])) for i in some])
                for i, states in zip(some, read, strict=True):
                    ids = torch.tensor(pairs[i][1])
                    found[i] = _judged(decoder, states[len(states) - len(ids) :], ids)
                advance(len(some))
        return [found[i] for i in range(len(pairs))]


def _judged(decoder: Decoder, states: Tensor, ids: Tensor) -> Scored:
    """[T] ids by the [T, D] states before them."""
    nats, greedy = 0.0, True
    for some, wanted in zip(torch.split(states, PIECE), torch.split(ids.to(states.device), PIECE), strict=True):
        logits = decoder.logits(some).float()
        nats += float(cross_entropy(logits, wanted, reduction="sum"))
        greedy &= bool((logits.argmax(-1) == wanted).all())
    return -nats, greedy


def _sampling(told: Mapping[str, Any]) -> Sampling:
    """What a task asks of an answer."""
    kwargs = normalize_gen_kwargs(dict(told), MAX_TOKENS)
    if kwargs.get("do_sample"):
        raise UsageError(
            expected="tasks that are answered greedily",
            got=f"one that draws its answers ({told})",
            consequence="Nothing was judged.",
            remedy="Set do_sample: false in the task.",
        )
    return Sampling(max_tokens=kwargs["max_gen_toks"], stop=tuple(stop for stop in kwargs["until"] if stop))


def _end(ids: list[int], most: int) -> list[int]:
    if len(ids) > most:
        _warn(f"a prompt of {len(ids)} tokens is read without its beginning: the last {most} fit")
    return ids[-most:]


def _warn(what: str) -> None:
    warnings.warn(what, PrereadWarning, stacklevel=3)
