"""FBGEMM in a process of its own: its wheel is made for another torch than ours.

The protocol is a line of JSON each way. ``{"prepare": ...}`` builds a case and answers with the
path of a sample of its result, ``{"repeats": n, "keep": false}`` times it and answers in seconds.
The tensors are made here from the shape, by the same code as there.

FBGEMM prints to stdout: the answers go to a copy of it, and it gets stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import backward
import calls
import forward
import steps
import tables
import torch
from fbgemm_gpu.split_embedding_configs import (  # type: ignore[import-not-found]
    EmbOptimType,
    SparseType,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (  # type: ignore[import-not-found]
    ComputeDevice,
    DenseTableBatchedEmbeddingBagsCodegen,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from inputs import Inputs, Shape, sample
from timing import seconds_per_call
from torch import Tensor

Call = Callable[[], Any]
TYPES = {"fp32": SparseType.FP32, "fp16": SparseType.FP16}
OPTIMIZERS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "row_wise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


def operator_for(each: list[Inputs], pooling: PoolingMode, optimizer: str = "sgd") -> Any:
    """Returns the operator over a table for each of these, with their values."""
    shapes, place = [inputs.shape for inputs in each], (EmbeddingLocation.HOST, ComputeDevice.CPU)
    operator = SplitTableBatchedEmbeddingBagsCodegen(
        [(shape.rows, shape.width, *place) for shape in shapes],
        weights_precision=TYPES[shapes[0].dtype],
        output_dtype=TYPES[shapes[0].dtype],
        optimizer=OPTIMIZERS[optimizer],
        learning_rate=steps.RATE,
        eps=steps.EPSILON,
        pooling_mode=pooling,
        device="cpu",
    )
    for inputs, weight in zip(each, operator.split_embedding_weights(), strict=True):
        weight.data.copy_(inputs.weight)
    forget_weights(each)
    return operator


def forget_weights(each: list[Inputs]) -> None:
    """Drops tables, which are made again if somebody asks: none lies here twice."""
    for inputs in each:
        del inputs.weight


def forward_call(work: Any, inputs: Inputs) -> Call:
    """A lookup or a bag."""
    small = isinstance(work, calls.SmallCall)
    bag = work.way == "bag" if small else isinstance(work, forward.Bag)
    mode = getattr(work, "mode", "sum")
    pooling = PoolingMode[mode.upper()] if bag else PoolingMode.NONE
    operator = torch.no_grad()(operator_for([inputs], pooling))
    indices = inputs.indices
    offsets = inputs.offsets if bag else torch.tensor([0, indices.numel()])
    factors = inputs.factors.float() if getattr(work, "weighted", False) else None
    return lambda: operator(indices, offsets, factors)


def backward_call(inputs: Inputs) -> Call:
    """The dense gradient of bags."""
    shape = inputs.shape
    operator = DenseTableBatchedEmbeddingBagsCodegen([(shape.rows, shape.width)], use_cpu=True)
    operator.weights.data.copy_(inputs.weight.flatten())
    del inputs.weight
    out = operator(inputs.indices, inputs.offsets)
    gradient, grad = inputs.gradient, torch.autograd.grad
    return lambda: grad(out, operator.weights, gradient, retain_graph=True)[0]


def step_call(work: Any, inputs: Inputs) -> Call:
    """A whole step: the update is a part of backward."""
    pooling = PoolingMode.SUM if work.bag else PoolingMode.NONE
    operator = operator_for([inputs], pooling, work.optimizer)
    indices = inputs.indices
    offsets = inputs.offsets if work.bag else torch.tensor([0, indices.numel()])
    weight: Tensor = operator.split_embedding_weights()[0]

    def step() -> Tensor:
        operator(indices, offsets).backward(inputs.gradient)
        return weight.detach()

    return step


def tables_call(work: Any, inputs: Inputs) -> Call:
    """Bags of many tables, and a step of them."""
    where = tables.joined(inputs)
    if isinstance(work, tables.Tables):
        operator = operator_for(inputs.tables, PoolingMode.SUM)
        return lambda: operator(*where)
    operator = operator_for(inputs.tables, PoolingMode.SUM, work.optimizer)
    gradient, weights = tables.gradient_of(inputs), operator.split_embedding_weights()

    def step() -> list[Tensor]:
        operator(*where).backward(gradient)
        return list(weights)

    return step


FORWARD = (forward.Lookup, forward.Bag, calls.SmallCall)
TABLES = (tables.Tables, tables.TablesStep)
STEPS = (steps.Step, tables.TablesStep)
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (*FORWARD, *TABLES, *STEPS, backward.Backward)
}


def build(work: Any, inputs: Inputs) -> Call:
    """Returns the call of a kind of work."""
    if isinstance(work, TABLES):
        return tables_call(work, inputs)
    if isinstance(work, steps.Step):
        return step_call(work, inputs)
    if isinstance(work, backward.Backward):
        return backward_call(inputs)
    return forward_call(work, inputs)


def checked(work: Any, inputs: Inputs, call: Call) -> Tensor:
    """Returns what is compared of the result of a call, or of some that follow each other."""
    for _ in range(work.checked_call - 1):
        call()
    if not isinstance(work, STEPS):
        return sample(call())
    found = sample(work.result(call(), inputs))
    forget_weights(inputs.tables if inputs.shape.tables else [inputs])
    return found


def main() -> None:
    """Answers until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work: Any = None
    call: Call | None = None
    prepared: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "prepare" in request:
            torch.set_num_threads(request["threads"])
            if request["prepare"] != prepared or isinstance(work, STEPS):  # they change
                call = None  # first the memory of the one before
                prepared = request["prepare"]
                work = KINDS[prepared["name"]](**prepared["options"])
                inputs = Inputs(Shape(**prepared["shape"]))
                call = build(work, inputs)
            assert call is not None
            torch.save(checked(work, inputs, call), request["result"])
        elif call is not None:
            answer["seconds"] = seconds_per_call(call, request["repeats"], request["keep"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
