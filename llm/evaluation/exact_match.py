"""Exact match: what the model writes after a prompt, greedily, against the answers that are right.

Spaces at both ends never count. A second rate compares as SQuAD does (Rajpurkar et al. 2016): without case,
punctuation, the articles a, an, the, and runs of spaces. Of an answer that would be nothing then ("A", "+") the
articles count, or the punctuation too.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from llm import chat
from llm.errors import UserError
from llm.evaluation import files, results
from llm.evaluation.files import Exercise
from llm.evaluation.results import Result
from llm.evaluation.subject import Subject
from llm.inference.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def measure(
    task: str,
    exercises: Sequence[Exercise],
    subject: Subject,
    *,
    as_chat: bool,
    max_new_tokens: int,
    until: Sequence[str],
    progress: Callable[[int], Any],
) -> Result:
    """Writes answers and compares them.

    Args:
        task: its name.
        exercises: at least one.
        subject: who writes.
        as_chat: ask plain prompts as messages of the user.
        max_new_tokens: longest answer.
        until: texts that end an answer to a plain prompt; that of a conversation ends by itself.
        progress: told how many exercises are done.

    Raises:
        UserError: with FILE:LINE, if a prompt and its answer do not fit the model's context, or the tokenizer refuses
            the prompt.
    """
    context = subject.model.config.context_length
    prompts = [_encode(exercise, subject, as_chat) for exercise in exercises]
    for exercise, (ids, _) in zip(exercises, prompts):
        if len(ids) + max_new_tokens - 1 > context:
            raise UserError(
                f'{exercise.where}: a prompt of {len(ids)} tokens and an answer of {max_new_tokens} go past the '
                f'context of {context}; shorten it, or set --max-new-tokens'
            )
    written: dict[int, Any] = {}
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i][1], -len(prompts[i][0])))
    while order:
        spoken = prompts[order[0]][1]
        batch = [i for i in order[: subject.generated_rows] if prompts[i][1] == spoken]
        order = order[len(batch) :]
        generator, ends = (subject.assistant, ()) if spoken else (subject.generator, until)
        found = generator.generate([prompts[i][0] for i in batch], GREEDY, max_new_tokens=max_new_tokens, stop=ends)
        written.update(zip(batch, found))
        progress(len(batch))
    samples = []
    for number, exercise in enumerate(exercises):
        text = written[number].text
        samples.append(
            {
                'where': exercise.where,
                'category': exercise.category,
                'prompt': exercise.prompt,
                'answers': exercise.answers,
                'written': text,
                'ended_by': written[number].finish_reason,
                'right': text.strip() in [answer.strip() for answer in exercise.answers],
                'right_normalised': any(equal_normalised(text, answer) for answer in exercise.answers),
            }
        )
    metrics = (
        results.rate('exact_match', (sample['right'] for sample in samples)),
        results.rate('exact_match_normalised', (sample['right_normalised'] for sample in samples)),
    )
    facts = {
        'prompts': len(exercises),
        'decoding': f'greedy, at most {max_new_tokens} tokens',
        'what ends the answer to a plain prompt': ', '.join(map(repr, until)),
        'answers cut at the longest': sum(sample['ended_by'] == 'length' for sample in samples),
        'plain prompts asked as chat messages': as_chat,
    }
    groups = results.by_category((sample['category'], sample['right']) for sample in samples)
    return Result(task, 'exact_match', metrics, facts, (), groups, tuple(samples))


def equal_normalised(text: str, answer: str) -> bool:
    """Whether a text is the answer as far as it counts; nothing is no answer."""
    for form in (normalised, _without_punctuation, _lower_case):
        if form(answer):
            return form(text) == form(answer)
    return False


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return _lower_case(re.sub(r'\b(a|an|the)\b', ' ', _without_punctuation(text)))


def _without_punctuation(text: str) -> str:
    return _lower_case(text.translate(_PUNCTUATION))


def _lower_case(text: str) -> str:
    return ' '.join(text.lower().split())


def _encode(exercise: Exercise, subject: Subject, as_chat: bool) -> tuple[list[int], bool]:
    """The ids of a prompt, and whether it is a conversation."""
    prompt = exercise.prompt
    with files.at(exercise.where):
        if isinstance(prompt, str) and not as_chat:
            return chat.encode_text(subject.tokenizer, prompt), False
        messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt
        return chat.encode_prompt(subject.tokenizer, messages), True
