// dk and dv in f32 arithmetic on the ordinary units; see fma.cuh. One block per tile of keys
// walks the document's query rows from the last to the first, one term of each sum after the other
// beginning with what the store holds: no cut into steps changes a bit.
//
// Reads q, k, v, dout, stats, tiles (key tiles). Writes dk (+=), dv (+=).
#include "fma.cuh"

// Applies `visit(store's element, register)` to this thread's part of dk or dv.
template <typename Visit>
__device__ inline void each_gradient(WideSums& sums, const View& store, const Document& document,
                                     i32 kv_head, i32 head_dim, Visit visit) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const i32 key = document.tile.begin + EACH * thread_y() + i;
        if (key >= document.tile.keys) continue;
        f32* row = at<f32>(store, document.tile.key_row + key, kv_head);
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const i32 column = slice * SLICE + 4 * thread_x() + j;
                if (column < head_dim) visit(row[column], sums.part[slice][i][j]);
            }
    }
}

extern "C" __global__ void __launch_bounds__(FMA_THREADS, Shape::BLOCKS)
    backward_dkv(const __grid_constant__ Attention args) {
    auto& shared = Shared<2>::get();
    auto& [p, ds] = shared.scores;  // [key][query row]

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const Scores scores(args);

    WideSums dk, dv;
    dk.clear();
    dv.clear();
    const auto take = [](f32& store, f32& sum) { sum = store; };
    each_gradient(dk, args.dk, document, kv_head, args.head_dim, take);
    each_gradient(dv, args.dv, document, kv_head, args.head_dim, take);

    for (i32 end = document.query_rows(); end > 0; end -= FMA_ROWS) {
        const QueryRows rows(document, end - FMA_ROWS, FMA_ROWS);
        const Range seen = rows.seen(document);
        if (seen.end <= tile.begin || seen.begin >= tile.begin + FMA_ROWS) continue;

        ScorePart s = {}, dp = {};
        for (i32 slice = 0; slice * SLICE < args.head_dim; ++slice) {
            __syncthreads();  // a, b, p and ds are read
            load_key_slice(shared.a, args.k, slice, document, tile.begin, kv_head, args);
            load_query_slice(shared.b, args.q, slice, document, rows, kv_head, args);
            __syncthreads();
            add_products(s, shared.a, shared.b);
            __syncthreads();
            load_key_slice(shared.a, args.v, slice, document, tile.begin, kv_head, args);
            load_query_slice(shared.b, args.dout, slice, document, rows, kv_head, args);
            __syncthreads();
            add_products(dp, shared.a, shared.b);
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const i32 r = thread_x() + ACROSS * j;
            const bool valid = rows.valid(r);
            const QueryRow row = rows.at(document, valid ? r : rows.valid_begin);
            const Stats stats = *stats_address(args, document, row, kv_head);
            const Range visible =
                valid ? document.visible(row.token + document.offset()) : Range{0, 0};
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const i32 key = EACH * thread_y() + i;
                const PairGradient gradient(s[i][j], dp[i][j], tile.begin + key, visible, stats,
                                            args, scores);
                p[key][r] = gradient.p;
                ds[key][r] = gradient.ds;
            }
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice) {
            if (slice * SLICE >= args.head_dim) break;
            __syncthreads();  // a, b are read; p, ds are here
            load_query_slice(shared.a, args.dout, slice, document, rows, kv_head, args);
            load_query_slice(shared.b, args.q, slice, document, rows, kv_head, args);
            __syncthreads();
            add_weighted<true>(dv.part[slice], p, shared.a);
            add_weighted<true>(dk.part[slice], ds, shared.b);
        }
    }
    const auto put = [](f32& store, f32& sum) { store = canonical(sum); };
    each_gradient(dk, args.dk, document, kv_head, args.head_dim, put);
    each_gradient(dv, args.dv, document, kv_head, args.head_dim, put);
}
