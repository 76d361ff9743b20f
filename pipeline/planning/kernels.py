"""One token of every beam through the Transformer, compiled for the processor at hand: the CPU's inner loop.

Rows are independent of each other: each meets its own past and no other row's, so threads take ranges of rows and meet
once per token. All that is compiled stands in this one file: Numba's cache on disk looks at the age of a function's own
file only, and would go on using what an older version of another file said (of `EXACT`, too: touch this file with it).

Flat arrays are indexed by unsigned numbers: for signed ones Numba tests whether they count from the end, and no loop is
vectorised.

Shape letters: R rows, W width, H heads, d head width, B stored tokens of a node, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from pipeline.models.compilation import Function, compiled
from pipeline.models.kernels import EXACT, kernel

Reals = NDArray[np.floating]
Index = np.uintp

ROWS = 16
"""Rows of a matrix product, computed alike whether all are wanted or not."""

COLUMNS = 32
"""Columns of a panel, the part of a matrix that is multiplied at a time."""

LANES = 16
"""Keys are stored so that the same channel of so many tokens lies side by side: a vector of 32-bit numbers."""


def reduction(function: Function) -> Function:
    """As `kernel`, for sums along an array: the compiler may choose their order, always the same one."""
    return compiled(function, EXACT | {"reassoc"})


class Network(NamedTuple):
    """The model's weights; matrices of a layer as (panels, depth, COLUMNS).

    `qkv` gives queries already divided by sqrt(d).
    """

    tokens: Reals
    positions: Reals
    attention_scale: Reals
    attention_shift: Reals
    qkv: Reals
    qkv_bias: Reals
    projection: Reals
    projection_bias: Reals
    mlp_scale: Reals
    mlp_shift: Reals
    expand: Reals
    expand_bias: Reals
    contract: Reals
    contract_bias: Reals
    scale: Reals
    shift: Reals
    head: Reals
    head_bias: Reals


class Nodes(NamedTuple):
    """Keys and values of all nodes.

    Attributes:
        keys: (layers, nodes, H, panels of LANES tokens, d, LANES).
        values: (layers, nodes, H, B, d).
    """

    keys: Reals
    values: Reals


class Token(NamedTuple):
    """One token of every row.

    Attributes:
        order: (R,), the rows in the order in which they are computed: those that share their past beside each other.
        embeddings: (R,) rows of `Network.tokens`.
        positions: (R,) rows of `Network.positions`.
        beams: (R,) columns of `chain`.
        chain: (levels, beams) nodes of each beam's past, the oldest first.
        hidden: (R,) how many levels at the beginning of the chain a row does not see.
        growing: (R,) the nodes that the token belongs to.
        origins: (R,) the nodes that the first copies of the same beams grow.
        head: Whose head gives the logits; negative for none.
        column: Where in its node the token is stored; negative for a value token, which is nowhere.
        forks: How many tokens a copy's node has to take over from the first copy's before.
    """

    order: NDArray[np.int64]
    embeddings: NDArray[np.int64]
    positions: NDArray[np.int64]
    beams: NDArray[np.int64]
    chain: NDArray[np.int64]
    hidden: NDArray[np.int64]
    growing: NDArray[np.int64]
    origins: NDArray[np.int64]
    head: int
    column: int
    forks: int


class _Past(NamedTuple):
    """Where the rows of a block find their keys and values.

    Attributes:
        path: (levels + 1, ROWS), nodes of the past, the oldest first, and the growing one.
        hidden: (ROWS,), how many levels at the beginning a row does not see.
    """

    path: NDArray[np.uintp]
    hidden: NDArray[np.int64]


@kernel
def decode(first: int, last: int, token: Token, network: Network, nodes: Nodes, x_RW: Reals, logits_RV: Reals) -> None:
    """Computes the rows `order[first:last]`.

    Args:
        first: Where in `token.order` to begin; a multiple of ROWS.
        last: Where to end.
        token: What to compute.
        network: The model.
        nodes: The token's column of the growing ones is written.
        x_RW: Space for the residual stream, for a multiple of ROWS rows.
        logits_RV: The result, if a head is asked for.
    """
    for i in range(first, last):
        row = token.order[i]
        for c in range(x_RW.shape[1]):
            x_RW[i, c] = network.tokens[token.embeddings[row], c] + network.positions[token.positions[row], c]
    normed = np.zeros((ROWS, x_RW.shape[1]), x_RW.dtype)
    y, added = normed.copy(), normed.copy()
    qkv = np.zeros((ROWS, network.qkv_bias.shape[1]), x_RW.dtype)
    inside = np.zeros((ROWS, network.expand_bias.shape[1]), x_RW.dtype)
    block = nodes.values.shape[3]
    scores = np.zeros((ROWS, nodes.keys.shape[2], (token.chain.shape[0] + 1) * block + LANES), x_RW.dtype)
    past = _Past(np.empty((token.chain.shape[0] + 1, ROWS), Index), np.empty(ROWS, np.int64))
    for layer in range(network.qkv.shape[0]):
        keys, values = nodes.keys[layer], nodes.values[layer]
        for start in range(first, last, ROWS):
            rows = min(ROWS, last - start)
            x = x_RW[start : start + ROWS]
            layer_norm(x, network.attention_scale[layer], network.attention_shift[layer], normed)
            affine(normed, network.qkv[layer], network.qkv_bias[layer], qkv)
            grow(keys, values, token, start, rows, qkv)
            find(token, start, rows, past)
            attend(qkv, keys.ravel(), values.ravel(), past, rows, block, token.column + 1, scores, y)
            affine(y, network.projection[layer], network.projection_bias[layer], added)
            add(x, added)
            layer_norm(x, network.mlp_scale[layer], network.mlp_shift[layer], normed)
            affine(normed, network.expand[layer], network.expand_bias[layer], inside)
            gelu(inside.ravel())
            affine(inside, network.contract[layer], network.contract_bias[layer], added)
            add(x, added)
    if token.head < 0:
        return
    logits = np.zeros((ROWS, logits_RV.shape[1]), x_RW.dtype)
    for start in range(first, last, ROWS):
        layer_norm(x_RW[start : start + ROWS], network.scale, network.shift, normed)
        affine(normed, network.head[token.head], network.head_bias[token.head], logits)
        for i in range(min(ROWS, last - start)):
            logits_RV[token.order[start + i]] = logits[i]


@kernel
def grow(keys: Reals, values: Reals, token: Token, start: int, rows: int, qkv: Reals) -> None:
    """Writes the keys and values of a block's rows to the nodes that they grow."""
    if token.column < 0:
        return
    for i in range(rows):
        row = token.order[start + i]
        if token.forks > 0 and token.origins[row] != token.growing[row]:
            take_over(keys, values, token.growing[row], token.origins[row], token.forks)
        store(keys, values, token.growing[row], token.column, qkv, i)


