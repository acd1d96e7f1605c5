// dk and dv of a piece between the store and the registers of a warpgroup.
//
// The matrix unit leaves a thread two neighbours in every eight columns; the store is read and written four
// at a time. So of 16 columns and of the rows `row()` and `row() + 8`, `first` and `second` are eight columns
// each in registers, in memory one of the two rows each. Two threads exchange half of theirs in between, and four
// threads have 64 bytes of a row that are adjacent.
#pragma once
#include "products.cuh"

using Four = f32[4];

__device__ inline void swap_inner(Four& first, Four& second) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const f32 x = first[i + 2];
        first[i + 2] = second[i], second[i] = x;
    }
}

// What a thread has second for what its neighbour has first.
__device__ inline void exchange(Four& first, Four& second, bool odd) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const f32 got = __shfl_xor_sync(0xffffffff, odd ? first[i] : second[i], 1);
        first[i] = odd ? got : first[i];
        second[i] = odd ? second[i] : got;
    }
}

template <typename Visit>
__device__ inline void each_two(Sum& sum, Visit visit) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int n = 0; n < PART / 8; n += 2)
            visit(*reinterpret_cast<Four*>(&sum[part][n * 4]), *reinterpret_cast<Four*>(&sum[part][n * 4 + 4]));
}

// Sums of the matrix unit must be in their registers before it starts: the compiler may not move this.
__device__ inline void as_products(Sum& sum, Lane lane) {
    each_two(sum, [&](Four& first, Four& second) {
        swap_inner(first, second);
        exchange(first, second, lane.thread % 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(first[i]), "+f"(second[i])::"memory");
    });
}

__device__ inline void as_rows(Sum& sum, Lane lane) {
    each_two(sum, [&](Four& first, Four& second) {
        exchange(first, second, lane.thread % 2);
        swap_inner(first, second);
    });
}

// Applies `visit(begin, columns behind it, whether they exist, four elements)` to this thread's part, as rows;
// `begin_of(key, column)` is where the part of a row begins.
template <typename BeginOf, typename Visit>
__device__ inline void each_four(Sum& sum, i32 keys, i32 key0, i32 head_dim, Lane lane, BeginOf begin_of,
                                 Visit visit) {
    const i32 column = lane.thread % 2 * 8 + lane.thread % 4 / 2 * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const i32 key = key0 + lane.row() + half * 8;
        const auto begin = begin_of(key, column);
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int n = 0; n < PART / 8; n += 2) {
                const int behind = part * PART + n * 8;
                visit(begin, behind, key < keys && column + behind < head_dim,
                      *reinterpret_cast<Four*>(&sum[part][(n + half) * 4]));
            }
    }
}

// As rows, and on its way when this returns.
__device__ inline void load_gradient(Sum& sum, Gradient gradient, const Piece& piece, i32 key0, i32 head_dim) {
    const Lane lane;  // anew: what the compiler derives of it needs no registers later
    const auto begin_of = [&](i32 key, i32 column) { return piece.row(gradient, key) + column; };
    const auto load = [](const f32* begin, int behind, bool exists, Four& x) {
        ld_global_f32x4_or_zero(x, begin + behind, exists);
    };
    each_four(sum, piece.held(), key0, head_dim, lane, begin_of, load);
}

// The same where the loader has brought them.
__device__ inline void take_gradient(Sum& sum, u32 room, const Piece& piece, i32 key0, i32 head_dim, Lane lane) {
    const auto begin_of = [&](i32 key, i32 column) { return room + (key * D + column) * 4; };
    const auto take = [](u32 begin, int behind, bool exists, Four& x) {
        ld_shared_f32x4(x, begin + behind * 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = exists ? x[i] : 0.f;
    };
    each_four(sum, piece.held(), key0, head_dim, lane, begin_of, take);
}

// To the store.
__device__ inline void put_gradient(Sum& sum, Gradient gradient, const Piece& piece, i32 key0, i32 head_dim) {
    const Lane lane;  // anew: what the compiler derives of it needs no registers before
    const auto begin_of = [&](i32 key, i32 column) { return piece.row(gradient, key) + column; };
    const auto put = [](f32* begin, int behind, bool exists, Four& x) {
        if (exists)
            st_global_f32x4(begin + behind, canonical(x[0]), canonical(x[1]), canonical(x[2]), canonical(x[3]));
    };
    const auto add = [](f32* begin, int behind, bool exists, Four& x) {
        if (exists) red_add_f32x4(begin + behind, x[0], x[1], x[2], x[3]);
    };
    as_rows(sum, lane);
    if (uniform(piece.sums() == ADDED)) {
        each_four(sum, piece.keys(), key0, head_dim, lane, begin_of, add);
    } else {
        each_four(sum, piece.keys(), key0, head_dim, lane, begin_of, put);
    }
}
