"""Kernels in what TorchInductor compiles for a CPU, where it has none that would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import config, ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.codegen.cpp_utils import DTYPE_TO_CPP, cexpr_index
from torch._inductor.lowering import lowerings, to_dtype
from torch._inductor.utils import parallel_num_threads
from torch._inductor.virtualized import V, ops
from torch.utils._sympy.functions import FloorDiv

__all__ = ["add_as_made", "add_in_order", "check"]

_aten = torch.ops.aten
_CHUNK = 256  # lookups, of docs/numbers.md
_FEW = 16 * 1024  # elements: one thread is done with them before another one has begun

# Nothing may be thrown where threads share a loop: the process would end. A negative index is the
# largest of unsigned numbers.
_CHECK = """
    using Index = {dtype};
    using Number = std::make_unsigned_t<Index>;
    typedef Number Line __attribute__((vector_size(64), aligned(sizeof(Number)), may_alias));
    constexpr int64_t line = sizeof(Line) / sizeof(Number);
    const int64_t lookups = {lookups};
    int64_t lookup = 0;
    Line largest = {{}};
    for (; lookup + line <= lookups; lookup += line) {{
        const Line each = *reinterpret_cast<const Line*>(&{index});
        largest = each > largest ? each : largest;
    }}
    Number most = 0;
    for (int64_t lane = 0; lane < line; ++lane) most = std::max<Number>(most, largest[lane]);
    for (; lookup < lookups; ++lookup) most = std::max(most, static_cast<Number>({index}));
    const int64_t row = static_cast<Index>(most);
    const bool good = lookups == 0 || (0 <= row && row < {rows});
    {check}(good, "index out of bounds: 0 <= index < {bound}");
    result[0] = 0;
"""

# The first chunk of a row (docs/numbers.md) is added up where the row is, later ones in rows behind
# the table, and gradients of padding behind these. `places` has the place of each lookup, and then
# the row that each later chunk belongs to: there may be fewer than places for them, and zeros may
# be added to any row. Most batches have no row with two chunks, which a few counts, of groups of
# rows, show sooner than one of each row.
_FIND_PLACES = """
    constexpr int64_t chunk = {chunk}, groups = 4096;
    const int64_t lookups = {lookups}, rows = {rows}, later = lookups / chunk;
    {places}
    std::fill_n(places + lookups, later, 0);
    uint16_t counts_of_groups[groups] = {{}};
    uint16_t most = 0;
    for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
        const int64_t row = {index};
        {check}(0 <= row && row < rows, "index out of bounds: 0 <= index < {bound}");
        const bool is_padding = row == {padding_idx};
        places[lookup] = is_padding ? rows + later : row;
        most = std::max(most, counts_of_groups[row % groups] += !is_padding);
    }}
    if (most > chunk) {{
        std::vector<uint16_t> counts(rows);  // of lookups in the last chunk
        std::vector<int64_t> last(rows);  // place of the last chunk if it is not the first
        int64_t found = 0;
        for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
            const int64_t row = places[lookup];
            if (row >= rows) continue;
            if (counts[row] == chunk) {{
                last[row] = rows + found;
                places[lookups + found++] = row;
                counts[row] = 0;
            }}
            ++counts[row];
            if (last[row]) places[lookup] = last[row];
        }}
    }}
