// Tiles for the kernels that multiply in f32 on the ordinary units: every element type, every head
// dimension up to 512, little shared memory.
//
// 256 threads as 16 by 16 hold a 32 by 32 tile of scores, two by two each: thread (y, x) has rows
// 2 y, 2 y + 1 and columns x, x + 16. The head dimension is taken 64 columns (a slice) at a time;
// of a slice of a 32-row result, a thread has its two rows and columns 4 x to 4 x + 3.
#pragma once
#include "query.cuh"

constexpr int FMA_ROWS = 32;
constexpr int FMA_THREADS = 256;
constexpr int SLICE = 64;
constexpr int SLICES = 512 / SLICE;
constexpr int PITCH = SLICE + 4;  // a row's floats in shared memory, padded against bank conflicts

using SliceTile = f32[FMA_ROWS][PITCH];
using ScoreTile = f32[FMA_ROWS][FMA_ROWS + 1];

__device__ inline i32 thread_x() { return threadIdx.x % 16; }
__device__ inline i32 thread_y() { return threadIdx.x / 16; }

// Columns [column, column + SLICE) of 32 rows, widened; `row_of(r)` gives row r's address, or null
// for a row of zeros.
template <typename E, typename RowOf>
__device__ inline void load_slice(SliceTile& tile, i32 column, i32 head_dim, RowOf row_of) {
    for (i32 i = threadIdx.x; i < FMA_ROWS * SLICE; i += FMA_THREADS) {
        const i32 c = column + i % SLICE;
        const E* row = row_of(i / SLICE);
        tile[i / SLICE][i % SLICE] = row && c < head_dim ? E::widen(row[c]) : 0.f;
    }
}

template <typename E>
__device__ inline void load_query_slice(SliceTile& tile, const View& view, i32 slice,
                                        const Document& document, const QueryRows& rows,
                                        i32 kv_head, i32 head_dim) {
    load_slice<E>(tile, slice * SLICE, head_dim, [&](i32 r) -> const E* {
        if (!rows.valid(r)) return nullptr;
        return query_address<E>(view, document, rows.at(document, r), kv_head);
    });
}

template <typename E>
__device__ inline void load_key_slice(SliceTile& tile, const View& view, i32 slice,
                                      const Document& document, i32 begin, i32 kv_head,
                                      i32 head_dim) {
    load_slice<E>(tile, slice * SLICE, head_dim, [&](i32 r) -> const E* {
        if (begin + r >= document.tile.keys) return nullptr;
        return at<E>(view, document.tile.key_row + begin + r, kv_head);
    });
}

// Four neighbouring floats of shared memory.
__device__ inline float4 four(const f32* at) { return *reinterpret_cast<const float4*>(at); }

// scores += a b^T over one slice, d ascending.
__device__ inline void add_products(f32 (&scores)[2][2], const SliceTile& a, const SliceTile& b) {
#pragma unroll 4
    for (i32 d = 0; d < SLICE; d += 4)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float4 x = four(&a[2 * thread_y() + i][d]);
                const float4 y = four(&b[thread_x() + 16 * j][d]);
                f32& s = scores[i][j];
                s = fmaf(x.x, y.x, s);
                s = fmaf(x.y, y.y, s);
                s = fmaf(x.z, y.z, s);
                s = fmaf(x.w, y.w, s);
            }
}

// A thread's part of a 32-row result of up to 512 columns.
struct WideSums {
    f32 part[SLICES][2][4];

    __device__ void clear() {
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice)
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) part[slice][i][j] = 0.f;
    }
};

// sums += weights[this row][r] * values[r], for r = first, first + step, ...: one term after the
// other, so a sum may be interrupted and continued without changing a bit.
__device__ inline void add_weighted(f32 (&sums)[2][4], const ScoreTile& weights,
                                    const SliceTile& values, i32 first, i32 step) {
#pragma unroll 4
    for (i32 n = 0; n < FMA_ROWS; ++n) {
        const i32 r = first + n * step;
        const float4 v = four(&values[r][4 * thread_x()]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const f32 w = weights[2 * thread_y() + i][r];
            sums[i][0] = fmaf(w, v.x, sums[i][0]);
            sums[i][1] = fmaf(w, v.y, sums[i][1]);
            sums[i][2] = fmaf(w, v.z, sums[i][2]);
            sums[i][3] = fmaf(w, v.w, sums[i][3]);
        }
    }
}

// The score in units of log2 of a product, with f32's full accuracy.
__device__ inline f32 exact_score(f32 product, const Attention& args) {
    if (args.softcap == 0.f) return product * args.scale * LOG2_E;
    return args.softcap * tanhf(product * args.scale / args.softcap) * LOG2_E;
}

__device__ inline bool sees(Range seen, i32 key) { return key >= seen.begin && key < seen.end; }

// p and ds of one pair from its products q * k and dout * v. Where the row sees this key alone, p is 1
// whatever the score: ds is 0, not the rounding error of scale * dp - delta.
struct PairGradient {
    f32 p, ds;

    __device__ PairGradient(f32 product, f32 dp, i32 key, Range seen, Stats stats,
                            const Attention& args, const Scores& scores) {
        const f32 score = exact_score(product, args);
        p = sees(seen, key) ? exp2f(score - stats.lse2) : 0.f;
        const bool none = p == 0.f || seen.lone();
        ds = none ? 0.f : p * fmaf(dp, args.scale, -stats.delta) * scores.slope(score);
    }
};
