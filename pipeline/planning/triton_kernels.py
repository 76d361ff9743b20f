"""What a GPU runs for each layer of each token: attention to what a sequence descends from, and the rest of a block.

Triton, which torch's CUDA builds bring. Held against the model in Triton's interpreter and compiled for an H100; **not
yet run on a GPU**. Every program computes some rows from beginning to end, and what a row gets depends on no other row.
So an episode's plan is the same to the bit in any slot and beside any neighbours.

What they are for, measured on an H200 with torch's operators: a plan for hopper is 25 000 launches, which take 78 ms
for one episode, however little each computes; for 25 episodes 198 of 291 ms are products of one or two rows with each
beam's own keys and values, which move 1.0 to 1.4 of the 4.3 TB/s that the memory has.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["past", "branched", "shared_length"])
def attend(
    y,
    qkv,
    shared_keys,
    shared_values,
    own_keys,
    own_values,
    origins,
    hidden,
    past,
    branched,
    shared_length,
    own_length,
    beams,
    places,
    stored: tl.constexpr,
    queries: tl.constexpr,
    heads: tl.constexpr,
    head_width: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    HEAD: tl.constexpr,
):
    """One softmax over the shared tokens, a sequence's own and the new one, whose keys and values are also stored.

    Shape letters as in `pipeline.planning.triton_stepper`. Scores, shares and sums are float32. The grid is blocks of
    `ROWS` queries, by pairs of an episode and a head.

    Args:
        y: (E * K * Q, W), what comes out.
        qkv: (E * K * Q, 3 W) of the new tokens; queries are divided by sqrt(head width).
        shared_keys: (E, H, shared_length, d).
        shared_values: Likewise.
        own_keys: (E, H, own_length, P, d).
        own_values: Likewise.
        origins: (E, K, own_length) int32, at which place each past token of a sequence was stored.
        hidden: (E,) int32, how many tokens at the beginning, of shared and own ones together, are not real.
        past: Own tokens of which `origins` knows the place.
        branched: Own tokens behind them, in which the copies of a beam differ; stored at their query's place.
        shared_length: Of the shared part.
        own_length: Of the memory for the own part.
        beams: K.
        places: P.
        stored: Whether the new tokens' keys and values are.
        queries: Q.
        heads: H.
        head_width: d.
        ROWS: Queries of one program.
        TOKENS: Looked at together.
        HEAD: The power of two from d on.
    """
    pair = tl.program_id(1).to(tl.int64)
    episode, head = pair // heads, pair % heads
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = place < beams * queries
    column = tl.arange(0, HEAD)
    wide = column < head_width
    row = episode * beams * queries + place
    at = row[:, None] * (3 * heads * head_width) + head * head_width + column[None, :]
    real = here[:, None] & wide[None, :]
    query = tl.load(qkv + at, mask=real, other=0.0).to(tl.float32)
    key = tl.load(qkv + heads * head_width + at, mask=real, other=0.0)
    value = tl.load(qkv + 2 * heads * head_width + at, mask=real, other=0.0)
    # A stored token sees itself; a value token is seen by none.
    highest = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, HEAD), tl.float32)
    own_keys += pair * own_length * places * head_width
    own_values += pair * own_length * places * head_width
    if stored:
        highest = tl.sum(query * key.to(tl.float32), axis=1)
        total += 1.0
        mixed = value.to(tl.float32)
        slot = ((past + branched) * places + place)[:, None] * head_width + column[None, :]
        tl.store(own_keys + slot, key, mask=real)
        tl.store(own_values + slot, value, mask=real)
    unreal = tl.load(hidden + episode)
    shared_keys += pair * shared_length * head_width
    shared_values += pair * shared_length * head_width
    for first in range(0, shared_length, TOKENS):
        token = first + tl.arange(0, TOKENS)
        inside = token < shared_length
        cell = token[:, None] * head_width + column[None, :]
        loaded = inside[:, None] & wide[None, :]
        keys = tl.load(shared_keys + cell, mask=loaded, other=0.0).to(tl.float32)
        values = tl.load(shared_values + cell, mask=loaded, other=0.0).to(tl.float32)
        seen = inside & (token >= unreal)
        scores = tl.sum(query[:, None, :] * keys[None, :, :], axis=2)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        before, shares = tl.exp(highest - higher), tl.exp(scores - higher[:, None])
        total = total * before + tl.sum(shares, axis=1)
        mixed = mixed * before[:, None] + tl.sum(shares[:, :, None] * values[None, :, :], axis=1)
        highest = higher
    origins += (episode * beams + place // queries)[:, None] * own_length
    for first in range(0, past + branched, TOKENS):
        token = first + tl.arange(0, TOKENS)
        inside = token < past + branched
        known = here[:, None] & (token < past)[None, :]
        origin = tl.load(origins + token[None, :], mask=known, other=0)
        origin = tl.where((token < past)[None, :], origin, place[:, None])
        cell = ((token * places)[None, :] + origin)[:, :, None] * head_width + column[None, None, :]
        loaded = (here[:, None] & inside[None, :])[:, :, None] & wide[None, None, :]
        keys = tl.load(own_keys + cell, mask=loaded, other=0.0).to(tl.float32)
        values = tl.load(own_values + cell, mask=loaded, other=0.0).to(tl.float32)
        seen = inside & (token + shared_length >= unreal)
        scores = tl.sum(query[:, None, :] * keys, axis=2)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        before, shares = tl.exp(highest - higher), tl.exp(scores - higher[:, None])
        total = total * before + tl.sum(shares, axis=1)
        mixed = mixed * before[:, None] + tl.sum(shares[:, :, None] * values, axis=1)
        highest = higher
    mixed = mixed / total[:, None]
    at = row[:, None] * (heads * head_width) + head * head_width + column[None, :]
    tl.store(y + at, mixed.to(y.dtype.element_ty), mask=real)


@triton.jit
def _normed(x, scale, bias, column, width: tl.constexpr):
    """Returns the layer norm of the rows of `x`, float32; columns from `width` on are 0 in `x` and in the result."""
    inside = column < width
    mean = tl.sum(x, axis=1) / width
    centered = tl.where(inside[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centered * centered, axis=1) / width
    scales = tl.load(scale + column, mask=inside, other=0.0)
    biases = tl.load(bias + column, mask=inside, other=0.0)
    return centered * tl.rsqrt(variance + 1e-5)[:, None] * scales[None, :] + biases[None, :]


@triton.jit
def _product(left, weight, bias, begun, inputs, outputs, num_inputs: tl.constexpr, num_outputs: tl.constexpr):
    """Returns float32 `left` times some rows of a (num_outputs, num_inputs) weight, plus their bias.

    `begun`, float32, is what they are added to; `inputs` and `outputs` say which columns of `left` and which rows of
    the weight.
    """
    inside = (inputs < num_inputs)[:, None] & (outputs < num_outputs)[None, :]
    tile = tl.load(weight + outputs[None, :] * num_inputs + inputs[:, None], mask=inside, other=0.0)
    biases = tl.load(bias + outputs, mask=outputs < num_outputs, other=0.0).to(tl.float32)
    return tl.dot(left, tile, acc=begun, input_precision="ieee") + biases[None, :]


@triton.jit
def _store_queries_keys_values(
    qkv, x, rows, here, column, norm_scale, norm_bias, weight, bias, width: tl.constexpr, WIDTH: tl.constexpr
):
    normed = _normed(x, norm_scale, norm_bias, column, width).to(weight.dtype.element_ty)
    stored = here[:, None] & (column < width)[None, :]
    for part in tl.static_range(3):
        begun = tl.zeros((x.shape[0], WIDTH), tl.float32)
        rows_of_part = part * width * width
        found = _product(normed, weight + rows_of_part, bias + part * width, begun, column, column, width, width)
        at = rows[:, None] * (3 * width) + part * width + column[None, :]
        tl.store(qkv + at, found.to(qkv.dtype.element_ty), mask=stored)


@triton.jit
def queries_keys_values(
    qkv,
    x,
    norm_scale,
    norm_bias,
    weight,
    bias,
    num_rows,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Writes (R, 3 W) of the normed residual stream `x`, (R, W)."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    here = row < num_rows
    real = here[:, None] & (column < width)[None, :]
    stream = tl.load(x + row[:, None] * width + column[None, :], mask=real, other=0.0)
    _store_queries_keys_values(qkv, stream, row, here, column, norm_scale, norm_bias, weight, bias, width, WIDTH)


@triton.jit
def after_attention(
    x,
    qkv,
    y,
    projection,
    projection_bias,
    norm_scale,
    norm_bias,
    expand,
    expand_bias,
    contract,
    contract_bias,
    next_scale,
    next_bias,
    next_weight,
    next_weight_bias,
    num_rows,
    width: tl.constexpr,
    inner: tl.constexpr,
    has_next: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
):
    """Adds the projected heads' output `y` and the MLP to the residual stream `x`, in place.

    Where there is a next layer, its queries, keys and values are written too: one launch fewer.
    """
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    here = row < num_rows
    at, real = row[:, None] * width + column[None, :], here[:, None] & (column < width)[None, :]
    stream = tl.load(x + at, mask=real, other=0.0)
    heads = tl.load(y + at, mask=real, other=0.0)
    stream = _product(heads, projection, projection_bias, stream, column, column, width, width)
    normed = _normed(stream, norm_scale, norm_bias, column, width).to(expand.dtype.element_ty)
    biases = tl.load(contract_bias + column, mask=column < width, other=0.0).to(tl.float32)
    stream += biases[None, :]
    for first in range(0, inner, INNER):
        unit = first + tl.arange(0, INNER)
        begun = tl.zeros((ROWS, INNER), tl.float32)
        inside = _product(normed, expand, expand_bias, begun, column, unit, width, inner)
        active = (0.5 * inside * (1.0 + tl.erf(inside * 0.7071067811865476))).to(contract.dtype.element_ty)
        cell = column[None, :] * inner + unit[:, None]
        loaded = (unit < inner)[:, None] & (column < width)[None, :]
        stream = tl.dot(active, tl.load(contract + cell, mask=loaded, other=0.0), acc=stream, input_precision="ieee")
    tl.store(x + at, stream, mask=real)
    if has_next:
        _store_queries_keys_values(
            qkv, stream, row, here, column, next_scale, next_bias, next_weight, next_weight_bias, width, WIDTH
        )
