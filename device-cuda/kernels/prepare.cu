// What the backward kernels need besides the inputs; runs before them, once per call.
//
// For each query row: stats = { log2(e) lse, scale * sum(out * dout) }, the sum in a fixed order
// that does not depend on how the views are aligned. A row that sees no key gets dq = 0 here, since
// no backward block visits it. Sets `turns` to zero.
//
// Reads out, dout, lse, tiles (query tiles of `tile_rows` rows). Writes stats (=), turns (=), and
// dq (=) of rows without keys.
#include "dot.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    prepare(const __grid_constant__ Attention args) {
    u32* const turns = reinterpret_cast<u32*>(args.turns);
    for (i32 i = blockIdx.x * THREADS + threadIdx.x; i < args.turn_count; i += gridDim.x * THREADS)
        turns[i] = 0;

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const QueryRows rows(document, tile.begin, args.tile_rows);
    const i32 lane = threadIdx.x % LANES;

    for (i32 base = 0; base < rows.valid_end; base += THREADS / LANES) {
        // Every lane goes through the sum, which is exchanged between all lanes of a warp.
        const i32 wanted = base + threadIdx.x / LANES;
        const i32 r = min(wanted, rows.valid_end - 1);
        const QueryRow row = rows.at(document, r);
        const f32 sum = dot(query_address<ELEMENT>(args.out, document, row, kv_head),
                            query_address<ELEMENT>(args.dout, document, row, kv_head), lane, args);
        if (wanted != r) continue;
        if (lane == 0) {
            *stats_address(args, document, row, kv_head) =
                stats_of(*lse_address(args, document, row, kv_head), sum, args);
        }
        if (rows.visible(document, r).empty()) {
            clear_dq(query_address<ELEMENT>(args.dq, document, row, kv_head), lane, args.head_dim);
        }
    }
}
