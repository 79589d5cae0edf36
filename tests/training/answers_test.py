"""A model's own answers: drawn alike however they are batched, scored, and ranked into rows that DPO reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.command_line import main
from llm.config import SFT, Config, DataConfig, ModelConfig, RewardConfig, RolloutConfig, TokenizerConfig
from llm.data import preferences
from llm.data.split import is_held_out
from llm.errors import UserError
from llm.model.transformer import Transformer
from llm.tokenizer import train
from llm.training import answers
from llm.training.answers import Answers, draw_answers, rankings
from llm.workdir import Workdir

ROLLOUT = RolloutConfig(samples_per_prompt=3, max_new_tokens=8)
NAMES = [f'rows.jsonl#{line}' for line in range(1, 101)]
HELD_OUT = [i for i, name in enumerate(NAMES) if is_held_out(name)]
PERIOD = 72  # after which prompts come again

REWARDS = """
def letters(prompts, completions, **columns):
    return [len(set(completion)) for completion in completions]

def wanted(prompts, completions, wanted, **columns):
    assert [p[-1]['content'][0] for p in prompts] == wanted
    return [completion.count(letter) for completion, letter in zip(completions, wanted)]

def same(prompts, completions, **columns):
    return [0.5] * len(completions)
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A run with a random model that reads bytes, rows of prompts, and rewards."""
    home = tmp_path_factory.mktemp('answers')
    model = ModelConfig(vocab_size=272, context_length=32, num_layers=1, width=16, num_heads=2, init_std=0.5)
    workdir = Workdir(home / 'run')
    workdir.path.mkdir()
    workdir.write_config(Config(model=model, data=DataConfig(sequence_length=8), objective=SFT()))
    train(TokenizerConfig(kind='byte'), 272, []).save(workdir.tokenizer_file)
    letters = ['abcdefgh'[i % 8] for i in range(len(NAMES))]
    rows = [
        {'prompt': [{'role': 'user', 'content': letter + '?' * (i % 9)}], 'wanted': letter, 'number': i}
        for i, letter in enumerate(letters)
    ]
    (home / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (home / 'rewards.py').write_text(REWARDS)
    return home


@pytest.fixture(autouse=True)
def params(home, monkeypatch):
    model = Transformer(Workdir(home / 'run').config().model)
    made = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))['params']
    monkeypatch.setattr(answers, 'load_params', lambda workdir, step, ema: (0, made))
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)


@pytest.fixture
def draw(home):
    def draw(reward='letters', rollout=ROLLOUT, **settings):
        function = RewardConfig(function=f'{home}/rewards.py:{reward}')
        return draw_answers(Workdir(home / 'run'), f'jsonl:{home}/rows.jsonl', rollout, function, **settings)

    return draw


def test_batches_do_not_show(draw, monkeypatch):
    whole = draw()
    monkeypatch.setattr(answers, 'ROWS', 12)
    cut = draw()
    assert whole.texts == cut.texts
    np.testing.assert_array_equal(whole.ended, cut.ended)
    np.testing.assert_array_equal(whole.scores, cut.scores)
    assert whole.scores.shape == (len(NAMES) - len(HELD_OUT), 3)
    assert len({text for row in whole.texts for text in row}) > 100


def test_a_score_is_the_rewards_of_its_answer(draw):
    drawn = draw('wanted')  # which also checks that it is told the prompt and the columns of each answer
    for texts, scores, letter in zip(drawn.texts, drawn.scores, drawn.columns['wanted'], strict=True):
        assert [text.count(letter) for text in texts] == scores.tolist()


def test_each_side_has_its_own_prompts(draw):
    numbers = {side: draw(held_out=side).columns['number'] for side in (False, True)}
    assert numbers[True] == HELD_OUT
    assert numbers[False] == [i for i in range(len(NAMES)) if i not in HELD_OUT]


def test_which_prompts(draw):
    some = [draw(max_prompts=7, seed=seed).columns['number'] for seed in (0, 0, 1)]
    assert len(some[0]) == 7 and some[0] == some[1] != some[2]
    short = draw(max_prompt_tokens=12).columns['number']  # <bos> <|user|> letter <|end|> <|assistant|>, and 7 more
    assert short == [i for i in range(len(NAMES)) if i % 9 <= 7 and i not in HELD_OUT]
    new = [i for i in HELD_OUT if all(i % PERIOD != j % PERIOD for j in range(len(NAMES)) if j not in HELD_OUT)]
    assert draw(held_out=True, only_new=True).columns['number'] == new != HELD_OUT  # the others' prompts come twice


def test_another_seed_is_another_answer(draw):
    assert draw(seed=0).texts != draw(seed=1).texts


def test_answers_longer_than_the_context_are_refused(draw):
    with pytest.raises(UserError, match="answer of 32 tokens fills the model's context of 32"):
        draw(rollout=RolloutConfig(samples_per_prompt=2, max_new_tokens=32))


def ranked(texts, scores, prompt='p'):
    scores = np.array([scores], np.float32)
    return rankings(Answers([prompt], {}, [texts], np.ones(scores.shape, bool), scores))


def test_rankings_are_sorted_and_ties_between_all_are_left_out():
    (row,) = ranked(['a', 'b', 'c'], [0.5, 2.0, 0.5])
    assert row == {'prompt': 'p', 'responses': ['b', 'a', 'c'], 'scores': [2.0, 0.5, 0.5]}
    assert ranked(['a', 'b'], [1.0, 1.0]) == []
    assert ranked(['a', 'a', 'b'], [1.0, 1.0, 0.0])[0]['responses'] == ['a', 'b']  # drawn twice, stands once
    assert ranked(['a', 'a'], [1.0, 0.0]) == []  # cut once: the same text is not better than itself


def test_rows_are_what_preferences_are_read_from(draw):
    talk = [{'role': 'user', 'content': 'q'}]
    for prompt in ('q', talk):
        (row,) = ranked(['a', 'b', 'c'], [0.0, 2.0, 1.0], prompt)
        read = preferences.parse(row)
        assert (read.prompt, read.responses, read.scores) == (prompt, ['b', 'c', 'a'], [2.0, 1.0, 0.0])


def rank(home, *more, reward='letters', out='out.jsonl'):
    words = ['rank', '--workdir', f'{home}/run', '--prompts', f'jsonl:{home}/rows.jsonl', '--out', f'{home}/{out}']
    return main([*words, '--reward.function', f'{home}/rewards.py:{reward}', '--max-new-tokens', '8', *more])


def test_the_command_writes_rankings(home, draw, capsys):
    assert rank(home, '--samples', '3', '--seed', '2', out='new/out.jsonl') == 0
    drawn = draw(seed=2)
    rows = [json.loads(line) for line in (home / 'new/out.jsonl').read_text().splitlines()]
    assert rows == rankings(drawn)
    assert f'{len(rows)} rankings; of {len(drawn.prompts)} prompts x 3 answers' in capsys.readouterr().out


@pytest.mark.parametrize(
    'more, reward, message',
    [
        (['--samples', '1'], 'letters', '--samples is 1; a ranking needs at least 2'),
        (['--max-prompts', '0'], 'letters', '--max-prompts is 0'),
        (['--max-prompt-tokens', '0'], 'letters', '--max-prompt-tokens is 0'),
        (['--temperature', '0'], 'letters', 'temperature is 0.0; it must be positive'),
        ([], 'same', 'all have the same score, so there is nothing to prefer'),
        ([], 'nothing', 'has no function nothing'),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(home, capsys, more, reward, message):
    assert rank(home, *more, reward=reward, out='none.jsonl') == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error:') and message in error
    assert not (home / 'none.jsonl').exists()


def test_something_to_rank_by_is_asked_for(home, capsys):
    words = ['rank', '--workdir', f'{home}/run', '--prompts', 'task:python_functions', '--out', f'{home}/none.jsonl']
    assert main(words) == 2
    assert 'give --reward.function or --reward.models' in capsys.readouterr().err
