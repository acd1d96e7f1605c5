// Tiles of query rows and of keys, brought from strided views to shared memory.
#pragma once
#include "scores.cuh"
#include "tile.cuh"

// The address of a query row in a view of queries.
template <typename E>
__device__ inline E* query_address(const View& view, const Document& document, QueryRow row,
                                   i32 kv_head) {
    return at<E>(view, document.tile.query_row + row.token, kv_head * document.group + row.head);
}

__device__ inline f32* lse_address(const Attention& args, const Document& document, QueryRow row,
                                   i32 kv_head) {
    return query_address<f32>(args.lse, document, row, kv_head);
}

__device__ inline Stats* stats_address(const Attention& args, const Document& document,
                                       QueryRow row, i32 kv_head) {
    return reinterpret_cast<Stats*>(args.stats) +
           i64(kv_head * document.group + row.head) * args.rows + document.tile.query_row +
           row.token;
}

template <typename E, int ROWS, int COLS, int THREADS>
__device__ inline void load_queries(u32 tile, const View& view, const Document& document,
                                    const QueryRows& rows, i32 kv_head, const Attention& args) {
    const auto row_of = [&](i32 r) -> SourceRow<E> {
        return {query_address<E>(view, document, rows.at(document, r), kv_head), rows.valid(r)};
    };
    if (args.aligned) {
        load_tile<E, ROWS, COLS, THREADS>(tile, args.head_dim, row_of);
    } else {
        load_tile_unaligned<E, ROWS, COLS, THREADS>(tile, args.head_dim, row_of);
    }
}

// Keys [begin, begin + KEYS) of the document; zeros past its end.
template <typename E, int KEYS, int COLS, int THREADS>
__device__ inline void load_keys(u32 tile, const View& view, const Document& document, i32 begin,
                                 i32 kv_head, const Attention& args) {
    const E* first = at<E>(view, document.tile.key_row + begin, kv_head);
    const auto row_of = [&](i32 r) -> SourceRow<E> {
        return {first + r * view.row_stride, begin + r < document.tile.keys};
    };
    if (args.aligned) {
        load_tile<E, KEYS, COLS, THREADS>(tile, args.head_dim, row_of);
    } else {
        load_tile_unaligned<E, KEYS, COLS, THREADS>(tile, args.head_dim, row_of);
    }
}

// Brings products q * k to units of log2, where that is not left to the exponential.
template <int M, int N>
__device__ inline void transform(Sums<M, N>& s, const Scores& scores) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) s.part[m][n][i] = scores.transform(s.part[m][n][i]);
}

// Sets the scores of keys that a row does not see to -inf. The warp's part of the scores begins at
// row `row0` of the tile and at key `key0` of the document.
template <int M, int N>
__device__ inline void mask(Sums<M, N>& s, const Document& document, const QueryRows& rows,
                            i32 row0, i32 key0) {
    using S = Sums<M, N>;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Range seen = rows.visible(document, row0 + m * 16 + half * 8 + S::row());
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const i32 key = key0 + n * 8 + S::column() + i;
                    if (key < seen.begin || key >= seen.end)
                        s.part[m][n][2 * half + i] = -INFINITY_F32;
                }
        }
}