"""
# Threads share the columns, or where these are few the places.
_ADD_IN_ORDER = (
    _FIND_PLACES
    + """
    using Sum = {dtype};
    // Inductor's compiler makes no vectors of loops.
    typedef Sum Line __attribute__((vector_size(64), aligned(sizeof(Sum)), may_alias));
    constexpr int64_t line = sizeof(Line) / sizeof(Sum);
    const int64_t columns = {columns}, all_places = {all_places};
    const auto add = [](Sum* sums, const Sum* row, int64_t width) {{
        int64_t column = 0;
        for (; column + line <= width; column += line) {{
            *reinterpret_cast<Line*>(sums + column) += *reinterpret_cast<const Line*>(row + column);
        }}
        for (; column < width; ++column) sums[column] += row[column];
    }};
    const auto add_columns = [=](int64_t first, int64_t last) {{
        for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
            Sum* const sums = result + places[lookup] * columns;
            add(sums + first, &{gradient} + first, last - first);
        }}
    }};
    const int64_t lines = std::max<int64_t>(1, (columns + line - 1) / line);
    const int64_t neighbours = line * std::max<int64_t>(1, 4 / lines);
    const auto add_places = [=](uint64_t part, uint64_t parts) {{
        std::vector<int64_t> own(lookups + 1);
        int64_t count = 0;
        for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
            // Neighbours share lines of the cache. The constant, 2^32 / 1.618, spreads the others.
            const uint32_t mixed = static_cast<uint32_t>(places[lookup] / neighbours) * 0x9E3779B9u;
            own[count] = lookup;
            count += mixed * parts >> 32 == part;  // No branch: half of them would be mispredicted.
        }}
        for (int64_t each = 0; each < count; ++each) {{
            const int64_t lookup = own[each];
            add(result + places[lookup] * columns, &{gradient}, columns);
        }}
    }};
    const int64_t threads = {threads}, size = all_places * columns;
    if (threads == 1 || size + lookups * columns < {few}) {{
        std::fill_n(result, size, Sum(0));
        add_columns(0, columns);
    }} else {{
        #pragma omp parallel num_threads(threads)
        {{
            #pragma omp for
            for (int64_t part = 0; part < threads; ++part) {{
                const int64_t first = size * part / threads, last = size * (part + 1) / threads;
                std::fill(result + first, result + last, Sum(0));
            }}
            #pragma omp for
            for (int64_t part = 0; part < threads; ++part) {{
                const int64_t first = lines * part / threads, last = lines * (part + 1) / threads;
                if (lines < threads) add_places(part, threads);
                else add_columns(first * line, std::min(last * line, columns));
            }}
        }}
    }}
    for (int64_t each = 0; each < later; ++each) {{
        Sum* const sums = result + places[lookups + each] * columns;
        add(sums, result + (rows + each) * columns, columns);
    }}
