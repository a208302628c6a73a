"""What can be told of a prompt before it is rolled out: numbers made of its text, gold answer, task and metadata.

    surface    length, words, numbers, signs and commands of mathematics, by count (logarithmic)
    answer     form of the gold answer: its length, whether it is a whole number, a fraction, negative, has letters, ...
    task       which task, and the metadata: numbers as they are, texts of at most 20 values as indicators
    text       words and pairs of neighbours, hashed to 32,768 columns, weighted by TF-IDF, rows of length 1; of that
               the first 64 left singular vectors (scipy.sparse.linalg.svds with a fixed start)
    or, in the place of text, embeddings from a .npy file: a row for each prompt of the pool, in its order

All of it standardised over the pool: mean 0, variance 1, cut off at 6. What does not vary is left out. The gold answer
is used by its form only; a metadata field named in ``ignore`` is not used, which is for fields that hold the very thing
that is to be predicted.

TF-IDF: Salton and Buckley, 1988; its truncated SVD is latent semantic analysis (Deerwester et al., 1990). Measured on
29,551 problems with known pass rates: ``scripts/check_features.py``.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from insight_rl.errors import check, is_number
from insight_rl.types import Prompt

Matrix = NDArray[np.float32]

NUM_HASHED = 2**15
NUM_COMPONENTS = 64
MAX_TEXT = 4000
"""Characters read of a prompt: bounds the time that a hostile or a very long text can take."""
MAX_FITTED = 30_000
"""Prompts that the singular vectors are fitted on, evenly over the pool; those of others are projections."""
MAX_VALUES = 20
MAX_DEVIATIONS = 6.0
MAX_NUMBER = 1e12
_MAX_CACHED = 2

_TOKEN = re.compile(r"\\[a-z]+|[a-z]+|\d+|[^\w\s]", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WHOLE = re.compile(r"\s*-?\d{1,300}\s*")
_DECIMAL = re.compile(r"\s*-?\d{0,300}\.\d{1,300}\s*")
_cache: dict[tuple[bytes, str | None, tuple[str, ...]], Matrix] = {}


def prompt_features(prompts: Sequence[Prompt], *, embeddings: str | None = None, ignore: Sequence[str] = ()) -> Matrix:
    """Features of every prompt: float32 [N, d]. d depends on the pool; it is 0 where nothing tells the prompts apart.

    The same pool and settings give the same features on one machine. They are kept in memory for the last two pools
    (a comparison opens the same one many times). ``embeddings`` is the path of a .npy file. Raises ``UsageError`` for
    one that does not fit.
    """
    key = _fingerprint(prompts), _stamp(embeddings), tuple(sorted(ignore))
    if key not in _cache:
        parts = [surface(prompts), answer_form(prompts), declared(prompts, ignore)]
        parts.append(text_components(prompts) if embeddings is None else _embedded(embeddings, len(prompts)))
        while len(_cache) >= _MAX_CACHED:
            del _cache[next(iter(_cache))]
        _cache[key] = standardised(np.concatenate(parts, axis=1))
    return _cache[key]


def standardised(features: NDArray[np.floating[Any]]) -> Matrix:
    """The columns with mean 0 and variance 1 and no value beyond 6; those that do not vary are left out."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scaled = (features[:, varies] - mean[varies]) / deviation[varies]
    return np.ascontiguousarray(np.clip(scaled, -MAX_DEVIATIONS, MAX_DEVIATIONS), np.float32)