@kernel
def find(token: Token, start: int, rows: int, past: _Past) -> None:
    """Says where a block's rows find their past."""
    levels = token.chain.shape[0]
    for i in range(rows):
        row = token.order[start + i]
        past.hidden[i] = token.hidden[row]
        past.path[levels, i] = token.growing[row]
        for level in range(levels):
            past.path[level, i] = token.chain[level, token.beams[row]]


@kernel
def attend(
    qkv: Reals, keys: Reals, values: Reals, past: _Past, rows: int, block: int, written: int, scores: Reals, y: Reals
) -> None:
    """Writes softmax(q K) V to the first `rows` of `y`.

    Goes through the past level by level: rows beside each other often share a node, and it is read once for them, while
    the next one is on its way.

    Args:
        qkv: (ROWS, 3 W).
        keys: Of a layer, flat.
        values: Of a layer, flat.
        past: Of the rows.
        rows: How many there are.
        block: B, tokens of a full node.
        written: Tokens of the growing node; 0 leaves it out.
        scores: (ROWS, H, at least (levels + 1) B + LANES), space.
        y: (ROWS, W).
    """
    score_past(qkv, keys, past, rows, y.shape[1] // scores.shape[1], block, written, scores)
    for i in range(rows):
        for head in range(scores.shape[1]):
            softmax(scores[i, head, past.hidden[i] * block : (past.path.shape[0] - 1) * block + written])
    y[:rows] = 0
    mix_past(scores, values, past, rows, block, written, y)


@kernel
def score_past(
    qkv: Reals, keys: Reals, past: _Past, rows: int, head_width: int, block: int, written: int, scores: Reals
) -> None:
    """Writes q K; see `attend`."""
    _, heads, length = scores.shape
    panels, growing = (block + LANES - 1) // LANES, past.path.shape[0] - 1
    levels, size = growing + 1 if written > 0 else growing, panels * head_width * LANES
    q, flat = qkv.ravel(), scores.ravel()
    for level in range(levels):
        filled = panels if level < growing else (written + LANES - 1) // LANES
        first = 0
        while first < rows:
            last, following = sharing(past.path, level, first, levels, rows)
            for head in range(heads):
                fetch(keys, following * Index(heads) + Index(head), size)
                part = (past.path[level, first] * Index(heads) + Index(head)) * Index(size)
                for i in range(first, last):
                    if level >= past.hidden[i]:
                        q_at = Index(i * qkv.shape[1] + head * head_width)
                        at = Index((i * heads + head) * length + level * block)
                        score(q, q_at, keys, part, flat, at, head_width, filled)
            first = last


@kernel
def mix_past(shares: Reals, values: Reals, past: _Past, rows: int, block: int, written: int, y: Reals) -> None:
    """Adds the shares of V; see `attend`."""
    _, heads, length = shares.shape
    head_width, growing = y.shape[1] // heads, past.path.shape[0] - 1
    levels, size = growing + 1 if written > 0 else growing, block * head_width
    flat, mixed = shares.ravel(), y.ravel()
    for level in range(levels):
        tokens = block if level < growing else written
        first = 0
        while first < rows:
            last, following = sharing(past.path, level, first, levels, rows)
            for head in range(heads):
                fetch(values, following * Index(heads) + Index(head), size)
                part = (past.path[level, first] * Index(heads) + Index(head)) * Index(size)
                for i in range(first, last):
                    if level >= past.hidden[i]:
                        at = Index((i * heads + head) * length + level * block)
                        mix(
                            flat, at, values, part, mixed, Index(i * y.shape[1] + head * head_width), head_width, tokens
                        )
            first = last


@kernel
def sharing(path: NDArray[np.uintp], level: int, first: int, levels: int, rows: int) -> tuple[int, Index]:
    """Returns where the rows end that share their node with row `first`, and the node that comes after it."""
    node, last = path[level, first], first + 1
    while last < rows and path[level, last] == node:
        last += 1
    if last < rows:
        return last, path[level, last]
    return last, path[level + 1, 0] if level + 1 < levels else node


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, at: Any) -> Any:
    """Asks for the memory at `array[at]` to be brought near."""
    return numba.types.void(array, at), _prefetch


