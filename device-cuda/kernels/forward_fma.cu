// Attention forward in f32 arithmetic on the ordinary units: all of f32, and the head dimensions
// and devices that forward_mma does not cover. Same algorithm, same tile lists, with smaller
// tiles; see forward_mma.cu.
//
// Reads q, k, v, tiles (query tiles). Writes out (=), lse (=): every row of every tile, 0 and -inf
// for rows that see no key.
#include "fma.cuh"

// The threads of a row agree on its maximum or sum.
__device__ inline f32 row_max(f32 x) {
#pragma unroll
    for (int step = ACROSS / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
    return x;
}

__device__ inline f32 row_sum(f32 x) {
#pragma unroll
    for (int step = ACROSS / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
    return x;
}

__device__ inline void write_row(const WideSums& o, int i, f32 maximum, f32 sum, QueryRow row,
                                 const Document& document, i32 kv_head, const Attention& args) {
    ELEMENT* out = query_address<ELEMENT>(args.out, document, row, kv_head);
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const i32 column = slice * SLICE + 4 * thread_x() + j;
            const f32 x = sum > 0.f ? o.part[slice][i][j] / sum : 0.f;
            if (column < args.head_dim) out[column] = ELEMENT::narrow(canonical(x));
        }
    if (thread_x() == 0)
        *lse_address(args, document, row, kv_head) =
            sum > 0.f ? LN_2 * (maximum + log2f(sum)) : -INFINITY_F32;
}

extern "C" __global__ void __launch_bounds__(FMA_THREADS, Shape::BLOCKS)
    forward(const __grid_constant__ Attention args) {
    auto& shared = Shared<1>::get();
    ScoreTile& p = shared.scores[0];

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const QueryRows rows(document, tile.begin, FMA_ROWS);
    const Range seen = rows.seen(document);

    WideSums o;
    o.clear();
    f32 maximum[EACH], l[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) maximum[i] = -INFINITY_F32, l[i] = 0.f;

    for (i32 key0 = seen.begin / FMA_ROWS * FMA_ROWS; key0 < seen.end; key0 += FMA_ROWS) {
        ScorePart s = {};
        for (i32 slice = 0; slice * SLICE < args.head_dim; ++slice) {
            __syncthreads();  // a, b and p are read
            load_query_slice(shared.a, args.q, slice, document, rows, kv_head, args);
            load_key_slice(shared.b, args.k, slice, document, key0, kv_head, args);
            __syncthreads();
            add_products(s, shared.a, shared.b);
        }
        f32 shrink[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const Range visible = rows.visible(document, EACH * thread_y() + i);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
                s[i][j] = sees(visible, key0 + thread_x() + ACROSS * j) ? exact_score(s[i][j], args)
                                                                        : -INFINITY_F32;
            f32 mine = maximum[i];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) mine = fmaxf(mine, s[i][j]);
            const f32 highest = row_max(mine);
            // A row that has seen nothing yet: any finite base gives p = 0.
            const f32 base = highest == -INFINITY_F32 ? 0.f : highest;
            shrink[i] = exp2f(maximum[i] - base);
            maximum[i] = highest;
            f32 sum = 0.f;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                s[i][j] = exp2f(s[i][j] - base);
                sum += s[i][j];
                p[EACH * thread_y() + i][thread_x() + ACROSS * j] = s[i][j];
            }
            l[i] = l[i] * shrink[i] + row_sum(sum);
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice) {
            if (slice * SLICE >= args.head_dim) break;
            __syncthreads();  // b is read; p is here
            load_key_slice(shared.b, args.v, slice, document, key0, kv_head, args);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) o.part[slice][i][j] *= shrink[i];
            add_weighted<false>(o.part[slice], p, shared.b);
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const i32 r = EACH * thread_y() + i;
        if (rows.valid(r))
            write_row(o, i, maximum[i], l[i], rows.at(document, r), document, kv_head, args);
    }
}
