"""What the harness asks a model, answered by ours."""

import sys
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from llm.errors import UserError, first_line
from llm.evaluation.subject import Subject
from llm.inference.sampling import SamplingParams
from llm.inference.scoring import Pair, rolling_pairs
from llm.interop.lm_eval import templates
from llm.tokenizer import GlassboxTokenizer

MAX_GENERATED = 256  # tokens, where a task names no limit; the harness has the same
_KNOWN = ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')


class GlassboxLM(TemplateLM):
    """What the harness asks a model: likelihoods of continuations and of whole texts, and texts.

    Texts are tokenised as in training, with <bos> in front where the tokenizer puts one. A special token that a text
    spells is ordinary text; with `as_chat`, where every context comes out of the chat template, it is meant.
    """

    def __init__(self, subject: Subject, as_chat: bool = False):
        super().__init__()
        self.subject, self._as_chat = subject, as_chat

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.subject.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokenizer.end_id

    @property
    def prefix_token_id(self) -> int:
        return self.subject.tokenizer.start_id

    @property
    def tokenizer_name(self) -> str:
        return f'glassbox-{self.subject.tokenizer.digest[:16]}'

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text. Without a prompt for an answer, the last message is one that has begun.

        Raises:
            UserError: if roles do not take turns, there is no template, or a message spells a special token.
        """
        return templates.render(self.subject.tokenizer, chat_history, open_end=not add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Nothing: what the harness would write down, it is told by `tokenizer_name`."""
        return ''

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; with <bos> in front, where the tokenizer puts one, unless that is declined."""
        tokenizer = self.subject.tokenizer
        prefix = list(tokenizer.prefix_ids)
        ids = templates.encode(tokenizer, string) if self._as_chat else tokenizer.encode(string)
        if add_special_tokens is False or (self._as_chat and ids[: len(prefix)] == prefix):
            return ids
        return [*prefix, *ids]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods in nats of continuations of contexts, and whether greedy decoding would write them."""
        asked = []
        for request in requests:
            pair = self.subject.text_pair(*request.args, self.tok_encode)
            asked.append((request.args, list(pair.context), list(pair.continuation)))
        return self._loglikelihood_tokens(asked, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        with _bar('log-likelihoods', len(requests), disable_tqdm) as bar:
            scores = self.subject.scorer.score([Pair(*request[1:]) for request in requests], bar.update)
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, see `scoring.rolling_pairs`."""
        texts = [request.args[0] for request in requests]
        cut = [rolling_pairs(self._rolled(text), self.prefix_token_id, self.max_length) for text in texts]
        with _bar('windows', sum(map(len, cut)), disable_tqdm) as bar:
            scores = iter(self.subject.scorer.score([pair for pairs in cut for pair in pairs], bar.update))
        return [sum(next(scores).logprob for _ in pairs) for pairs in cut]

    def _rolled(self, text: str) -> list[int]:
        """The ids of a text that is scored as a whole.

        A tokenizer from elsewhere puts its <bos> in front, if it does so with every text, though the text follows one
        already: the harness scores that second one too, and what it reports is to be comparable.
        """
        tokenizer = self.subject.tokenizer
        return tokenizer.encode(text) if isinstance(tokenizer, GlassboxTokenizer) else self.tok_encode(text)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continues contexts until a stop text, the end of the sequence, or the longest length.

        A context that leaves no room loses its first tokens.

        Raises:
            UserError: if a task asks for a way of drawing that there is not, or for more than the context holds.
        """
        generator = self.subject.assistant if self._as_chat else self.subject.generator
        jobs: dict[tuple, list[tuple[int, list[int]]]] = {}
        for number, request in enumerate(requests):
            context, arguments = request.args
            sampling, stop, longest = _drawing(arguments, number)
            if longest >= self.max_length:
                raise UserError(
                    f'a task asks for {longest} new tokens, and the context is {self.max_length}; set max_gen_toks in '
                    'its generation_kwargs'
                )
            ids = self.tok_encode(context)[-(self.max_length - longest) :] or [self.prefix_token_id]
            jobs.setdefault((stop, longest), []).append((number, ids, sampling))
        written: dict[int, str] = {}
        with _bar('texts', len(requests), disable_tqdm) as bar:
            for (stop, longest), job in jobs.items():
                job.sort(key=lambda one: -len(one[1]))
                for start in range(0, len(job), self.subject.generated_rows):
                    numbers, ids, sampling = zip(*job[start : start + self.subject.generated_rows])
                    found = generator.generate(ids, sampling, max_new_tokens=longest, stop=stop)
                    written.update(zip(numbers, (completion.text for completion in found)))
                    bar.update(len(numbers))
        return [written[number] for number in range(len(requests))]


def _drawing(arguments: dict[str, Any], number: int) -> tuple[SamplingParams, tuple[str, ...], int]:
    """Generation arguments of a task as sampling settings, stop texts and the longest length.

    Raises:
        UserError: for arguments that have no counterpart here.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    arguments = normalize_gen_kwargs(arguments, MAX_GENERATED)
    stop, longest = tuple(text for text in arguments.pop('until') if text), arguments.pop('max_gen_toks')
    sample = arguments.pop('do_sample')
    unknown = sorted(name for name, value in arguments.items() if name not in _KNOWN and value is not None)
    if unknown:
        raise UserError(
            f'a task asks for {", ".join(unknown)} in its generation_kwargs; known are {", ".join(_KNOWN)}, '
            'do_sample, until and max_gen_toks'
        )
    drawn = {name: arguments[name] for name in _KNOWN if arguments.get(name) is not None}
    temperature = float(drawn.pop('temperature', 1.0))
    temperature = temperature if sample else 0.0
    try:
        return SamplingParams(**drawn, temperature=temperature, seed=number if sample else 0), stop, longest
    except (TypeError, ValueError) as error:
        raise UserError(f"a task's generation_kwargs: {first_line(error)}") from error


def _bar(what: str, total: int, disabled: bool) -> tqdm:
    off = True if disabled else None  # None: where nobody looks
    return tqdm(desc=what, total=total, file=sys.stderr, disable=off, dynamic_ncols=True, leave=False)
