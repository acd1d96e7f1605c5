// dq in f32 arithmetic on the ordinary units; see fma.cuh. One block per tile of query rows
// walks its keys in ascending order and recomputes p and ds (backward_mma.cu has the formulas), so
// dq needs no sums across blocks.
//
// Reads q, k, v, dout, stats, tiles (query tiles). Writes dq (=) of every row of every tile.
#include "fma.cuh"

extern "C" __global__ void __launch_bounds__(FMA_THREADS, Shape::BLOCKS)
    backward_dq(const __grid_constant__ Attention args) {
    auto& shared = Shared<1>::get();
    ScoreTile& ds = shared.scores[0];

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const QueryRows rows(document, tile.begin, FMA_ROWS);
    const Range seen = rows.seen(document);
    const Scores scores(args);

    Stats stats[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const i32 r = EACH * thread_y() + i;
        stats[i] = rows.valid(r) ? *stats_address(args, document, rows.at(document, r), kv_head)
                                 : Stats{INFINITY_F32, 0.f};
    }

    WideSums dq;
    dq.clear();
    for (i32 key0 = seen.begin / FMA_ROWS * FMA_ROWS; key0 < seen.end; key0 += FMA_ROWS) {
        ScorePart s = {}, dp = {};
        for (i32 slice = 0; slice * SLICE < args.head_dim; ++slice) {
            __syncthreads();  // a, b and ds are read
            load_query_slice(shared.a, args.q, slice, document, rows, kv_head, args);
            load_key_slice(shared.b, args.k, slice, document, key0, kv_head, args);
            __syncthreads();
            add_products(s, shared.a, shared.b);
            __syncthreads();
            load_query_slice(shared.a, args.dout, slice, document, rows, kv_head, args);
            load_key_slice(shared.b, args.v, slice, document, key0, kv_head, args);
            __syncthreads();
            add_products(dp, shared.a, shared.b);
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const Range visible = rows.visible(document, EACH * thread_y() + i);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const i32 key = thread_x() + ACROSS * j;
                ds[EACH * thread_y() + i][key] =
                    PairGradient(s[i][j], dp[i][j], key0 + key, visible, stats[i], args, scores).ds;
            }
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice) {
            if (slice * SLICE >= args.head_dim) break;
            __syncthreads();  // b is read; ds is here
            load_key_slice(shared.b, args.k, slice, document, key0, kv_head, args);
            __syncthreads();
            add_weighted<false>(dq.part[slice], ds, shared.b);
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const i32 r = EACH * thread_y() + i;
        if (!rows.valid(r)) continue;
        ELEMENT* to = query_address<ELEMENT>(args.dq, document, rows.at(document, r), kv_head);
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const i32 column = slice * SLICE + 4 * thread_x() + j;
                if (column < args.head_dim)
                    to[column] = ELEMENT::narrow(canonical(dq.part[slice][i][j]));
            }
    }
}