def _prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte_pointer, number, number, number])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte_pointer], kind)
    pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte_pointer)
    reading, soon, data = (ir.Constant(number, value) for value in (0, 2, 1))
    builder.call(function, [pointer, reading, soon, data])
    return context.get_dummy_value()


@kernel
def fetch(array: Reals, part: Index, size: int) -> None:
    """Asks for one of the parts of `size` numbers ahead of its use: without it a plan takes 1.25 times as long."""
    for line in range(0, size, 64 // array.itemsize):
        prefetch(array, part * Index(size) + Index(line))


@kernel
def score(
    q: Reals, q_at: Index, keys: Reals, keys_at: Index, scores: Reals, at: Index, head_width: int, panels: int
) -> None:
    """Writes q k of the LANES tokens of each panel; what lies behind a node's last token is overwritten by the next."""
    eight = head_width // 8 * 8
    for _ in range(panels):
        for t in range(LANES):
            scores[at + Index(t)] = 0
        for c in range(0, eight, 8):
            a, b = q_at + Index(c), keys_at + Index(c * LANES)
            q0, q1, q2, q3 = q[a], q[a + Index(1)], q[a + Index(2)], q[a + Index(3)]
            q4, q5, q6, q7 = q[a + Index(4)], q[a + Index(5)], q[a + Index(6)], q[a + Index(7)]
            for t in range(LANES):
                k = b + Index(t)
                # Pairs, so that no addition waits for seven others.
                scores[at + Index(t)] += (
                    (q0 * keys[k] + q1 * keys[k + Index(LANES)])
                    + (q2 * keys[k + Index(2 * LANES)] + q3 * keys[k + Index(3 * LANES)])
                ) + (
                    (q4 * keys[k + Index(4 * LANES)] + q5 * keys[k + Index(5 * LANES)])
                    + (q6 * keys[k + Index(6 * LANES)] + q7 * keys[k + Index(7 * LANES)])
                )
        for c in range(eight, head_width):
            for t in range(LANES):
                scores[at + Index(t)] += q[q_at + Index(c)] * keys[keys_at + Index(c * LANES + t)]
        at += Index(LANES)
        keys_at += Index(head_width * LANES)


@kernel
def mix(
    shares: Reals, at: Index, values: Reals, values_at: Index, y: Reals, y_at: Index, head_width: int, tokens: int
) -> None:
    """Adds share times value of each token of a node to `y`."""
    five = tokens // 5 * 5
    for _ in range(0, five, 5):
        s0, s1, s2, s3 = shares[at], shares[at + Index(1)], shares[at + Index(2)], shares[at + Index(3)]
        s4 = shares[at + Index(4)]
        for c in range(head_width):
            v = values_at + Index(c)
            y[y_at + Index(c)] += (
                s0 * values[v]
                + s1 * values[v + Index(head_width)]
                + s2 * values[v + Index(2 * head_width)]
                + s3 * values[v + Index(3 * head_width)]
                + s4 * values[v + Index(4 * head_width)]
            )
        at += Index(5)
        values_at += Index(5 * head_width)
    for _ in range(five, tokens):
        for c in range(head_width):
            y[y_at + Index(c)] += shares[at] * values[values_at + Index(c)]
        at += Index(1)
        values_at += Index(head_width)


@kernel
def store(keys: Reals, values: Reals, node: int, column: int, qkv: Reals, i: int) -> None:
    """Writes a token's keys and values to a layer's node."""
    heads, head_width = values.shape[1], values.shape[3]
    panel, lane = column // LANES, column % LANES
    for head in range(heads):
        for c in range(head_width):
            keys[node, head, panel, c, lane] = qkv[i, (heads + head) * head_width + c]
            values[node, head, column, c] = qkv[i, (2 * heads + head) * head_width + c]


@kernel
def take_over(keys: Reals, values: Reals, node: int, origin: int, tokens: int) -> None:
    """Copies the first `tokens` tokens of another node."""
    heads, head_width = values.shape[1], values.shape[3]
    for head in range(heads):
        for t in range(tokens):
            values[node, head, t] = values[origin, head, t]
        for panel in range((tokens + LANES - 1) // LANES):
            for c in range(head_width):
                for lane in range(min(LANES, tokens - panel * LANES)):
                    keys[node, head, panel, c, lane] = keys[origin, head, panel, c, lane]


@kernel
def affine(x: Reals, panels: Reals, bias: Reals, out: Reals) -> None:
    """Writes x A + b, where A is in panels of columns."""
    part = np.empty((ROWS, COLUMNS), x.dtype)
    for p in range(panels.shape[0]):
        multiply(x, panels, p, part)
        for r in range(ROWS):
            for c in range(min(COLUMNS, out.shape[1] - p * COLUMNS)):
                out[r, p * COLUMNS + c] = part[r, c] + bias[p * COLUMNS + c]


@intrinsic  # type: ignore[untyped-decorator]
def multiply(_: Any, x: Any, panels: Any, panel: Any, out: Any) -> Any:
    """Writes x (ROWS, depth) times `panels[panel]` (depth, COLUMNS) to `out` (ROWS, COLUMNS), all of them contiguous.

    Every element is added up in the order of the depth, so none depends on its place, on its neighbours, or on the
    processor as long as that has fused multiplications. Libraries promise nothing of the kind: OpenBLAS 0.3.30 without
    AVX-512 gave a row 2 or 3 values, by its place among the 16. Nor are they faster at 16 rows: on one core of a Zen 5,
    239 GFLOP/s here and 180 there with AVX-512, 115 and 57 with AVX2.
    """
    if any(array.layout != "C" for array in (x, panels, out)):
        raise numba.TypingError("multiply takes contiguous arrays")
    return numba.types.void(x, panels, panel, out), _multiply


def _multiply(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, panels, out = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 3))
    _, depth = cgutils.unpack_tuple(builder, x.shape)
    matrix = builder.gep(panels.data, [builder.mul(arguments[2], builder.mul(depth, depth.type(COLUMNS)))])
    rows, columns = _tile(context, out.data.type.pointee)
    for row in range(0, ROWS, rows):
        first_x = builder.gep(x.data, [builder.mul(depth.type(row), depth)])
        for column in range(0, COLUMNS, columns):
            first_out = builder.gep(out.data, [depth.type(row * COLUMNS + column)])
            first_matrix = builder.gep(matrix, [depth.type(column)])
            _multiply_tile(builder, (rows, columns), first_x, depth, first_matrix, first_out)
    return context.get_dummy_value()


def _tile(context: Any, real: Any) -> tuple[int, int]:
    """Returns the rows and columns that fill the processor's registers, and leave some for what is multiplied."""
    _, _, features = context.codegen().magic_tuple()
    rows, columns = (8, 32) if "+avx512f" in features.split(",") else (4, 16)
    return rows, columns if isinstance(real, ir.FloatType) else columns // 2


def _multiply_tile(builder: Any, tile: tuple[int, int], x: Any, depth: Any, matrix: Any, out: Any) -> None:
    """Adds up one tile in registers; `x`, `matrix` and `out` point to its first elements."""
    rows, columns = tile
    real = out.type.pointee
    vector = ir.VectorType(real, columns)
    alignment = 4 if isinstance(real, ir.FloatType) else 8
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), columns), [0] * columns)
    sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * columns)) for _ in range(rows)]
    with cgutils.for_range(builder, depth) as loop:
        at = builder.gep(matrix, [builder.mul(loop.index, depth.type(COLUMNS))])
        weights = builder.load(builder.bitcast(at, vector.as_pointer()), align=alignment)
        for row in range(rows):
            at = builder.gep(x, [builder.add(builder.mul(depth.type(row), depth), loop.index)])
            first = builder.insert_element(ir.Constant(vector, ir.Undefined), builder.load(at), ir.IntType(32)(0))
            factor = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), everywhere)
            product = builder.fmul(factor, weights, flags=("contract",))
            builder.store(builder.fadd(builder.load(sums[row]), product, flags=("contract",)), sums[row])
    for row in range(rows):
        at = builder.gep(out, [depth.type(row * COLUMNS)])
        builder.store(builder.load(sums[row]), builder.bitcast(at, vector.as_pointer()), align=alignment)


