// What the backward kernels need besides the inputs; runs before them, once per call.
//
// For each query row: stats = { log2(e) lse, scale * sum(out * dout) }, the sum in a fixed order
// that does not depend on how the views are aligned. A row that sees no key gets dq = 0 here, since
// no backward block visits it. Sets `turns` to zero.
//
// Reads out, dout, lse, tiles (query tiles of `tile_rows` rows). Writes stats (=), turns (=), and
// dq (=) of rows without keys.
#include "query.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 16;  // that share a row, eight elements each at a time

// Eight elements from column `column` on, zeros past the row's end.
__device__ inline void load_eight(f32 (&x)[8], const ELEMENT* row, i32 column, i32 head_dim,
                                  bool aligned) {
    if (aligned && column + 8 <= head_dim) {
        struct alignas(16) Sixteen {
            ELEMENT x[16 / sizeof(ELEMENT)];
        };
        constexpr int PER = 16 / sizeof(ELEMENT);
#pragma unroll
        for (int part = 0; part < 8 / PER; ++part) {
            const Sixteen y = *reinterpret_cast<const Sixteen*>(row + column + part * PER);
#pragma unroll
            for (int i = 0; i < PER; ++i) x[part * PER + i] = ELEMENT::widen(y.x[i]);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
        x[i] = column + i < head_dim ? ELEMENT::widen(row[column + i]) : 0.f;
}

// This lane's share of sum(out * dout), then the sum over the lanes.
__device__ inline f32 dot(const ELEMENT* a, const ELEMENT* b, i32 lane, const Attention& args) {
    f32 sum = 0.f;
    for (i32 column = lane * 8; column < args.head_dim; column += LANES * 8) {
        f32 x[8], y[8];
        load_eight(x, a, column, args.head_dim, args.aligned);
        load_eight(y, b, column, args.head_dim, args.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum = fmaf(x[i], y[i], sum);
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
    return sum;
}

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
            const f32 lse = *lse_address(args, document, row, kv_head);
            *stats_address(args, document, row, kv_head) = {
                lse == -INFINITY_F32 ? INFINITY_F32 : lse * LOG2_E, args.scale * sum};
        }
        if (rows.visible(document, r).empty()) {
            ELEMENT* dq = query_address<ELEMENT>(args.dq, document, row, kv_head);
            for (i32 i = lane; i < args.head_dim; i += LANES) dq[i] = ELEMENT::narrow(0.f);
        }
    }
}
