"""How an answer is held against the reference, and how sure a mean over rows is. Standard library and NumPy.

Exact match and token F1 follow the evaluation of SQuAD (Rajpurkar et al., arXiv 1606.05250): both texts are normalised,
then compared as a whole or as bags of tokens. ROUGE-L is Lin's (2004): the longest common subsequence of tokens, as
F-measure with equal weights. Of the packages at hand `rouge-score` drops every letter that is not ASCII, which makes
answers in most languages of the world empty; so the few lines are here. Confidence intervals are percentiles of the
bootstrap over rows (Efron 1979).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NORMALIZATION = (
    "Unicode NFKC, case folded, punctuation and the articles a, an, the dropped, white space collapsed; "
    "characters of scripts without spaces are tokens of their own"
)
RESAMPLES = 1000
CONFIDENCE = 0.95
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Han, kana, Thai, Lao, Khmer, Myanmar: written without spaces between words.
_TOKEN = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    "|[^\\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over rows, and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def normalise(text: str) -> str:
    """The text as it is compared: see `NORMALIZATION`. Symbols such as + and = stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in folded)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def tokens(text: str) -> list[str]:
    """The tokens of a normalised text."""
    return _TOKEN.findall(normalise(text))


def exact_match(answer: str, reference: str) -> float:
    """1.0 when both are equal after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bags of tokens, 0 to 1; two empty texts are equal."""
    said, meant = tokens(answer), tokens(reference)
    return _f_measure((Counter(said) & Counter(meant)).total(), len(said), len(meant))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of tokens, 0 to 1; two empty texts are equal."""
    said, meant = tokens(answer), tokens(reference)
    return _f_measure(_common_subsequence(said, meant), len(said), len(meant))


def estimate(values: Sequence[float], seed: int) -> Estimate:
    """Mean and percentile bootstrap interval. `values`: one for each row, at least one.

    Equal values and seeds give equal estimates, whatever the machine.
    """
    array = np.asarray(values, dtype=np.float64)
    dice = np.random.Generator(np.random.PCG64(seed))
    means = [float(array[dice.integers(0, len(array), len(array))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # The mean lies between its bounds, whatever rounding makes of them.
    mean = float(array.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _f_measure(common: int, said: int, meant: int) -> float:
    if not said and not meant:
        return 1.0
    return 2 * common / (said + meant)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, by the row of the usual table."""
    lengths = [0] * (len(right) + 1)
    for one in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if one == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1]