@kernel
def add(x: Reals, y: Reals) -> None:
    """Adds `y` to `x`."""
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[r, c] += y[r, c]


@reduction
def layer_norm(x: Reals, scale: Reals, shift: Reals, out: Reals) -> None:
    """Writes each row of `x` normalised, as `torch.nn.LayerNorm` with its default epsilon."""
    rows, width = x.shape
    real = x.dtype.type
    for r in range(rows):
        total = real(0)
        for c in range(width):
            total += x[r, c]
        mean = total / real(width)
        squares = real(0)
        for c in range(width):
            squares += (x[r, c] - mean) * (x[r, c] - mean)
        inverse = real(1) / np.sqrt(squares / real(width) + real(1e-5))
        for c in range(width):
            out[r, c] = (x[r, c] - mean) * inverse * scale[c] + shift[c]


@reduction
def softmax(scores: Reals) -> None:
    """Turns scores into shares, in place."""
    # Four at a time: the compiler does not split the search for a maximum by itself.
    a = b = c = d = scores[0]
    four = scores.size // 4 * 4
    for t in range(0, four, 4):
        a, b, c, d = max(a, scores[t]), max(b, scores[t + 1]), max(c, scores[t + 2]), max(d, scores[t + 3])
    highest = max(max(a, b), max(c, d))
    for t in range(four, scores.size):
        highest = max(highest, scores[t])
    total = scores.dtype.type(0)
    for t in range(scores.size):
        scores[t] = exponential(scores[t] - highest)
        total += scores[t]
    inverse = scores.dtype.type(1) / total
    for t in range(scores.size):
        scores[t] *= inverse