def surface(prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Counts of what stands in the text, log(1 + count): float64 [N, 14]."""
    return np.array([_surface(prompt.text[:MAX_TEXT]) for prompt in prompts], np.float64).reshape(len(prompts), 14)


def _surface(text: str) -> list[float]:
    numbers = _NUMBER.findall(text)
    counts = [
        len(text),
        len(text.split()),
        len(numbers),
        sum(map(len, numbers)),
        max(map(len, numbers), default=0),
        text.count("\\"),
        text.count("$"),
        text.count("="),
        sum(map(text.count, "+-*/^")),
        sum(map(text.count, "([{")),
        text.count(","),
        text.count("?"),
        text.count("\n"),
        sum(map(str.isupper, text)),
    ]
    return [math.log1p(count) for count in counts]


def answer_form(prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Form of the gold answer: float64 [N, 8]. Anything but a text is taken as it is written in Python."""
    rows = [_answer_form(prompt.answer) for prompt in prompts]
    return np.array(rows, np.float64).reshape(len(prompts), 8)


def _answer_form(answer: object) -> list[float]:
    text = (answer if isinstance(answer, str) else repr(answer))[:MAX_TEXT]
    whole = _WHOLE.fullmatch(text) is not None
    return [
        math.log1p(len(text)),
        float(whole),
        float(_DECIMAL.fullmatch(text) is not None),
        float("frac" in text or "/" in text),
        float("-" in text),
        float("," in text),
        float(any(map(str.isalpha, text))),
        math.log1p(len(text.strip().lstrip("-"))) if whole else 0.0,
    ]


def declared(prompts: Sequence[Prompt], ignore: Sequence[str]) -> NDArray[np.float64]:
    """Task and metadata: float64 [N, number of indicators and numbers]."""
    columns = _indicators([prompt.task for prompt in prompts])
    names = sorted({str(name) for prompt in prompts for name in prompt.metadata} - set(ignore))
    for name in names:
        values = [prompt.metadata.get(name) for prompt in prompts]
        numbers = np.array([_number(value) for value in values], np.float64)
        known = np.isfinite(numbers)
        if known.any():
            columns.append(np.where(known, numbers, numbers[known].mean()))
        columns += _indicators([value if isinstance(value, str) else None for value in values])
    return np.stack(columns, axis=1) if columns else np.empty((len(prompts), 0))


def _number(value: Any) -> float:
    if not is_number(value) and not isinstance(value, bool):
        return math.nan
    return min(max(float(value), -MAX_NUMBER), MAX_NUMBER)


def _indicators(values: Sequence[str | None]) -> list[NDArray[np.float64]]:
    """A column for each of the values but the last, which the others imply; none where there are more than 20."""
    distinct = sorted({value for value in values if value is not None})
    if not 1 <= len(distinct) <= MAX_VALUES:
        return []
    if None not in values:
        distinct = distinct[:-1]
    return [np.array([value == each for value in values], np.float64) for each in distinct]


def text_components(prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """The first 64 (or fewer) left singular vectors of the hashed TF-IDF of the texts: float64 [N, at most 64]."""
    weights = _tf_idf([prompt.text[:MAX_TEXT].lower() for prompt in prompts])
    weights = weights[:, np.flatnonzero(weights.getnnz(axis=0))]
    fitted = weights if len(prompts) <= MAX_FITTED else weights[:: -(-len(prompts) // MAX_FITTED)]
    size = min(NUM_COMPONENTS, min(fitted.shape) - 1)
    if size < 1:
        return np.empty((len(prompts), 0))
    start = np.random.default_rng(0).standard_normal(min(fitted.shape))
    _, lengths, directions = svds(fitted, k=size, v0=start, random_state=0)
    order = np.argsort(-lengths, kind="stable")
    directions = directions[order[lengths[order] > 1e-4 * lengths.max()]]  # what is below that is rounding
    components: NDArray[np.float64] = weights @ directions.T
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    return components * signs


def _tf_idf(texts: Sequence[str]) -> sparse.csr_matrix:
    """(1 + log count) log(N / document frequency) of words and neighbours, rows of length 1: [N, 32768]."""
    columns: list[int] = []
    weights: list[float] = []
    ends = [0]
    hashes: dict[str, int] = {}
    for text in texts:
        words = _TOKEN.findall(text)
        counts = Counter(words)
        counts.update(map(" ".join, pairwise(words)))
        for token, count in counts.items():
            column = hashes.get(token)
            if column is None:
                column = zlib.crc32(token.encode(errors="replace")) % NUM_HASHED
                if len(hashes) < 1_000_000:
                    hashes[token] = column
            columns.append(column)
            weights.append(1.0 + math.log(count))
        ends.append(len(columns))
    matrix = sparse.csr_matrix(
        (np.array(weights), np.array(columns, np.int32), np.array(ends)), shape=(len(texts), NUM_HASHED)
    )
    matrix.sum_duplicates()
    frequency = matrix.getnnz(axis=0)
    matrix = matrix @ sparse.diags(np.log((1.0 + len(texts)) / (1.0 + frequency)))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(length, 1e-12)) @ matrix)


def _embedded(path: str, size: int) -> NDArray[np.float64]:
    """The embeddings, reduced to their first 64 principal components where they are wider."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        check(False, "selector.prior.embeddings", path, f"cannot be read ({error}); give a .npy file of one array")
    usable = isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiu"
    check(usable, "selector.prior.embeddings", path, "must hold one array of numbers, [prompts, width]")
    check(
        len(array) == size,
        "selector.prior.embeddings",
        path,
        f"has {len(array)} rows and the pool has {size} prompts; give a row for each prompt of the pool, in its order",
    )
    check(bool(np.isfinite(array).all()), "selector.prior.embeddings", path, "holds values that are not finite")
    centred = array.astype(np.float64) - array.mean(axis=0, dtype=np.float64)
    if array.shape[1] <= NUM_COMPONENTS:
        return centred
    _, directions = np.linalg.eigh(centred.T @ centred)
    components: NDArray[np.float64] = centred @ directions[:, : -NUM_COMPONENTS - 1 : -1]
    return components


def _stamp(path: str | None) -> str | None:
    """A file's name with what changes when the file does."""
    if path is None or not Path(path).is_file():
        return path
    status = Path(path).stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _fingerprint(prompts: Sequence[Prompt]) -> bytes:
    """Changes with anything that the features are made of."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        metadata: Mapping[str, Any] = prompt.metadata
        content = (prompt.task, prompt.text[:MAX_TEXT], prompt.answer, sorted(metadata.items(), key=str))
        digest.update(repr(content).encode(errors="replace"))
    return digest.digest()