"""
)


class _Kernel(CppTemplate):
    """A kernel of one thread, until it asks for more."""

    def __init__(self, text: str, inputs: dict[str, Any], rows: Any, layout: Any) -> None:
        realized = [ir.ExternKernel.realize_input(each) for each in inputs.values()]
        super().__init__("lookup", realized, layout, num_threads=1)
        self.text, self.names, self.rows = text, tuple(inputs), rows

    def render(self, kernel: Any, **options: Any) -> str:  # type: ignore[override]
        """The code."""
        result = options.get("template_buffer_node") or self.output_node
        inputs = dict(zip(self.names, self.input_nodes, strict=True))
        signature = kernel.def_kernel(
            inputs=inputs, outputs={"result": result}, extra_sizevars=[self.rows]
        )
        rows = kernel.rename_indexing(self.rows)
        fields = {
            "check": kernel.assert_function,
            "lookups": kernel.size(inputs["indices"], 0),
            "rows": cexpr_index(rows),  # type: ignore[no-untyped-call]
            "bound": str(self.rows),
            "index": kernel.index(inputs["indices"], ["lookup"]),
        }
        body = self.text.format(**fields, **self.more_fields(kernel, inputs, result))
        return f'{self.header().getvalue()}\nextern "C"\n{signature}\n{{{body}}}\n'

    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """What a text has besides."""
        raise NotImplementedError

    def output(self) -> Any:
        """The result as an input of other nodes."""
        choice = self.generate()  # type: ignore[no-untyped-call]
        result = choice.output_node()
        # Inductor would let the template write what reads the result, too.
        V.graph.no_fuse_buffer_names.add(result.get_name())
        return result


class _Places(_Kernel):
    def __init__(self, padding_idx: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.padding_idx = padding_idx

    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """Of lookups and chunks."""
        return {
            "chunk": str(_CHUNK),
            "padding_idx": str(self.padding_idx),
            "places": "int64_t* const places = result;",
        }


class _AddInOrder(_Places):
    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """Of the sums."""
        dynamic = config.cpp.dynamic_threads
        return super().more_fields(kernel, inputs, result) | {
            "places": "std::vector<int64_t> found_places(lookups + later);\n"
            "    int64_t* const places = found_places.data();",
            "dtype": DTYPE_TO_CPP[self.layout.dtype],
            "all_places": kernel.size(result, 0),
            "columns": kernel.size(result, 1),
            "gradient": kernel.index(inputs["gradient"], ["lookup", 0]),
            "few": str(_FEW),
            "threads": "omp_get_max_threads()" if dynamic else str(parallel_num_threads()),
        }


class _Check(_Kernel):
    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """Of the indices."""
        return {"dtype": DTYPE_TO_CPP[inputs["indices"].get_dtype()]}


def check(indices: Any, num_weights: Any) -> Any:
    """0 as an int64 (1,), if each of the indices (N,) is in a table of ``num_weights`` rows.

    To be added to them: what reads the sum comes after the check.
    """
    layout = ir.FixedLayout(torch.device("cpu"), torch.int64, [1])
    inputs = {"indices": ir.ExternKernel.require_contiguous(indices)}
    return _Check(_CHECK, inputs, num_weights, layout).output()


def add_in_order(gradient: Any, indices: Any, num_weights: Any, padding_idx: int) -> Any:
    """The sums (num_weights, D) of rows ``gradient`` (N, D) at ``indices`` (N,).

    In float32, or in float64 for float64.
    """
    layout = _sums_layout(gradient, num_weights, padding_idx)
    gradient = ir.ExternKernel.require_contiguous(to_dtype(gradient, layout.dtype))
    inputs = {"indices": indices, "gradient": gradient}
    sums = _AddInOrder(padding_idx, _ADD_IN_ORDER, inputs, num_weights, layout).output()
    return lowerings[_aten.slice.Tensor](sums, 0, 0, num_weights)


def add_as_made(gradient: Any, indices: Any, num_weights: Any, padding_idx: int) -> Any:
    """What `add_in_order` gives, on one thread and in the loop that makes the gradient."""
    full, part = lowerings[_aten.full.default], lowerings[_aten.slice.Tensor]
    layout = _sums_layout(gradient, num_weights, padding_idx)
    gradient = to_dtype(gradient, layout.dtype)
    lookups, width = gradient.get_size()
    later = _later(lookups)
    places, are_rows = indices, padding_idx < 0 and later == 0 and width != 0
    if not are_rows:
        found = ir.FixedLayout(layout.device, torch.int64, [lookups + later])
        inputs = {"indices": indices}
        places = _Places(padding_idx, _FIND_PLACES, inputs, num_weights, found).output()
    sums = full(layout.size, 0, dtype=layout.dtype, device=layout.device)
    _add_rows(gradient, part(places, 0, 0, lookups), sums, check=are_rows)
    if later != 0:
        chunks = part(sums, 0, num_weights, num_weights + later)
        _add_rows(chunks, part(places, 0, lookups, lookups + later), sums)
    return part(sums, 0, 0, num_weights)


def _sums_layout(gradient: Any, num_weights: Any, padding_idx: int) -> Any:
    """Of the table and the places behind it."""
    dtype = torch.float64 if gradient.get_dtype() == torch.float64 else torch.float32
    lookups, width = gradient.get_size()
    places = num_weights + _later(lookups) + int(padding_idx >= 0)
    return ir.FixedLayout(torch.device("cpu"), dtype, [places, width])


def _later(lookups: Any) -> Any:
    """The number of places for chunks but the first."""
    if V.graph.sizevars.statically_known_leq(lookups, _CHUNK - 1):
        return 0
    return FloorDiv(lookups, _CHUNK)


def _add_rows(rows: Any, places: Any, sums: Any, check: bool = False) -> None:
    """Adds each row to the one of the sums at its place, one after the other.

    Whichever of its two loops Inductor makes the outer one.
    """
    sums.realize()
    load_place, bound = places.make_loader(), sums.get_size()[0]

    def place(index: Sequence[Any]) -> Sequence[Any]:
        row = ops.indirect_indexing(load_place(index[:1]), bound, check=check, wrap_neg=False)
        return [row, index[1]]

    addition = ir.Scatter(
        device=sums.get_device(),
        dtype=sums.get_dtype(),
        inner_fn=rows.make_loader(),
        ranges=rows.get_size(),
        output_indexer=place,
        scatter_mode="atomic_add",  # on one thread it is not atomic
    )
    layout = ir.MutationLayoutSHOULDREMOVE(sums)
    buffer = ir.ComputedBuffer(name=None, layout=layout, data=addition)
    buffer.name = V.graph.register_buffer(buffer)
    V.graph.register_operation(buffer)
