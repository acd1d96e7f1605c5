// The products of backward_wgmma and what is done with their results, for the warpgroups that own keys
// (own_keys.cuh) and those that share them (share_keys.cuh).
#pragma once
#include "fragment.cuh"
#include "stages.cuh"

constexpr int PART = Shape::PART;  // columns of dk and dv that one instruction computes
constexpr int PARTS = D / PART;

using S = f32[ROWS / 2];
using Narrow = u32[ROWS / 16][4];
using Sum = f32[PARTS][PART / 2];

// s = (64 of) `keys` times `queries`, on its way when this returns.
__device__ inline void multiply_scores(S& s, u32 keys, u32 queries, i32 key0) {
    multiply_scores<D>(s, AlongColumns<KEYS>(keys, key0), AlongColumns<ROWS>(queries, 0));
}

// sum += scores times `queries`, likewise; the last query first.
__device__ inline void multiply_sums(Sum& sum, const Narrow& scores, u32 queries) {
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        const AlongRows<ROWS> right(queries, part * PART);
#pragma unroll
        for (int k = ROWS / 16 - 1; k >= 0; --k)
            wgmma_registers<true>(sum[part], scores[k], right.step(k), true);
    }
    wgmma_commit_group();
}

// Applies `visit(element of a result, its stat)` to all elements of this thread, with one of a tile's two stats:
// `prepare_wgmma` lays them out for that. Few are in registers at a time.
template <typename Visit>
__device__ inline void each_stat(u32 stats, Lane lane, Visit visit) {
    f32 stat[2][4];
    const auto load = [&](int i) { ld_shared_f32x4(stat[i % 2], stats + i * 64 + lane.thread % 4 * 16); };
    load(0);
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i) {
        if (i + 1 < ROWS / 16) load(i + 1);
#pragma unroll
        for (int j = 0; j < 8; ++j) visit(i * 8 + j, stat[i % 2][j / 4 * 2 + j % 2]);
    }
}

// Applies `visit(visible keys, column of s)` to this thread's columns.
template <typename Visit>
__device__ inline void each_column(const Piece& piece, i32 t, Lane lane, const Attention& args, Visit visit) {
    const Divider by_group(args.group);
    const i32 position = t * (ROWS / args.group);
#pragma unroll
    for (int n = 0; n < ROWS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const i32 token = by_group.small_quotient(n * 8 + lane.column() + i);
            visit(piece.visible(position + token, args), n * 4 + i);
        }
}

// Sets the scores of keys that a query does not see to -inf.
__device__ inline void mask(S& s, const Piece& piece, i32 t, i32 key0, Lane lane, const Attention& args) {
    const i32 key = piece.key() + key0 + lane.row();
    each_column(piece, t, lane, args, [&](Range seen, int at) {
        if (key < seen.begin || key >= seen.end) s[at] = -INFINITY_F32;
        if (key + 8 < seen.begin || key + 8 >= seen.end) s[at + 2] = -INFINITY_F32;
    });
}

// Where a query sees one key, p is 1 whatever the score: ds is 0, not the rounding error of scale * dp -
// delta. Such queries are in masked tiles only, since a tile has more keys. Clears p, or ds itself.
__device__ inline void clear_lone_keys(S& p, const Piece& piece, i32 t, Lane lane, const Attention& args) {
    each_column(piece, t, lane, args, [&](Range seen, int at) {
        if (seen.lone()) p[at] = p[at + 2] = 0.f;
    });
}

// Puts ds into shared memory, keys along rows.
__device__ inline void store_scores(u32 tile, const Narrow& ds, i32 key0, Lane lane) {
    const i32 in_warp = lane.thread % 32;
    const i32 key = key0 + lane.thread / 32 * 16 + in_warp / 8 % 2 * 8 + in_warp % 8;
    const u32 first = panel_chunk(tile, key, in_warp / 16);
#pragma unroll
    for (int k = 0; k < ROWS / 16; ++k)  // two chunks further is an exclusive or, as panels lie
        stmatrix_x4((first ^ (k % 4 << 5)) + k / 4 * panel_bytes(KEYS), ds[k]);
}

// ---- dq, of which a warpgroup makes some columns at a time: two elements each in a thread

// The columns from `column` on, on their way when this returns.
template <int N>
__device__ inline void multiply_dq(f32 (&dq)[N], u32 ds_tile, u32 k_tile, i32 column) {
    const AlongRows<KEYS> left(ds_tile, 0);
    const AlongRows<KEYS> right(k_tile, column);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) wgmma_shared<true, true>(dq, left.step(k), right.step(k), k > 0);
    wgmma_commit_group();
}

// dq to shared memory, as it lies in the running sum: this thread's part is beside its neighbours'.
template <int N>
__device__ inline void stage_dq(const f32 (&dq)[N], u32 to) {
#pragma unroll
    for (int n = 0; n < N / 4; ++n)
        st_shared_f32x4(to + n * 2048, dq[n * 4], dq[n * 4 + 1], dq[n * 4 + 2], dq[n * 4 + 3]);
}

// Adds the sum of the others, which lies there. Subnormal sums become zeros, as they do in the L2 cache: a key
// tile of which a row sees nothing leaves its sum as it was.
template <int N>
__device__ inline void complete_dq(f32 (&dq)[N], u32 sum) {
#pragma unroll
    for (int n = 0; n < N / 4; ++n) {
        f32 before[4];
        ld_shared_f32x4(before, sum + n * 2048);
#pragma unroll
        for (int i = 0; i < 4; ++i) dq[n * 4 + i] = add_ftz(dq[n * 4 + i], before[i]);
    }
}

template <int N>
__device__ inline void write_dq(const f32 (&dq)[N], const Piece& piece, i32 t, i32 column, Lane lane,
                                const Attention& args) {
    const Divider by_group(args.group);
    const TileRows rows(piece, t, ROWS / args.group);
    const i32 head0 = piece.kv_head() * args.group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const i32 r = lane.row() + half * 8, token = by_group.small_quotient(r);
        const bool valid = token >= rows.begin && token < rows.end;
        uint4* to = reinterpret_cast<uint4*>(
            at<ELEMENT>(args.dq, rows.row + token, head0 + r - token * args.group));
#pragma unroll
        for (int n = 0; n < N / 4; n += 4) {
            u32 w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const f32* x = &dq[(n + i) * 4 + half * 2];
                w[i] = ELEMENT::pair(add_ftz(x[0], 0.f), add_ftz(x[1], 0.f));
            }
            transpose(w, lane.thread % 4);
            const i32 chunk = column / 8 + n + lane.thread % 4;
            if (valid && chunk * 8 < args.head_dim) to[chunk] = make_uint4(w[0], w[1], w[2], w[3]);
        }
    }
}
