// Tiles for the kernels that multiply in f32 on the ordinary units: every element type, every head
// dimension up to 512.
//
// A block's threads, 16 to a row, hold a square tile of scores: thread (y, x) has rows EACH y to EACH y + EACH - 1 and
// columns x, x + 16, ... The head dimension is taken 64 columns (a slice) at a time; of a slice of a result, a thread has
// its rows and columns 4 x to 4 x + 3.
#pragma once
#include "query.cuh"
#include "shape.cuh"

using Shape = FmaShape<HEAD_DIM>;
constexpr int FMA_ROWS = Shape::ROWS;  // query rows, and keys
constexpr int FMA_THREADS = Shape::THREADS;
constexpr int SLICE = Shape::SLICE;
constexpr int SLICES = HEAD_DIM / SLICE;
constexpr int ACROSS = 16, DOWN = FMA_THREADS / ACROSS;  // threads along a row, along a column
constexpr int EACH = FMA_ROWS / DOWN;                    // rows of a thread
constexpr int COLUMNS = FMA_ROWS / ACROSS;               // columns of its scores

using SliceTile = f32[FMA_ROWS][Shape::SLICE_PITCH];
using ScoreTile = f32[FMA_ROWS][Shape::SCORE_PITCH];

// What a block has in shared memory.
template <int SCORES>
struct Shared {
    SliceTile a, b;
    ScoreTile scores[SCORES];

    __device__ static Shared& get() {
        extern __shared__ __align__(16) unsigned char memory[];
        return *reinterpret_cast<Shared*>(memory);
    }
};
static_assert(sizeof(Shared<1>) == Shape::SHARED && sizeof(Shared<2>) == Shape::DKV_SHARED);

__device__ inline i32 thread_x() { return threadIdx.x % ACROSS; }
__device__ inline i32 thread_y() { return threadIdx.x / ACROSS; }

// Four elements of a row from column `column` on, zeros past its end; of no row, zeros.
__device__ inline float4 load_four(const ELEMENT* row, i32 column, const Attention& args) {
    if (!row) return {0.f, 0.f, 0.f, 0.f};
    struct alignas(4 * sizeof(ELEMENT)) Four {
        ELEMENT x[4];
    };
    const auto widen = ELEMENT::widen;
    if (args.aligned && column + 4 <= args.head_dim) {
        const Four y = *reinterpret_cast<const Four*>(row + column);
        return {widen(y.x[0]), widen(y.x[1]), widen(y.x[2]), widen(y.x[3])};
    }
    const auto one = [&](i32 c) { return c < args.head_dim ? widen(row[c]) : 0.f; };
    return {one(column), one(column + 1), one(column + 2), one(column + 3)};
}

// Columns [column, column + SLICE) of a tile's rows, widened; `row_of(r)` gives row r's address, or null
// for a row of zeros.
template <typename RowOf>
__device__ inline void load_slice(SliceTile& tile, i32 column, const Attention& args, RowOf row_of) {
    float4 x[EACH];  // all on their way before one is waited for
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        x[i] = load_four(row_of(i * DOWN + thread_y()), column + 4 * thread_x(), args);
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        *reinterpret_cast<float4*>(&tile[i * DOWN + thread_y()][4 * thread_x()]) = x[i];
}

__device__ inline void load_query_slice(SliceTile& tile, const View& view, i32 slice, const Document& document,
                                        const QueryRows& rows, i32 kv_head, const Attention& args) {
    load_slice(tile, slice * SLICE, args, [&](i32 r) -> const ELEMENT* {
        if (!rows.valid(r)) return nullptr;
        return query_address<ELEMENT>(view, document, rows.at(document, r), kv_head);
    });
}

__device__ inline void load_key_slice(SliceTile& tile, const View& view, i32 slice, const Document& document,
                                      i32 begin, i32 kv_head, const Attention& args) {
    load_slice(tile, slice * SLICE, args, [&](i32 r) -> const ELEMENT* {
        if (begin + r >= document.tile.keys) return nullptr;
        return at<ELEMENT>(view, document.tile.key_row + begin + r, kv_head);
    });
}

// Four neighbouring floats of shared memory.
__device__ inline float4 four(const f32* at) { return *reinterpret_cast<const float4*>(at); }

// A thread's part of a tile of scores.
using ScorePart = f32[EACH][COLUMNS];

// scores += a b^T over one slice, d ascending.
__device__ inline void add_products(ScorePart& scores, const SliceTile& a, const SliceTile& b) {
#pragma unroll 1
    for (i32 d = 0; d < SLICE; d += 4) {
        float4 x[EACH], y[COLUMNS];
#pragma unroll
        for (int i = 0; i < EACH; ++i) x[i] = four(&a[EACH * thread_y() + i][d]);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) y[j] = four(&b[thread_x() + ACROSS * j][d]);
#pragma unroll
        for (int i = 0; i < EACH; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                f32& s = scores[i][j];
                s = fmaf(x[i].x, y[j].x, s);
                s = fmaf(x[i].y, y[j].y, s);
                s = fmaf(x[i].z, y[j].z, s);
                s = fmaf(x[i].w, y[j].w, s);
            }
    }
}

// sum += w[k] * v[k].
__device__ inline void add_scaled(f32 (&sum)[4], const float4& w, const float4 (&v)[4], int k) {
    const f32 weight = k == 0 ? w.x : k == 1 ? w.y : k == 2 ? w.z : w.w;
    sum[0] = fmaf(weight, v[k].x, sum[0]);
    sum[1] = fmaf(weight, v[k].y, sum[1]);
    sum[2] = fmaf(weight, v[k].z, sum[2]);
    sum[3] = fmaf(weight, v[k].w, sum[3]);
}

// A thread's part of a slice of a result, and of all slices.
using SlicePart = f32[EACH][4];
struct WideSums {
    SlicePart part[SLICES];

    __device__ void clear() {
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice)
#pragma unroll
            for (int i = 0; i < EACH; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) part[slice][i][j] = 0.f;
    }
};

// sums += weights[this row][r] * values[r], r ascending, or descending where `LAST_FIRST`: one term after the
// other, so a sum may be interrupted and continued without changing a bit.
template <bool LAST_FIRST>
__device__ inline void add_weighted(SlicePart& sums, const ScoreTile& weights, const SliceTile& values) {
#pragma unroll 1
    for (i32 n = 0; n < FMA_ROWS; n += 4) {
        const i32 r = LAST_FIRST ? FMA_ROWS - 4 - n : n;
        float4 w[EACH], v[4];
#pragma unroll
        for (int i = 0; i < EACH; ++i) w[i] = four(&weights[EACH * thread_y() + i][r]);
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = four(&values[r + k][4 * thread_x()]);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int i = 0; i < EACH; ++i) add_scaled(sums[i], w[i], v, LAST_FIRST ? 3 - k : k);
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
