"""The Wishlist experiment: its task, its statistics, and that what is stored is what was asked for."""

import dataclasses
import itertools
import math
import re

import jax
import numpy as np
import pytest

from experiments.rlhf import measuring, report, training, wishlist
from experiments.rlhf.curves import Curves
from experiments.rlhf.findings import claims, evidence, shared_errors
from experiments.rlhf.plan import QUICK, from_json, to_json
from experiments.rlhf.reinforcement import agree
from experiments.rlhf.statistics import at_kl, fit, over_seeds, peak
from experiments.rlhf.store import Store, read
from llm.config import DPO
from llm.errors import UserError


def row(response: str, prompt: str = 'caf') -> tuple[np.ndarray, int]:
    """A row of one-character tokens; `.` is EOS, `#` SEP."""
    ids = {name: i for i, name in enumerate(wishlist.NAMES)} | {'.': wishlist.EOS, '#': wishlist.SEP}
    tokens = [wishlist.BOS, *(ids[letter] for letter in prompt), wishlist.SEP, *(ids[letter] for letter in response)]
    return np.array(tokens + [wishlist.PAD] * (wishlist.LENGTH - len(tokens)), np.int32), len(tokens)


@pytest.mark.parametrize(
    'response, gold',
    [
        ('caf!!.', 4.0),  # the best there is
        ('caf.', 3.0),
        ('c.', 1.0),
        ('.', 0.0),
        ('cb.', 0.5),  # an unrequested letter
        ('cc.', 0.75),  # said before
        ('cbb.', 1 - 2 * 0.5 - 0.25),  # unrequested twice, and said before
        ('caf!!!.', 3.0),  # the third mark costs what it costs
        ('caf!!!!!!.', 0.0),
        ('c#.', 0.5),  # a special token
        ('caf', 2.0),  # no end
        ('cafcafcafcaf', 3 - 9 * 0.25 - 1),
    ],
)
def test_gold_reward_of_written_out_cases(response, gold):
    tokens, length = row(response)
    assert wishlist.gold_reward(tokens[None], np.array([length]))[0] == gold


def test_gold_reward_sees_neither_padding_nor_order():
    tokens, length = row('fab!c.')
    other = tokens.copy()
    other[length:] = wishlist.BANG
    shuffled, _ = row('!cbfa.')
    rows = np.stack([tokens, other, shuffled])
    assert len(set(wishlist.gold_reward(rows, np.full(3, length)).tolist())) == 1


def test_held_out_prompts_ask_for_letters_never_asked_together():
    train, held_out = wishlist.prompts()
    sets = [{frozenset(prompt[1:-1].tolist()) for prompt in part} for part in (train, held_out)]
    assert len(sets[0]) + len(sets[1]) == math.comb(8, 3) and not sets[0] & sets[1]
    assert len(train) + len(held_out) == 8 * 7 * 6


def test_the_demonstrator_writes_what_the_task_says():
    train, _ = wishlist.prompts()
    random = np.random.default_rng(0)
    shown = wishlist.demonstrate(np.repeat(train, 100, axis=0), random)
    slots = shown.lengths - wishlist.PROMPT_LENGTH - 1
    assert set(slots.tolist()) == {3, 4, 5, 6, 7}
    place = np.arange(wishlist.LENGTH)
    body = (place >= wishlist.PROMPT_LENGTH) & (place < shown.lengths[:, None] - 1)
    asked = np.any(shown.tokens[:, :, None] == shown.tokens[:, None, 1:4], axis=-1)
    assert np.mean(asked[body]) == pytest.approx(0.45 + 0.45 * 3 / 8, abs=0.01)
    assert np.mean(shown.tokens[body] == wishlist.BANG) == pytest.approx(0.1, abs=0.005)
    assert np.mean(np.sum((shown.tokens == wishlist.BANG) & body, axis=1) >= 3) < 0.02
    assert np.all(np.take_along_axis(shown.tokens, shown.lengths[:, None] - 1, 1) == wishlist.EOS)


def test_the_labeller_is_as_noisy_as_it_says():
    random = np.random.default_rng(0)
    first = np.full(200_000, 1.0)
    for second, probability in ((1.0, 0.5), (0.0, 0.05 + 0.9 / (1 + math.exp(-2))), (-9.0, 0.95)):
        preferred = wishlist.label(first, np.full_like(first, second), random)
        assert preferred.mean() == pytest.approx(probability, abs=0.005)


def test_the_text_of_a_response_shows_whether_it_ended():
    assert wishlist.text(*row('ca!.')) == 'c a !'
    assert wishlist.text(*row('ca!')) == 'c a ! …'


@pytest.fixture(scope='module')
def two_models():
    """Parameters of two models that have learned nothing, stacked, with wider logits than they start with."""
    configs = [training.make_config(DPO(), steps=2, batch_size=4, learning_rate=1e-2, seed=seed) for seed in (0, 1)]
    params = training.initial_parameters(configs)
    params['embedding'] = jax.tree.map(lambda table: 8 * table, params['embedding'])
    return params


