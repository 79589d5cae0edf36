"""Multiple choice: the choice that the model finds most likely after the prompt, against the right one.

A choice's likelihood is that of all its tokens, given the prompt. Longer choices are less likely for being longer, so a
second accuracy divides each log-likelihood by the UTF-8 bytes of the choice (for ASCII that is what
lm-evaluation-harness calls acc_norm). The probabilities of the choices, each over their sum, say how sure the model is:
how well they are calibrated is measured too, and their Brier (1950) score.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm.analysis.calibration import Reliability
from llm.errors import UserError
from llm.evaluation import files, results
from llm.evaluation.files import Prompt, Question
from llm.evaluation.results import Metric, Result
from llm.evaluation.subject import Subject
from llm.inference.scoring import Pair


def measure(
    task: str,
    questions: Sequence[Question],
    subject: Subject,
    *,
    as_chat: bool,
    bins: int,
    progress: Callable[[int], Any],
) -> Result:
    """Answers questions.

    Args:
        task: its name.
        questions: at least one.
        subject: who answers.
        as_chat: ask plain prompts as messages of the user.
        bins: of the reliability diagram.
        progress: told how many choices are done.

    Raises:
        UserError: if a choice does not fit the model's context.
    """
    pairs = [pair for question in questions for pair in _pairs(question, subject, as_chat)]
    scores = iter(subject.scorer.score(pairs, progress))
    reliability, samples, truncated = Reliability(bins), [], 0
    for question in questions:
        given = [next(scores) for _ in question.choices]
        logprobs = np.array([score.logprob for score in given])
        per_byte = logprobs / [len(choice.encode()) for choice in question.choices]
        probabilities = np.exp(logprobs - np.logaddexp.reduce(logprobs))
        best, best_per_byte = int(np.argmax(logprobs)), int(np.argmax(per_byte))
        reliability.add(probabilities[[best]], np.array([best == question.answer]))
        truncated += any(score.truncated for score in given)
        samples.append(
            {
                'where': question.where,
                'category': question.category,
                'prompt': question.prompt,
                'choices': question.choices,
                'answer': question.answer,
                'prediction': best,
                'prediction_per_byte': best_per_byte,
                'right': best == question.answer,
                'right_per_byte': best_per_byte == question.answer,
                'confidence': float(probabilities[best]),
                'logprobs': logprobs.tolist(),
                'tokens': [score.tokens for score in given],
            }
        )
    brier = [_brier(sample) for sample in samples]
    metrics = (
        results.rate('accuracy', (sample['right'] for sample in samples)),
        results.rate('accuracy_per_byte', (sample['right_per_byte'] for sample in samples)),
        Metric('calibration_error', reliability.error, len(samples)),
        results.mean('brier_score', brier, within=(0.0, 2.0)),
    )
    facts = {
        'questions': len(questions),
        'choices': f'{min(len(q.choices) for q in questions)} to {max(len(q.choices) for q in questions)} each',
        'accuracy of guessing': sum(1 / len(question.choices) for question in questions) / len(questions),
        'mean confidence': reliability.confidence,
        'bins of the calibration error': f'{bins} of equal width',
        'prompts cut to fit the context': truncated,
        'plain prompts asked as chat messages': as_chat,
    }
    groups = results.by_category((sample['category'], sample['right']) for sample in samples)
    return Result(task, 'multiple_choice', metrics, facts, tuple(reliability.rows()), groups, tuple(samples))


def _pairs(question: Question, subject: Subject, as_chat: bool) -> list[Pair]:
    with files.at(question.where):
        pairs = [_pair(question.prompt, choice, subject, as_chat) for choice in question.choices]
    context = subject.model.config.context_length
    if any(len(pair.continuation) > context for pair in pairs):
        raise UserError(f"{question.where}: a choice does not fit the model's context of {context} tokens; shorten it")
    return pairs


def _pair(prompt: Prompt, choice: str, subject: Subject, as_chat: bool) -> Pair:
    if isinstance(prompt, str) and not as_chat:
        apart = not prompt or prompt[-1].isspace() or choice[0].isspace()
        return subject.text_pair(prompt, choice if apart else f' {choice}')
    messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt
    return subject.chat_pair(messages, choice)


def _brier(sample: dict[str, Any]) -> float:
    """The squared distance of the probabilities from those of one who knows: 0 is best, 2 worst."""
    logprobs = np.array(sample['logprobs'])
    probabilities = np.exp(logprobs - np.logaddexp.reduce(logprobs))
    return math.fsum((p - (i == sample['answer'])) ** 2 for i, p in enumerate(probabilities))
