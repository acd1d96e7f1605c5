// What backward_wgmma needs besides the inputs; runs before it, once per call.
//
// For each query tile of 64 rows (whole tokens with all heads of a group) and K/V head, the
// stats as one block of memory: log2(e) lse of all rows, then scale * sum(out * dout) of all rows, in the
// order in which the threads of a warpgroup hold columns: thread t of four holds rows 8 n + 2 t and the
// next, and finds those of two n together. Rows that the document does not have get +inf and 0, with which
// p and ds come out as 0.
//
// A row that sees no key gets dq = 0 here, since no backward block visits it. Sets `turns` to zero.
//
// Reads out, dout, lse, tiles (query tiles as backward_wgmma cuts them; `begin` counts tiles from
// position 0 and may be below 0). Writes stats (=), turns (=), and dq (=) of rows without keys.
#include "dot.cuh"
#include "ptx_sm90.cuh"
#include "shape_sm90.cuh"

constexpr int ROWS = BackwardWarpgroups<64>::ROWS;  // as of every head_dim
constexpr int EACH = 4;                            // rows of a thread
constexpr int AT_ONCE = PREPARE_ROWS / EACH;
constexpr int BLOCKS = ROWS / PREPARE_ROWS;  // of a query tile
static_assert(AT_ONCE * LANES == PREPARE_THREADS);

__device__ inline i32 place(i32 row) {
    return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2;
}

// Eight elements, read at once: rows begin at multiples of 16 bytes, and head_dim is a multiple of 8.
struct alignas(16) Eight {
    ELEMENT x[8];
};

extern "C" __global__ void __launch_bounds__(PREPARE_THREADS, 9)
    prepare(const __grid_constant__ Attention args) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();  // the backward before reads stats and turns
    u32* const turns = reinterpret_cast<u32*>(args.turns);
    for (i32 i = blockIdx.x * PREPARE_THREADS + threadIdx.x; i < args.turn_count;
         i += gridDim.x * PREPARE_THREADS)
        turns[i] = 0;

    const i32 at = blockIdx.x / BLOCKS, kv_head = at % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[at / args.kv_heads];
    const Document document(tile, args);
    const i32 tokens = ROWS / args.group;
    const i32 query = tile.begin * tokens - document.offset();
    const QueryRows rows(document, query * args.group, tokens * args.group);
    f32* const stats = reinterpret_cast<f32*>(args.stats) +
                       (i64(tile.first_turn) * args.kv_heads + kv_head) * (2 * ROWS);
    const i32 lane = threadIdx.x % LANES;
    const i32 row0 = blockIdx.x % BLOCKS * PREPARE_ROWS + threadIdx.x / LANES;
    const auto row_of = [&](int i) { return row0 + i * AT_ONCE; };
    // Every lane goes through the sums, which are exchanged between all lanes of a warp.
    const auto query_of = [&](int i) {
        const i32 r = row_of(i);
        return rows.at(document, rows.valid(r) ? r : rows.valid_begin);
    };

    // All that a thread reads is on its way before it waits for any.
    f32 lse[EACH], sum[EACH] = {};
#pragma unroll
    for (int i = 0; i < EACH; ++i) lse[i] = *lse_address(args, document, query_of(i), kv_head);
    for (i32 column = lane * 8; column < args.head_dim; column += LANES * 8) {
        Eight x[EACH], y[EACH];
        const auto read = [&](const View& view, int i) {
            return *reinterpret_cast<const Eight*>(
                query_address<ELEMENT>(view, document, query_of(i), kv_head) + column);
        };
#pragma unroll
        for (int i = 0; i < EACH; ++i) x[i] = read(args.out, i), y[i] = read(args.dout, i);
#pragma unroll
        for (int i = 0; i < EACH; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j)
                sum[i] = fmaf(ELEMENT::widen(x[i].x[j]), ELEMENT::widen(y[i].x[j]), sum[i]);
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const i32 r = row_of(i);
        const bool valid = rows.valid(r);
        const f32 all = over_lanes(sum[i]);
        if (lane == 0) {
            const Stats stat = valid ? stats_of(lse[i], all, args) : Stats{INFINITY_F32, 0.f};
            stats[place(r)] = stat.lse2;
            stats[ROWS + place(r)] = stat.delta;
        }
        if (valid && rows.visible(document, r).empty())
            clear_dq(query_address<ELEMENT>(args.dq, document, query_of(i), kv_head), lane, args.head_dim);
    }
}