@pytest.mark.slow
def test_kl_has_the_mean_of_the_log_ratio_and_less_noise(two_models):
    prompts = wishlist.prompts()[1][:8]
    policy, reference = (training.pick(two_models, [i]) for i in (0, 1))
    drawn = measuring.sample(policy, reference, prompts, 256, seed=0)
    ratio = np.subtract(*(measuring.log_probs(params, drawn.tokens, drawn.lengths) for params in (policy, reference)))
    error = float(np.std(ratio - drawn.kl)) / math.sqrt(ratio.size)
    assert drawn.kl.mean() > 10 * error
    assert np.mean(ratio - drawn.kl) == pytest.approx(0, abs=4 * error)
    assert np.std(drawn.kl) < np.std(ratio)
    assert np.all(measuring.sample(policy, policy, prompts, 2, seed=0).kl == 0)


@pytest.mark.slow
def test_a_population_trains_as_its_members_do_alone(two_models):
    random = np.random.default_rng(0)
    train, _ = wishlist.prompts()
    shown = wishlist.demonstrate(train[random.integers(0, len(train), 2 * 2 * 8)], random)
    table = {
        'tokens': shown.tokens.reshape(2, 8, 2, -1),
        'lengths': shown.lengths.reshape(2, 8, 2),
        'prompt_lengths': np.full((2, 8, 2), wishlist.PROMPT_LENGTH, np.int32),
        'reference_logprobs': np.full((2, 8, 2), -12.0, np.float32),
    }
    configs = [
        training.make_config(DPO(beta=beta), steps=3, batch_size=4, learning_rate=rate, seed=seed)
        for seed, (beta, rate) in enumerate(((0.1, 1e-3), (0.5, 3e-3)))
    ]
    order = training.orders(configs, 8)
    together, metrics = training.train(configs, two_models, table, order)
    assert metrics['loss'].shape == (3, 2)
    for i, config in enumerate(configs):
        own = {name: array[[i]] for name, array in table.items()}
        alone, _ = training.train([config], training.pick(two_models, [i]), own, order[:, [i]])
        own = training.pick(together, [i])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), own, alone)


def test_every_epoch_reads_every_row_once():
    config = training.make_config(DPO(), steps=6, batch_size=4, learning_rate=1e-3, seed=3)
    order = training.orders([config, dataclasses.replace(config, seed=4)], rows=12)
    assert order.shape == (6, 2, 4)
    for member, epoch in itertools.product(range(2), range(2)):
        assert sorted(order[3 * epoch : 3 * epoch + 3, member].ravel().tolist()) == list(range(12))
    assert not np.array_equal(order[:, 0], order[:, 1])


def test_an_ensemble_agrees_on_the_mean_or_the_least():
    raw, statistics = np.array([[3.0, 8.0], [10.0, 0.0]]), np.array([[1.0, 2.0], [0.0, 10.0]])
    np.testing.assert_allclose(agree(raw, statistics, 0.0), [1.0, 1.75])
    np.testing.assert_allclose(agree(raw, statistics, 1.0), [1.0, 0.0])


@pytest.mark.parametrize('kind, top', [('best_of_n', (0.8 / 0.4) ** 2), ('rl', math.exp(2 * (0.8 / 0.2 - 1)))])
def test_a_fit_finds_the_curve_it_was_made_from(kind, top):
    d = np.linspace(0.1, 3, 12)
    gain = d * (0.8 - 0.2 * (d if kind == 'best_of_n' else np.log(d)))
    noise = np.random.default_rng(0).normal(0, 0.2, (3, len(d), 50))
    found = fit(kind, np.broadcast_to((d**2)[:, None], (3, len(d), 1)), gain[:, None] + noise, resamples=200)
    assert found.alpha.low < 0.8 < found.alpha.high and found.alpha.mean == pytest.approx(0.8, abs=0.05)
    assert found.beta.low < 0.2 < found.beta.high and found.beta.mean == pytest.approx(0.2, abs=0.05)
    assert peak(kind, 0.8, 0.2) == pytest.approx(top)
    assert found.r_squared > 0.9
    np.testing.assert_allclose(found(d**2), gain, atol=0.1)


def test_a_curve_that_never_turns_has_no_peak():
    assert peak('best_of_n', 1.0, -0.1) == math.inf and peak('rl', 1.0, 0.0) == math.inf


def test_reading_a_curve_at_a_kl():
    kl, gold = np.array([0.0, 1.0, 4.0, 2.0]), np.array([1.0, 2.0, 0.0, 9.0])
    assert at_kl(kl, gold, 0.25) == pytest.approx(1.5)  # half way, by root
    assert at_kl(kl, gold, 2.25) == pytest.approx(1.0)  # where it is first reached, not on the way back
    assert at_kl(kl, gold, 0.0) == 1.0
    assert math.isnan(at_kl(kl, gold, 5.0))


def test_the_interval_over_three_seeds_is_students():
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2 and found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3))
    assert math.isnan(over_seeds(np.array([1.0])).low)


