// What backward_wgmma needs besides the inputs; runs before it, once per call.
//
// For each query tile of `tile_rows` rows (whole tokens with all heads of a group) and K/V head, the
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

__device__ inline i32 place(i32 row) {
    return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    prepare(const __grid_constant__ Attention args) {
    u32* const turns = reinterpret_cast<u32*>(args.turns);
    for (i32 i = blockIdx.x * THREADS + threadIdx.x; i < args.turn_count; i += gridDim.x * THREADS)
        turns[i] = 0;

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const i32 tile_rows = args.tile_rows, tokens = tile_rows / args.group;
    const i32 query = tile.begin * tokens - document.offset();
    const QueryRows rows(document, query * args.group, tokens * args.group);
    f32* const stats = reinterpret_cast<f32*>(args.stats) +
                       (i64(tile.first_turn) * args.kv_heads + kv_head) * (2 * tile_rows);
    const i32 lane = threadIdx.x % LANES;

    for (i32 base = 0; base < tile_rows; base += THREADS / LANES) {
        const i32 r = base + threadIdx.x / LANES;
        const bool valid = rows.valid(r);
        // Every lane goes through the sum, which is exchanged between all lanes of a warp.
        const QueryRow row = rows.at(document, valid ? r : rows.valid_begin);
        const f32 sum = dot(query_address<ELEMENT>(args.out, document, row, kv_head),
                            query_address<ELEMENT>(args.dout, document, row, kv_head), lane, args);
        if (lane == 0) {
            Stats stat = {INFINITY_F32, 0.f};
            if (valid) stat = stats_of(*lse_address(args, document, row, kv_head), sum, args);
            stats[place(r)] = stat.lse2;
            stats[tile_rows + place(r)] = stat.delta;
        }
        if (valid && rows.visible(document, r).empty())
            clear_dq(query_address<ELEMENT>(args.dq, document, row, kv_head), lane, args.head_dim);
    }
}
