import pytest

from llm.analysis import units


@pytest.mark.parametrize(
    'shown, expected',
    [
        (units.count(950), '950'),
        (units.count(12_345), '12,345'),
        (units.count(4_213_456), '4.21 M'),
        (units.count(1.3e9), '1.30 B'),
        (units.flops(0), '0 FLOP'),
        (units.flops(999), '999 FLOP'),
        (units.flops(1.234e15), '1.23 PFLOP'),
        (units.flops(6e26), '600 YFLOP'),
        (units.size(0), '0 B'),
        (units.size(1023), '1,023 B'),
        (units.size(3.5 * 2**20), '3.50 MiB'),
        (units.duration(48.21), '48.2 s'),
        (units.duration(312), '5 min 12 s'),
        (units.duration(3599.7), '1 h 00 min'),
        (units.duration(11_100), '3 h 05 min'),
        (units.digits(1_234_567), '1,234,567'),
        (units.digits(float('nan')), 'nan'),
    ],
)
def test_numbers_are_shown_with_three_digits_and_their_unit(shown, expected):
    assert shown == expected


def test_a_table_aligns_its_columns():
    lines = units.table(['name', 'n'], [['a', 1], ['long', 100]]).splitlines()
    assert lines == ['name    n', '----  ---', 'a       1', 'long  100']