def test_what_is_stored_is_used_until_the_settings_change(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {'a': {'b': np.arange(3)}, 'c': np.float32(2)}

    for expected, settings in ((1, {'n': 1}), (1, {'n': 1}), (2, {'n': 2})):
        tree = Store(tmp_path, settings).stage('thing', compute)
        assert tree['a']['b'].tolist() == [0, 1, 2] and tree['c'] == 2
        assert len(calls) == expected
    stages, times = read(tmp_path)
    assert stages['thing'].keys() == {'a', 'c'} and times['thing'] >= (0, 0)
    with pytest.raises(UserError, match='holds no results'):
        read(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='has no other yet'):
        read(tmp_path, ('thing', 'other'))


def test_a_plan_survives_its_file():
    assert from_json(to_json(QUICK)) == QUICK


def fake_stages(plan, random):
    """Arrays of the right shapes: gold falls and KL rises along every policy's training."""
    seeds, prompts, looks = len(plan.seeds), 72, len(plan.looks) + 1
    gold = random.normal(1, 1, (seeds, prompts, plan.pool))
    tokens = np.broadcast_to(row('ca!.')[0].astype(np.uint8), (seeds, prompts, plan.pool, wishlist.LENGTH))
    models = {
        str(size): {
            'raw': gold[:, None] + random.normal(0, noise, (seeds, members, *gold.shape[1:])),
            'statistics': np.tile([1.0, 2.0], (seeds, members, 1)),
            'accuracy': np.full((seeds, members), 0.6),
        }
        for size, members, noise in ((plan.sizes[0], plan.members, 3.0), (plan.sizes[1], 1, 1.0))
    }

    def policies(arms):
        rise = np.linspace(0, 9, looks)[:, None] * np.linspace(1, 2, arms)[:, None, None]
        curve = lambda values: values + random.normal(0, 0.01, (seeds, arms, looks, prompts))
        ended = np.ones((seeds, arms, looks))
        last = {'tokens': tokens[:, :arms, :3], 'lengths': np.full((seeds, arms, 3), 9)}
        return {'kl': np.abs(curve(rise)), 'gold': curve(1 - rise / 9), 'proxy': curve(rise / 9), 'ended': ended} | last

    betas = len(plan.betas)
    return {
        'pool': {'tokens': tokens, 'lengths': np.full(gold.shape, 9), 'gold': gold},
        'preferences': {'bayes': np.full(seeds, 0.8)},
        'reward_models': models,
        'dpo': {
            'kl': np.broadcast_to(np.linspace(0.2, 2, betas)[:, None], (seeds, betas, prompts)),
            'gold': random.normal(1, 0.1, (seeds, betas, prompts)),
            'tokens': tokens[:, :betas, :3],
            'lengths': np.full((seeds, betas, 3), 9),
        },
        'ppo': policies(len(plan.coefficients)),
        'grpo': policies(len(plan.coefficients) + 1),
        'ensembles': policies(2 * len(plan.ensemble_coefficients)),
    }


@pytest.mark.parametrize('seeds', [(0,), (0, 1, 2)])
def test_the_page_says_what_the_arrays_say(tmp_path, seeds):
    plan = dataclasses.replace(QUICK, seeds=seeds)
    curves = Curves(plan, fake_stages(plan, np.random.default_rng(0)))
    falls = claims(curves)[1]
    assert falls.verdict == ('shown' if len(seeds) > 1 else 'one seed')
    text = report.write(tmp_path, curves, {'sft': (60.0, 90.0)}).read_text()
    assert all(claim.title in text for claim in claims(curves))
    assert 'c a !' in text
    assert not re.search(r'(src|href)="(?!#)', text)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert 'NaN' not in (tmp_path / 'results.json').read_text()


def test_errors_that_members_share_are_told_from_their_own():
    random = np.random.default_rng(0)
    plan = dataclasses.replace(QUICK, seeds=(0, 1))
    stages = fake_stages(plan, random)
    gold = stages['pool']['gold']
    models = stages['reward_models'][str(plan.sizes[0])]
    for shared, own, correlation in ((0.0, 1.0, 0.0), (1.0, 1.0, 0.5), (1.0, 0.0, 1.0)):
        noise = shared * random.normal(size=gold.shape)[:, None] + own * random.normal(size=models['raw'].shape)
        models['raw'] = 3 * gold[:, None] + random.normal(size=(2, 2, 72, 1)) + noise
        np.testing.assert_allclose(shared_errors(Curves(plan, stages)), correlation, atol=0.05)


def test_evidence_is_sure_when_every_repetition_is():
    sets = np.random.default_rng(0).normal(0, 0.1, (3, 12)).repeat(6, axis=1)
    assert evidence('', sets + 1.0).verdict == 'shown'
    assert evidence('', sets + np.array([[0.4], [5.0], [1.0]])).verdict == 'shown'  # far apart, but each sure
    assert evidence('', sets + np.array([[0.03], [5.0], [1.0]])).verdict == 'in every seed'
    assert evidence('', sets + np.array([[-1.0], [5.0], [1.0]])).verdict == 'not shown'
    assert evidence('', sets - 1.0).verdict == 'opposite'
