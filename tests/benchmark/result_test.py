import dataclasses
import json

import pytest

from llm.benchmark import compare, tables
from llm.benchmark.result import SCHEMA_VERSION, Case, Result, derive
from llm.errors import UserError

UNKNOWN = {
    'device_kind': 'abacus',
    'platform': 'abacus',
    'datasheet': {'flops_per_second': {}, 'bytes_per_second': None},
    'measured': {'flops_per_second': {'bfloat16': 1e12}, 'bytes_per_second': 1e10, 'best': {}},
    'note': 'abacus is not in the table of data sheets: peak and bandwidth are measured ones only',
}
KNOWN = UNKNOWN | {
    'datasheet': {'flops_per_second': {'bfloat16': 2e12}, 'bytes_per_second': 2e10},
    'note': '',
}
TEXTS = ('date', 'code', 'jax', 'jaxlib', 'flax', 'optax', 'python', 'device', 'cpu', 'xla_flags')
ENVIRONMENT = dict.fromkeys(TEXTS, '') | {'devices': 1, 'cores': 2, 'platform': 'abacus'}
STEP = Case(
    kind='train',
    name='small',
    shape={'layers': 1},
    dtype='bfloat16',
    backend='auto',
    kernel='reference attention',
    seconds=(0.1, 0.11, 0.09, 0.1, 0.12),
    tokens=1000,
    flops={'6N': 1e10, '6N+attention_causal': 2e10, '6N+attention_full': 3e10, 'compiled': None},
    bytes={'compiled': 1e8},
)


def result(*cases: Case, hardware=UNKNOWN) -> Result:
    return Result('train', {}, ENVIRONMENT, hardware, tuple(derive(case, hardware) for case in cases))


def test_rates_ratios_and_the_place_under_the_roof():
    derived = derive(STEP, KNOWN).derived
    assert derived['tokens_per_second']['median'] == 1000 / 0.1
    assert derived['flops_per_second'] == {'6N': 1e11, '6N+attention_causal': 2e11, '6N+attention_full': 3e11}
    assert derived['mfu']['6N+attention_causal'] == {'datasheet': 0.1, 'measured': 0.2}
    assert derived['mfu']['6N'] == {'datasheet': 0.05, 'measured': 0.1}
    # 200 FLOPs a byte x 1e10 bytes a second is more than the measured peak of 1e12.
    assert derived['intensity'] == 200
    assert derived['roofline']['limited_by'] == 'compute'
    assert derived['roofline']['fraction'] == pytest.approx(0.2)
    below = derive(dataclasses.replace(STEP, bytes={'compiled': 1e9}), KNOWN).derived['roofline']
    assert below['limited_by'] == 'memory'
    assert below['bound_flops_per_second'] == 20 * 1e10
    assert below['fraction'] == pytest.approx(1.0)


def test_several_devices_share_the_peak_of_all():
    two = derive(dataclasses.replace(STEP, devices=2), KNOWN).derived
    assert two['mfu']['6N']['datasheet'] == 0.025
    one_processor = KNOWN | {'platform': 'cpu'}  # virtual devices are no more of it
    assert derive(dataclasses.replace(STEP, devices=2), one_processor).derived['mfu']['6N']['datasheet'] == 0.05


def test_an_unknown_device_has_no_data_sheet_and_says_so():
    page = tables.markdown(result(STEP))
    assert 'abacus is not in the table of data sheets' in page
    assert 'MFU measured peak' in page
    assert 'MFU data sheet' not in page
    assert 'MFU data sheet' in tables.markdown(result(STEP, hardware=KNOWN))


def test_more_than_the_device_can_do_is_not_to_be_believed():
    impossible = derive(dataclasses.replace(STEP, seconds=(0.001,)), KNOWN)
    assert any('do not believe' in note for note in impossible.notes)
    assert not derive(STEP, KNOWN).notes


def test_a_result_survives_its_file(tmp_path):
    before = result(STEP, Case(kind='train', name='large', shape={}, backend='cudnn', unavailable='no GPU'))
    assert Result.load(before.save(tmp_path)) == before


def test_files_of_another_version_or_of_something_else_are_refused(tmp_path):
    path = result(STEP).save(tmp_path)
    data = json.loads(path.read_text())
    for content, says in (
        (json.dumps(data | {'schema_version': SCHEMA_VERSION + 1}), f'schema version {SCHEMA_VERSION + 1}'),
        (json.dumps({'loss': 1}), 'schema version None'),
        ('[1, 2]', 'schema version None'),
        ('{', 'not JSON'),
        (json.dumps({n: v for n, v in data.items() if n != 'cases'}), 'damaged'),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=says):
            Result.load(path)
    with pytest.raises(UserError, match='cannot read'):
        Result.load(tmp_path / 'none.json')


def test_a_result_against_itself_is_no_clear_difference(tmp_path):
    path = result(STEP).save(tmp_path)
    page = compare.compare_files((path, path))
    assert '1.000 [' in page
    assert 'no clear difference' in page
    assert 'only in' not in page


def test_twice_as_fast_is_a_ratio_of_2_with_its_interval():
    fast = dataclasses.replace(STEP, seconds=tuple(s / 2 for s in STEP.seconds))
    page = compare.compare(result(STEP), result(fast))
    assert '2.000 [' in page
    assert 'faster' in page
    assert 'slower' in compare.compare(result(fast), result(STEP))


def test_cases_without_a_partner_are_named():
    other = dataclasses.replace(STEP, name='other')
    missing = Case(kind='train', name='third', shape={}, backend='cudnn', unavailable='no GPU')
    page = compare.compare(result(STEP, other), result(STEP, missing))
    assert 'only in A: other auto' in page
    assert 'only in B: third cudnn (not measured: no GPU)' in page


def test_one_shape_by_two_backends_is_set_side_by_side_where_that_leaves_no_choice():
    named = lambda backend: dataclasses.replace(STEP, backend=backend)
    pairs, only_a, only_b = compare.match([named('reference')], [named('cudnn')])
    assert len(pairs) == 1 and not only_a and not only_b
    pairs, only_a, only_b = compare.match([named('reference'), named('blocks')], [named('cudnn')])
    assert not pairs and len(only_a) == 2 and len(only_b) == 1
    pairs, _, _ = compare.match([named('reference'), named('blocks')], [named('blocks'), named('cudnn')])
    assert {(a.backend, b.backend) for a, b in pairs} == {('blocks', 'blocks'), ('reference', 'cudnn')}


def test_what_differs_between_the_places_is_said():
    a, b = result(STEP), result(STEP)
    b = dataclasses.replace(b, environment=b.environment | {'device': 'new', 'jax': '9'}, flops_version=99)
    page = compare.compare(a, b)
    assert '- device:  in A, new in B' in page
    assert '- jax:  in A, 9 in B' in page
    assert 'FLOP conventions' in page
