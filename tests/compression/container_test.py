"""The file format: what is written is read, and nothing damaged is taken for whole."""

import struct

import pytest

from llm.compression import container
from llm.compression.container import Coding, Header, from_bytes, to_bytes
from llm.errors import UserError

CODING = Coding(
    model='a',
    step=3,
    ema=False,
    params_sha256='00',
    tokenizer_sha256='11',
    tokens=5,
    streams=2,
    window=16,
    numerics={'host_threads': 2, 'compute_dtype': 'float32'},
    made_by={'cpu': 'c'},
    fingerprint='22',
)
DATA = to_bytes(Header(9, 'ab', CODING), b'payload\0\xff')


def test_what_is_written_is_read():
    for header, payload in ((Header(9, 'ab', CODING), b'payload\0\xff'), (Header(0, '', None), b'')):
        archive = from_bytes(to_bytes(header, payload), 'x.z')
        assert archive.header == header and archive.payload == payload


def test_every_damaged_byte_is_found():
    for place in range(len(DATA)):
        for bit in (1, 128):
            damaged = bytearray(DATA)
            damaged[place] ^= bit
            with pytest.raises(UserError, match=r'^x\.z '):
                from_bytes(bytes(damaged), 'x.z')


def test_every_truncation_and_every_addition_is_found():
    for size in range(len(container.MAGIC), len(DATA)):
        with pytest.raises(UserError, match=rf'x.z is cut short: it has {size} bytes.*copy it again'):
            from_bytes(DATA[:size], 'x.z')
    for added in (b'\0', DATA):
        with pytest.raises(UserError, match='damaged'):
            from_bytes(DATA + added, 'x.z')


@pytest.mark.parametrize('data', [b'', b'text', b'\x1f\x8b\x08\0', DATA[1:], DATA.replace(b'\r\n', b'\n')])
def test_what_is_no_archive_is_refused_by_name(data):
    with pytest.raises(UserError, match=r'x\.z is not an archive made by `python -m llm compress`'):
        from_bytes(data, 'x.z')


def test_a_newer_format_is_refused():
    newer = container.MAGIC + struct.pack('<H', 2) + DATA[len(container.MAGIC) + 2 :]
    with pytest.raises(UserError, match='has format 2, and this program reads format 1'):
        from_bytes(newer, 'x.z')


def test_a_header_that_cannot_be_is_damage():
    for old, new in (({'streams': 2}, {'streams': 6}), ({'window': 16}, {'window': 0})):
        fields = {name: getattr(CODING, name) for name in CODING.__dataclass_fields__} | old
        Coding(**fields)
        with pytest.raises(ValueError):
            Coding(**fields | new)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError):
        container.write_file(tmp_path / 'x.z', DATA)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_there_or_cannot_be_made_is_refused(tmp_path):
    (tmp_path / 'there').write_text('')
    with pytest.raises(UserError, match='is there already'):
        container.check_target(tmp_path / 'there')
    with pytest.raises(UserError, match='cannot make the folder'):
        container.check_target(tmp_path / 'there' / 'x.z')
    container.check_target(tmp_path / 'new' / 'folder' / 'x.z')
    assert list((tmp_path / 'new' / 'folder').iterdir()) == []
