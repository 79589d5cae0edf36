"""Arrays and tokens as JSON has them."""

import base64
import json
import math
from typing import Any

import numpy as np

from llm.tokenizer import Tokenizer

DTYPES = ('float32', 'int32', 'uint8')


def packed(array: Any) -> dict[str, Any]:
    """Shape, dtype and the numbers themselves, little endian and row by row, in base64.

    Text would be three times as long, has no infinities, and is slow to read. Floats become float32, whole numbers
    int32; booleans and bytes are uint8.
    """
    array = np.asarray(array)
    kind = {'f': 'float32', 'i': 'int32', 'b': 'uint8'}.get(array.dtype.kind, 'uint8')
    if array.dtype.kind == 'V':  # bfloat16, to NumPy, is of no kind
        kind = 'float32'
    array = np.ascontiguousarray(array.astype(np.dtype(kind).newbyteorder('<')))
    return {'shape': list(array.shape), 'dtype': kind, 'data': base64.b64encode(array.tobytes()).decode('ascii')}


def unpacked(value: dict[str, Any]) -> np.ndarray:
    """The array that `packed` was given."""
    dtype = np.dtype(value['dtype']).newbyteorder('<')
    return np.frombuffer(base64.b64decode(value['data']), dtype).reshape(value['shape'])


def token(tokenizer: Tokenizer, token_id: int) -> dict[str, Any]:
    """An id with its piece and its bytes."""
    token_id = int(token_id)
    return {
        'id': token_id,
        'text': tokenizer.piece(token_id),
        'bytes': list(tokenizer.token_bytes(token_id)),
        'special': token_id in tokenizer.special,
    }


def texts(tokenizer: Tokenizer, ids: Any) -> dict[str, str]:
    """The pieces of some ids, by id."""
    return {str(i): tokenizer.piece(i) for i in dict.fromkeys(np.asarray(ids).ravel().tolist())}


def dumps(value: Any) -> str:
    """JSON; numbers that are not finite, which it does not have, become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(',', ':'))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
