"""Mutants that no test can kill, because the kernel does the same: which, and why."""

from __future__ import annotations

from rules import (
    Context,
    Rule,
    is_only_compared_with_null,
    moves_minus_one,
    moves_upper_half,
    rounds_a_quotient,
    stays_zero,
)

DOT = "dot_rows"
OF_FEATURES = r"Feature|TableDots|number_tables|count_feature|check_features"

RULES: list[Rule] = [
    Rule(
        "the copy of these lines for row numbers of 64 bits: no test has so large a gradient",
        kernel="^(?!add_mean_squares).*Runs<(?!.*ApplyRule)",
        when=lambda context: context.line_reached and not context.reached,
    ),
    Rule("... the same: which width it is", source=r"groups_\.wide"),
    Rule(
        "row numbers and addresses of a test agree in their upper half",
        instruction=r"^shfl\.",
        when=moves_upper_half,
    ),
    Rule("moves another zero", kind="other operand", when=stays_zero),
    Rule(
        "any negative number says that there is none, and what is in a register before is one",
        kind="left out",
        when=moves_minus_one,
    ),
    Rule(
        "__syncwarp() keeps loads together; the threads of a warp are together without it",
        kind="left out",
        instruction=r"^bar\.warp\.sync",
    ),
    Rule(
        "no grid of a test is smaller than its work, so the loop over the rest never turns",
        source=r"for \(int64_t .* < .*; .*\+= .*(count\(\)|step)"
        r"|thread_count\(\)|count\(\) \* kRows\)",
    ),
    Rule("... the same: what it would add", instruction=r"%nctaid|mul\.wide\.u32 .*, 256;"),
    Rule(
        "rounds a quotient towards zero, and is zero itself, since no such number is negative",
        instruction=r"shr\.s(32|64) \S+, \S+, (31|63);|shr\.u32 \S+, \S+, (30|29|28|27);"
        r"|shr\.u64 \S+, \S+, (63|56);",
    ),
    Rule("... the same: takes away this zero", kind="operation", when=rounds_a_quotient),
    Rule(
        "extends a number that is never negative",
        source=r"(shape|thread_group|lanes)\.cuh|(row_dot|row_renorm)\.cu:\d+: for"
        r"|segment\.begin \+ i|\* shape\.lookups|chunk_begin / kChunk|[/*] kChunk\b"
        r"|begin_ \+ |packed >> kRowBits"
        r"|features\.cuh:\d+: (return cuda|last_beg|const int64_t\* const own)",
        after=r"^(cvt\.u64\.u32|mul\.wide\.u|shr\.u(32|64))",
    ),
    Rule(
        "which row is read by a lookup that does not count is of no consequence",
        source=r"some_row",
    ),
    Rule(
        "... the same: the only exchange of these kernels is for that row",
        kernel=r"^reduce_(segments|chunks|runs)",
        instruction=r"^shfl\.sync\.idx|^mov\.b64 \{?%r|^(mov|sub|shl|or|selp)\.[usb]32",
        source=r"^\?",
    ),
    Rule(
        "the weight of a lookup that does not count, or has none, is not used",
        kernel=r"^reduce_(segments|chunks|runs)",
        instruction=r"^mov\.[bfu]32 \S+, (0f3F800000|1065353216);",
    ),
    Rule(
        "the sign of what is squared, or compared with zero, is of no consequence",
        kernel="Euclidean|CountNonzero",
        source=r"x < 0 \? -x : x|std::abs",
    ),
    Rule(
        "a butterfly of distances 17, 8, 4, 2, 1 adds up the same threads; 9, 5 and 3 do, too",
        source=r"__shfl_xor_sync|^\?",
        after=r"mov\.u32 \S+, (17|9|5|3);",
    ),
    Rule(
        "sizes of groups are powers of two: below 17 is below 16 or 16",
        source=r"lanes\.cuh|row_dot\.cu:0",
        after=r"^setp\.(lt|le)\.s32 \S+, \S+, (17|9|5|3|2);",
    ),
    Rule(
        "a search that cuts badly takes longer and finds the same",
        instruction=r"^shr\.s64 \S+, \S+, 1;",
        source=r"const int64_t middle",
    ),
    Rule(
        "five low bits that are then shifted out",
        kernel="count_bags|count_windows",
        instruction=r"^and\.b32 .*-32;|^cvt\.u64\.u32",
        source=r"first_in_warp|kWarp - 1\)\) >> bits",
    ),
    Rule(
        "after the butterfly each thread has the sum, and any may write it",
        kernel="count_windows|count_bags",
        instruction=r"^setp\.(ne|eq)\.s32 \S+, \S+, 0;",
        kind="constant",
    ),
    Rule(
        "the lookups of the last window that count are behind no other window",
        kernel="count_windows",
        instruction=r"^mov\.[ub]32 \S+, 0;",
    ),
    Rule(
        "a long bag that began in the last window would end behind the last lookup",
        kernel="Bags<",
        source=r"if \(next >= source\.total\(\)",
    ),
    Rule(
        "of an empty segment only that it is empty is of consequence",
        instruction=r"^mov\.u64|^selp\.b64",
        source=r"segment : none;|return \{0, 0, 0\};|segments\.cuh:0:",
    ),
    Rule(
        "... the same: of that of a lookup of no feature or table, where it begins",
        instruction=r"^mov\.u64",
        source=r"return \{0, i, i\};",
        when=lambda context: context.reached,
    ),
    Rule(
        "a bag that does not begin in a window is not joined, nor one that ends in it",
        kernel="^join_.*FeatureBags",
        kind="left out|comparison",
        source=r"own\[0\] <= lookup && lookup < own\[num_bags_\]",
        when=lambda context: context.reached,
    ),
    Rule(
        "what is joined has a chunk",
        kernel="^join_",
        kind="left out",
        instruction=r"^@!?%p\d+ bra",
        source=r"for \(int64_t (chunk = bag|begin = segment)\.begin",
    ),
    Rule(
        "of eight chunks, the first is always there",
        kernel="^join_sums",
        kind="left out|constant",
        instruction=r"^mov\.[bf]\d+ \S+, 0[fd]0+;",
        source=r"for \(int64_t begin = segment\.begin",
    ),
    Rule(
        "features have offsets, and none is null",
        kernel=OF_FEATURES,
        source=r"starts \? starts\[s\] : s \* length|features\.cuh:\d+: return \{offsets_ \+",
        instruction=r"^mov|^@|, 0;$",
    ),
    Rule("... the same", kernel=OF_FEATURES, when=is_only_compared_with_null),
    Rule(
        "a feature of any negative number is none",
        source=r"own\[num_bags_\] \? f : -1",
        kind="constant",
        after=r"-2\b",
    ),
    Rule(
        "windows of other features are counted in vain: a launch that needs one counts it before",
        kernel="count_feature_windows",
        kind="left out",
        instruction="^@|^setp",
        source=r"if \(feature < 0\) continue;",
    ),
    Rule(
        "padding is a row of no table of a launch",
        kernel="TableRuns<",
        kind="left out",
        source=r"if \(row == sorted_\.num_rows\(\)\) return \{row, i, i\};",
    ),
    Rule(
        "the rows of many tables are not averaged",
        kernel="TableRuns<",
        source=r"counted \+= output\.counts|counted <= 1\) return|sums\[n\] /=|\+\+length_",
    ),
    Rule(
        "only the first thread, which has the sum in any case, writes it",
        kernel="count_(feature_)?(windows|bags)",
        kind="operation",
        source=r"__shfl_xor_sync",
        after=r"^shfl\.sync\.down",
    ),
    Rule(
        "two packed rows of one table",
        kind="other operand",
        instruction=r"^shr\.s64 \S+, \S+, 48;",
        source=r"packed >> kRowBits",
    ),
    Rule("an item behind the last has no segment", source=r"item < shape\.items \? find"),
    Rule("what is found for too many items is not used", source=r"mine < shape\.items_per_block"),
    Rule(
        "only saves searches",
        source=r"return row == row_or_padding\(i - 1\) &&|row_or_padding\(i [-+] kChunk / 2\)",
    ),
    Rule(
        "of eight chunks, only the first can be the first of a segment",
        source=r"slot_of\(chunk, chunk == segment\.begin\)",
        instruction=r"^setp\.eq\.s64 \S+, \S+, (256|512|768|1024|1280|1536|1792);",
    ),
    Rule(
        "a search among one bag ends at once, and looks at it once more before",
        source=r"while \(high - low > 1\)|(tables_bags\.cu|reduce\.cuh):0:",
        instruction=r"^(@|setp\.\w+\.s(32|64) \S+, \S+, [12];)",
        kind="left out|constant|predicate",
    ),
    Rule("weights that are not wanted are stored and not read", source=r"weighted\(\)\) held\."),
    Rule(
        "... the same",
        source=r"held\.places\[threadIdx\.x\] = rows\.place",
        instruction=r"^setp\.eq\.s64 \S+, \S+, 0;",
        kind="constant",
    ),
    Rule("a chunk too many is summed and not read", source=r"chunks_before == 0 \|\| begin >="),
    Rule(
        "of a whole bag's first lookup only that there was one is of consequence",
        kernel=r"^reduce_segments.*Max",
        source=r"if \(starts\) first_ = i|replaces = \(starts && whole_\)",
        instruction=r"^mov\.u32|^selp\.b32",
        kind="left out|constant|other operand",
    ),
    Rule(
        "a negative offset decreases from the one before, which another thread refuses",
        source=r"segment\.begin < 0",
        instruction=r"^setp\.lt\.s64 \S+, \S+, 0;",
    ),
    Rule(
        "a bag of 257 is summed in vain, before its chunks are",
        source=r"is_long = segment\.length\(\) > kChunk",
        after=r", 257;",
    ),
    Rule(
        "which of two equal sizes is taken is of no consequence",
        source=r"norms\.h",
        kind="comparison",
        after=r"^setp\.(lt|gt|le|ge)\.",
        instruction=r"^setp\.(lt|gt|le|ge)\.",
    ),
    Rule(
        "operators that never launch this kernel have no index to refuse in it",
        source=r"refuse\.cuh:\d+: switch",
    ),
    Rule(
        "a warp behind the last lookup reads that one again, and writes nothing",
        kernel=DOT,
        source=r"if \(first >= dots\.count\(\)\) return",
    ),
    Rule(
        "where no columns are left, the first ones are read once more and do not count",
        kernel=DOT + "|renorm_rows",
        kind="left out",
        instruction=r"^setp\.lt\.s32 \S+, \S+, 1;|^@!?%p\d+ bra",
        source=r"else if \(left > 0\)",
    ),
    Rule(
        "where all of the columns are left, an access more reads the first ones and does not count",
        kernel=DOT + "|renorm_rows",
        kind="constant|comparison",
        after=r"^setp\.(gt\.s32 \S+, \S+, (63|31)|ge\.s32 \S+, \S+, (64|32));",
        source=r"if \(left > (kColumns / 2|kLanes)\)",
    ),
    Rule(
        "a warp that has lookups has at least one group's",
        kernel=DOT,
        source=r"for \(int begin = 0; begin < count",
        instruction=r"^@!?%p\d+ bra",
        kind="left out",
    ),
    Rule(
        "what a lookup of no feature of the launch is scaled by is of no consequence",
        kernel="TableDots",
        source=r"tables_dot\.cu:\d+: return \{$",
        instruction=r"^mov\.u64",
    ),
    Rule(
        "a warp that has no lookup of the launch multiplies in vain and writes nothing",
        kernel="TableDots",
        kind="left out",
        source=r"if \(!any_in_warp\(mine\.is_wanted\)\) return;",
    ),
    Rule(
        "a lookup that does not count reads row 0 if there is no other, like row -1",
        kernel="^reduce_runs",
        kind="constant",
        instruction=r"^mov\.u64 \S+, -1;",
        source=r"const bool mine = group\.lane\(\) < step\.count",
    ),
    Rule(
        "a window begins with a run, a run with zero, and behind the last one nothing is added up",
        kernel="^reduce_runs",
        kind="left out|constant",
        instruction=r"^mov\.[bf]\d+",
        source=r"const bool in_row = shape\.column|row_ >= 0 && in_row_|\+\+count_;|&pack, &word",
    ),
    Rule(
        "counts below 2^24 are exact",
        kind="operation",
        instruction=r"^cvt\.rn\.f(32|64)\.s(32|64)",
    ),
    Rule(
        "a row more is read, and counts for nothing",
        kernel="^add_mean_squares",
        kind="left out|other operand",
        instruction=r"^not\.pred|^vote\.sync\.any|^@",
        source=r"any_in_warp\(bool says\)|is_wanted\[r\]",
        when=lambda context: context.reached,
    ),
    Rule(
        "... the same",
        kind="left out",
        instruction=r"^@",
        source=r"where_max\.cuh:\d+: batch\.words\[u\] = this->read\(columns \?",
        when=lambda context: context.reached,
    ),
    Rule(
        "the weights of the table are not used without decay",
        kernel="^add_mean_squares",
        kind="other operand|constant",
        instruction=r"^mov\.[bf]\d+",
        source=r"sum\.cuh:0:|weight_decay != 0",
    ),
    Rule(
        "which NaN a bf16 number is, is not promised",
        source=r"__float2bfloat16_rn",
        instruction=r"^selp\.b16 \S+, 32767,|^and\.b16 \S+, \S+, 1;",
        kind="constant|other operand",
    ),
    Rule(
        "the divisors of a mean are not asked for together with the positions of maxima",
        kernel=DOT + ".*true>",
        source=r"if \(scales && ",
        when=lambda context: not context.reached,
    ),
    Rule(
        "rows read 16 bytes at a time have 4 threads at least, and no lanes to join with zero",
        kernel=DOT + "<((Half|BFloat16), 8|float, 4)",
        source=r"lanes\.cuh:\d+: (if \(step < group\.size|for \(int n = 0; n < N; \+\+n\) lanes)",
    ),
]


def why_equivalent(context: Context) -> str | None:
    """The reason of the first rule that holds, or None."""
    return next((rule.why for rule in RULES if rule.holds(context)), None)