@kernel
def gelu(x: Reals) -> None:
    """Turns x into x times the normal distribution's share below x, in place."""
    real = x.dtype.type
    for i in range(x.size):
        x[i] = real(0.5) * x[i] * (real(1) + error_function(x[i] * real(math.sqrt(0.5))))


def exponential(x: Any) -> Any:
    """e^x; for x <= 0 in 32 bits by arithmetic that vectorises, within 2e-7 relative, from -87 on."""
    return math.exp(x)


@overload(exponential, inline="always")  # type: ignore[untyped-decorator]
def _exponential(x: Any) -> Callable[[Any], Any]:
    return _exponential_32 if x == numba.types.float32 else exponential


def _exponential_32(x: Any) -> Any:
    x = max(x, np.float32(-87))
    doublings = np.floor(x * np.float32(1 / math.log(2)) + np.float32(0.5))
    # log 2 in two parts (Cody and Waite 1980): the first has so few bits that its multiples are exact.
    rest = x - doublings * np.float32(0.693359375) + doublings * np.float32(0.693359375 - math.log(2))
    series = np.float32(1 / 720) + np.float32(1 / 5040) * rest
    series = np.float32(1 / 24) + rest * (np.float32(1 / 120) + rest * series)
    series = np.float32(1 / 2) + rest * (np.float32(1 / 6) + rest * series)
    series = np.float32(1) + rest * (np.float32(1) + rest * series)
    return series * np.int32((np.int32(doublings) + np.int32(127)) << np.int32(23)).view(np.float32)


def error_function(x: Any) -> Any:
    """erf(x); in 32 bits by arithmetic that vectorises, within 3e-7."""
    return math.erf(x)


@overload(error_function, inline="always")  # type: ignore[untyped-decorator]
def _error_function(x: Any) -> Callable[[Any], Any]:
    return _error_function_32 if x == numba.types.float32 else error_function


def _error_function_32(x: Any) -> Any:
    """Abramowitz and Stegun 1964, 7.1.26."""
    size = abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
    series = np.float32(-1.453152027) + np.float32(1.061405429) * t
    series = np.float32(-0.284496736) + t * (np.float32(1.421413741) + t * series)
    series = t * (np.float32(0.254829592) + t * series)
    return math.copysign(np.float32(1) - series * exponential(-size * size), x)
