// Attention forward on the matrix units, compute capability 8.0 and up.
//
// One block computes one tile of query rows (tokens times heads of a K/V group, schedule.cuh) with
// FlashAttention's online softmax: for each tile of 64 keys, ascending from the document's begin,
//
//     s = q k^T;  m' = max(m, rowmax s);  p = exp2(s - m');  a = exp2(m - m')
//     l = a l + rowsum p;  o = a o + p v
//
// and at the end out = o / l, lse = ln 2 (m + log2 l). While s is computed, v is on its way to
// shared memory; while o is, the next k.
//
// Rows are independent of each other in every step, and a key tile of which a row sees nothing
// leaves that row as it was (p = 0, a = 1), so a row's bits depend on its document alone.
//
// Reads q, k, v, tiles (query tiles). Writes out (=), lse (=): every row of every tile, 0 and -inf
// for rows that see no key.
#include "query.cuh"
#include "scores.cuh"
#include "shape.cuh"

using Shape = ForwardShape<HEAD_DIM>;
constexpr int D = HEAD_DIM;
constexpr int KEYS = Shape::KEYS;
constexpr int ROWS = Shape::ROWS;
constexpr int THREADS = Shape::WARPS * 32;
constexpr int M = Shape::M;
using S = Sums<M, KEYS / 8>;
using O = Sums<M, D / 8>;

// A thread's statistics: one value for each of its rows (two per block of 16).
using PerRow = f32[M][2];

// The four threads of a row agree on its maximum or sum.
__device__ inline f32 row_max(f32 x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ inline f32 row_sum(f32 x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// s becomes p; m, l and o move on to the new maximum. `l` stays this thread's share until the end.
__device__ inline void softmax_step(S& s, PerRow& maximum, PerRow& l, O& o, f32 to_log2) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            f32 highest = maximum[m][half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
                highest = fmaxf(highest, fmaxf(s.part[m][n][2 * half], s.part[m][n][2 * half + 1]));
            highest = row_max(highest);
            // A row that has seen nothing yet: any finite base gives p = 0.
            const f32 base = highest == -INFINITY_F32 ? 0.f : highest * to_log2;
            const f32 shrink = ex2(maximum[m][half] * to_log2 - base);
            maximum[m][half] = highest;
            f32 sum = l[m][half] * shrink;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    f32& x = s.part[m][n][2 * half + i];
                    x = ex2(fmaf(x, to_log2, -base));
                    sum += x;
                }
            l[m][half] = sum;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o.part[m][n][2 * half] *= shrink;
                o.part[m][n][2 * half + 1] *= shrink;
            }
        }
}

__device__ inline void write_rows(const O& o, const PerRow& maximum, const PerRow& l,
                                  const Document& document, const QueryRows& rows, i32 row0,
                                  i32 kv_head, f32 to_log2, const Attention& args) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const f32 sum = row_sum(l[m][half]);
            const i32 r = row0 + m * 16 + half * 8 + O::row();
            if (!rows.valid(r)) continue;
            const QueryRow row = rows.at(document, r);
            const f32 inverse = sum > 0.f ? 1.f / sum : 0.f;
            ELEMENT* out = query_address<ELEMENT>(args.out, document, row, kv_head);
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
                store_pair(out, n * 8 + O::column(), args.head_dim, args.aligned,
                           canonical(o.part[m][n][2 * half] * inverse),
                           canonical(o.part[m][n][2 * half + 1] * inverse));
            if (threadIdx.x % 4 == 0) {
                f32* lse = lse_address(args, document, row, kv_head);
                *lse = sum > 0.f ? LN_2 * (maximum[m][half] * to_log2 + log2f(sum)) : -INFINITY_F32;
            }
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, Shape::BLOCKS)
    forward(const __grid_constant__ Attention args) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const u32 q_tile = shared_address(shared);
    const u32 k_tile = q_tile + ROWS * D * 2;
    const u32 v_tile = k_tile + KEYS * D * 2;

    const i32 kv_head = blockIdx.x % args.kv_heads;
    const Tile tile = reinterpret_cast<const Tile*>(args.tiles)[blockIdx.x / args.kv_heads];
    const Document document(tile, args);
    const QueryRows rows(document, tile.begin, ROWS);
    const Range seen = rows.seen(document);
    const Scores scores(args);
    const i32 row0 = threadIdx.x / 32 * (M * 16);

    O o;
    o.clear();
    PerRow maximum, l;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) maximum[m][half] = -INFINITY_F32, l[m][half] = 0.f;

    const i32 first = seen.begin / KEYS * KEYS;
    if (!seen.empty()) {
        load_queries<ELEMENT, ROWS, D, THREADS>(q_tile, args.q, document, rows, kv_head, args);
        load_keys<ELEMENT, KEYS, D, THREADS>(k_tile, args.k, document, first, kv_head, args);
        cp_async_commit();
    }
    for (i32 key0 = first; key0 < seen.end; key0 += KEYS) {
        cp_async_wait<0>();
        __syncthreads();  // k is here, the v before is read
        load_keys<ELEMENT, KEYS, D, THREADS>(v_tile, args.v, document, key0, kv_head, args);
        cp_async_commit();

        S s;
        s.clear();
        multiply<ELEMENT, D / 16>(s, Left<D>(q_tile, row0, 0), Right<D>(k_tile, 0, 0));

        cp_async_wait<0>();
        __syncthreads();  // v is here, this k is read
        if (key0 + KEYS < seen.end) {
            load_keys<ELEMENT, KEYS, D, THREADS>(k_tile, args.k, document, key0 + KEYS, kv_head,
                                                   args);
            cp_async_commit();
        }

        if (!scores.plain) transform(s, scores);
        if (!rows.all_see(document, {key0, key0 + KEYS})) mask(s, document, rows, row0, key0);
        softmax_step(s, maximum, l, o, scores.to_log2);
        multiply<ELEMENT, KEYS / 16>(o, Narrowed<ELEMENT, M, KEYS / 8>(s),
                                     Right<D, true>(v_tile, 0, 0));
    }
    write_rows(o, maximum, l, document, rows, row0, kv_head, scores.to_log2, args);
}
