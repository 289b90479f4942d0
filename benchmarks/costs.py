"""What requests cost by a model's shape: FLOPs, bytes and communication, as formulas. Derived in docs/scaling.md.

A FLOP is a multiplication or an addition of a matrix product; what is done entry by entry is left out, as are norms' weights and biases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder-only model.

    Attributes:
        depth: Number L of blocks.
        width: Width d of the residual stream.
        heads: Number of query heads.
        kv_heads: Number of key and value heads.
        head_width: Width of a head.
        inner: Width m of a key, the input of the MLP's out-projection; of one expert, where there are several.
        vocabulary: Number V of tokens.
        gated: Whether the MLP has three matrices, not two.
        tied: Whether the embedding is the output embedding as well.
        norm_behind: Whether a norm stands behind the MLP.
        experts: Number E of experts a block.
        active: Number of them that a token goes through.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    norm_behind: bool = False
    experts: int = 1
    active: int = 1

    @property
    def attention(self) -> int:
        """Weights of a block's attention."""
        return 2 * self.width * (self.heads + self.kv_heads) * self.head_width

    @property
    def mlp(self) -> int:
        """Weights of one MLP, or of one expert."""
        return (3 if self.gated else 2) * self.width * self.inner

    @property
    def router(self) -> int:
        """Weights that choose the experts of a block."""
        return self.experts * self.width if self.experts > 1 else 0

    @property
    def weights(self) -> int:
        """All weights P."""
        blocks = self.depth * (self.attention + self.experts * self.mlp + self.router)
        return blocks + (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def active_block(self) -> int:
        """Weights w of a block that a token goes through."""
        return self.attention + self.active * self.mlp + self.router


@dataclass(frozen=True)
class Rows:
    """What goes through a model at once.

    Attributes:
        count: Number N of rows.
        tokens: Tokens T of each.
        answer: Positions A of each whose logits are computed.
        before: Tokens of each that are in the key-value cache already.
    """

    count: int
    tokens: int
    answer: int
    before: int = 0


def forward_flops(shape: Shape, rows: Rows, blocks: int | None = None) -> float:
    """FLOPs of a forward pass: 2 N T w a block, 4 N T (T + before) h for its attention's scores, 2 N A V d for the logits.

    Args:
        shape: The model's shape.
        rows: The rows.
        blocks: Number of blocks that are run; all by default.
    """
    return (shape.depth if blocks is None else blocks) * _block(shape, rows, 1) + _head(shape, rows)


def backward_flops(shape: Shape, rows: Rows, blocks: int | None = None) -> float:
    """FLOPs of a backward pass over frozen weights: as the forward pass, and the attention's scores twice.

    Args:
        shape: The model's shape.
        rows: The rows.
        blocks: Number of blocks that it goes through; all by default.
    """
    return (shape.depth if blocks is None else blocks) * _block(shape, rows, 2) + _head(shape, rows)


def pass_flops(shape: Shape, rows: Rows) -> float:
    """FLOPs of a forward and a backward pass without any hook, down to the embeddings.

    Args:
        shape: The model's shape.
        rows: The rows.
    """
    return forward_flops(shape, rows) + backward_flops(shape, rows)


def forecast_flops(shape: Shape, rows: Rows, requests: int, rank: int = 1) -> float:
    """FLOPs of a forecast at all layers with C = I.

    Args:
        shape: The model's shape.
        rows: Rows of all requests.
        requests: Number B of requests.
        rank: Rank R of a request's update.
    """
    rows = replace(rows, tokens=rows.tokens - 1)  # nothing reads an answer's last token
    tokens = rows.count * rows.tokens
    layer = 2.0 * tokens * rank * (shape.inner + shape.width)  # q_r . a_t, and times p_r
    layer += 2.0 * requests * shape.inner * shape.width  # the values at the subjects
    down = backward_flops(shape, rows, shape.depth - 1)  # the graph begins behind the first block's MLP
    return forward_flops(shape, rows) + down + shape.depth * layer


def autograd_flops(shape: Shape, rows: Rows) -> float:
    """FLOPs of a pass that forms the gradient of every out-projection: 2 N T m d more a block.

    Args:
        shape: The model's shape.
        rows: The rows.
    """
    outer = shape.depth * 2.0 * rows.count * rows.tokens * shape.inner * shape.width
    return forward_flops(shape, rows) + backward_flops(shape, rows, shape.depth - 1) + outer


def edit_flops(shape: Shape, answers: Rows, subjects: Rows, layer: int, evaluations: int) -> float:
    """FLOPs of a search for target values as R-ROME makes it: beginnings once, ends in every evaluation of the loss.

    Args:
        shape: The model's shape.
        answers: Rows of requests in their contexts, from the subject's last token on.
        subjects: Rows of "{subject} is a".
        layer: The layer that is edited; what is below it runs once.
        evaluations: Evaluations of the loss with its gradient, one less than ``steps``.
    """
    total = 0.0
    for rows in (answers, subjects):
        if rows.before:
            total += forward_flops(shape, Rows(rows.count, rows.before, 1))
        total += forward_flops(shape, rows)
        above = shape.depth - layer
        total += evaluations * (forward_flops(shape, rows, above) + backward_flops(shape, rows, above - 1))
    return total


def weight_bytes(shape: Shape, size: float = 2) -> float:
    """Bytes of the weights.

    Args:
        shape: The model's shape.
        size: Bytes of one number.
    """
    return size * shape.weights


def read_bytes(shape: Shape, tokens: int, size: float = 2) -> float:
    """Bytes of weights that one pass over so many tokens reads: of E experts, those that some token goes through.

    Args:
        shape: The model's shape.
        tokens: Number n of tokens; routed evenly, 1 - (1 - active / E)^n of the experts are met.
        size: Bytes of one number.
    """
    met = 1 - (1 - shape.active / shape.experts) ** tokens
    block = shape.attention + shape.router + met * shape.experts * shape.mlp
    return size * (shape.depth * block + shape.vocabulary * shape.width)


def kept_bytes(shape: Shape, rows: Rows, size: float = 2) -> float:
    """Bytes that autograd keeps from the forward to the backward pass of a forecast, whose graph begins behind the first block.

    A token and block: the inputs of the norms, in float32; queries, keys, values and the attention's output; in the MLP the gate, its
    activation and the other half, or without a gate four parts of the activation. And the logits, three times in float32.

    Args:
        shape: The model's shape.
        rows: The rows.
        size: Bytes of one number.
    """
    norms = (4 if shape.norm_behind else 2) * shape.width * 4
    attention = 4 * shape.heads * shape.head_width * size
    mlp = (3 if shape.gated else 4) * shape.active * shape.inner * size
    return (shape.depth - 1) * rows.count * rows.tokens * (
        norms + attention + mlp
    ) + 3 * 4 * rows.count * rows.answer * shape.vocabulary


def activation_bytes(shape: Shape, rows: Rows, size: float = 2) -> float:
    """Bytes that a forecast holds at the end of its forward pass: what autograd keeps, and each block's keys and output.

    Args:
        shape: The model's shape.
        rows: The rows.
        size: Bytes of one number.
    """
    held = shape.active * shape.inner + shape.width
    return kept_bytes(shape, rows, size) + shape.depth * rows.count * rows.tokens * held * size


def search_bytes(shape: Shape, answers: Rows, layer: int, size: float = 2) -> float:
    """Bytes that one evaluation of a search for target values holds: what autograd keeps above the layer, and the key-value cache.

    Args:
        shape: The model's shape.
        answers: Rows of requests in their contexts, from the subject's last token on.
        layer: The layer that is edited.
        size: Bytes of one number.
    """
    cache = 2 * shape.depth * shape.kv_heads * shape.head_width * answers.count * (answers.before + answers.tokens)
    return kept_bytes(replace(shape, depth=shape.depth - layer), answers, size) + cache * size


def stream_bytes(shape: Shape, rows: Rows, size: float = 2) -> float:
    """The part of :func:`activation_bytes` that every device holds where matrices are split: the stream and the inputs of norms.

    Args:
        shape: The model's shape.
        rows: The rows.
        size: Bytes of one number.
    """
    norms = (shape.depth - 1) * (4 if shape.norm_behind else 2) * 4
    return rows.count * rows.tokens * shape.width * (norms + shape.depth * size)


def gather_bytes(shape: Shape, devices: int, passes: int = 2, size: float = 2) -> float:
    """Bytes that each device receives where weights are sharded (FSDP): all of the others' shares, in every pass.

    Args:
        shape: The model's shape.
        devices: Number D of devices.
        passes: Passes over the weights: one forward, one backward.
        size: Bytes of one number.
    """
    return passes * weight_bytes(shape, size) * (devices - 1) / devices


def reduce_bytes(shape: Shape, tokens: int, devices: int, blocks: int | None = None, size: float = 2) -> float:
    """Bytes that each device receives where matrices are split by the usual plan (tensor parallel): two sums a block and direction.

    Args:
        shape: The model's shape.
        tokens: Number n of tokens; a sum over D devices takes 2 (D - 1) / D of n d numbers.
        devices: Number D of devices.
        blocks: Number of blocks that are run; all by default.
        size: Bytes of one number.
    """
    sums = 4 * (shape.depth if blocks is None else blocks)
    return sums * tokens * shape.width * size * 2 * (devices - 1) / devices


def exchange_bytes(shape: Shape, tokens: int, devices: int, both_ways: bool = True, size: float = 2) -> float:
    """Bytes that each device receives where matrices are split and every one's outputs are gathered at once, as this package does it.

    Going forward all outputs of all matrices of the blocks, from the others; on the way back a sum over the devices for every matrix's input.
    What the output embedding adds, at few positions, is left out, as in :func:`reduce_bytes`.

    Args:
        shape: The model's shape, without experts.
        tokens: Number of tokens.
        devices: Number D of devices.
        both_ways: Whether there is a way back.
        size: Bytes of one number.
    """
    halves, queries, values = 2 if shape.gated else 1, shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    outputs = queries + 2 * values + halves * shape.inner + 2 * shape.width
    inputs = (3 + halves) * shape.width + queries + shape.inner
    numbers = outputs + (2 * inputs if both_ways else 0)
    return shape.depth * numbers * tokens * size * (devices - 1) / devices


def hand_over_bytes(shape: Shape, tokens: int, devices: int, size: float = 2) -> float:
    """Bytes that go from device to device where each holds some of the blocks: the stream, down and back.

    Args:
        shape: The model's shape.
        tokens: Number of tokens.
        devices: Number D of devices.
        size: Bytes of one number.
    """
    return 2 * (devices - 1) * tokens * shape.width * size


def _block(shape: Shape, rows: Rows, scores: int) -> float:
    linear = 2.0 * rows.count * rows.tokens * shape.active_block
    attended = 4.0 * rows.count * rows.tokens * (rows.before + rows.tokens) * shape.heads * shape.head_width
    return linear + scores * attended


def _head(shape: Shape, rows: Rows) -> float:
    return 2.0 * rows.count * rows.answer * shape.vocabulary * shape.width
