// The warpgroups of backward_wgmma that own keys: s, p, dp, ds of 64 keys by a tile of queries, the sums dk
// and dv, and half of the columns of the tile's dq.
#pragma once
#include "stages.cuh"
#include "unit.cuh"

constexpr int PART = Shape::PART;  // columns of dk and dv that one instruction computes
constexpr int PARTS = D / PART;

using S = f32[ROWS / 2];
using Narrow = u32[ROWS / 16][4];
using Sum = f32[PARTS][PART / 2];

__device__ inline void narrow(Narrow& to, const S& s) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) to[k][i] = ELEMENT::pair(s[k * 8 + i * 2], s[k * 8 + i * 2 + 1]);
}

// s = (64 of) `keys` times `queries`, on its way when this returns.
__device__ inline void multiply_scores(S& s, u32 keys, u32 queries, i32 key0) {
    const AlongColumns<KEYS> left(keys, key0);
    const AlongColumns<ROWS> right(queries, 0);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) wgmma_shared<false, false>(s, left.step(k), right.step(k), k > 0);
    wgmma_commit_group();
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
// delta. Such queries are in masked tiles only, since a tile has more keys.
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

// Applies `visit(store's two elements, whether they exist, two registers)` to this thread's part of dk
// or dv.
template <typename Visit>
__device__ inline void each_gradient(Sum& sum, const View& store, const Piece& piece, i32 key0,
                                     i32 head_dim, Lane lane, Visit visit) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const i32 key = key0 + lane.row() + half * 8;
        const bool exists = key < piece.keys();
        f32* row = at<f32>(store, piece.key_row() + key, piece.kv_head()) + lane.column();
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int n = 0; n < PART / 8; ++n) {
                const i32 column = part * PART + n * 8;
                f32* x = &sum[part][n * 4 + half * 2];
                visit(row + column, exists && column < head_dim, x[0], x[1]);
            }
    }
}

__device__ inline void load_gradients(Sum& dk, Sum& dv, const Attention& args, const Piece& piece,
                                      i32 key0, Lane lane) {
    const auto take = [](f32* store, bool exists, f32& x, f32& y) {
        ld_global_f32x2_or_zero(x, y, store, exists);
    };
    each_gradient(dv, args.dv, piece, key0, args.head_dim, lane, take);
    each_gradient(dk, args.dk, piece, key0, args.head_dim, lane, take);
}

__device__ inline void store_gradients(Sum& dk, Sum& dv, const Attention& args, const Piece& piece,
                                       i32 key0, Lane lane) {
    const auto put = [](f32* store, bool exists, f32 x, f32 y) {
        if (exists) *reinterpret_cast<float2*>(store) = {canonical(x), canonical(y)};
    };
    each_gradient(dv, args.dv, piece, key0, args.head_dim, lane, put);
    each_gradient(dk, args.dk, piece, key0, args.head_dim, lane, put);
}

// ---- dq

using DQ = f32[DQ_PART / 2];

// This warpgroup's columns of dq, on their way when this returns.
__device__ inline void multiply_dq(DQ& dq, u32 ds_tile, u32 k_tile, i32 group) {
    const AlongRows<KEYS> left(ds_tile, 0);
    const AlongRows<KEYS> right(k_tile, group * DQ_PART);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) wgmma_shared<true, true>(dq, left.step(k), right.step(k), k > 0);
    wgmma_commit_group();
}

// dq to shared memory, as it lies in the running sum: this thread's part is beside its neighbours'.
__device__ inline void stage_dq(const DQ& dq, u32 to) {
#pragma unroll
    for (int n = 0; n < DQ_PART / 8; ++n)
        st_shared_f32x4(to + n * 2048, dq[n * 4], dq[n * 4 + 1], dq[n * 4 + 2], dq[n * 4 + 3]);
}

// Adds the sum of the others, which lies there. Subnormal sums become zeros, as they do in the L2 cache: a key
// tile of which a row sees nothing leaves its sum as it was.
__device__ inline void complete_dq(DQ& dq, u32 sum) {
#pragma unroll
    for (int n = 0; n < DQ_PART / 8; ++n) {
        f32 before[4];
        ld_shared_f32x4(before, sum + n * 2048);
#pragma unroll
        for (int i = 0; i < 4; ++i) dq[n * 4 + i] = add_ftz(dq[n * 4 + i], before[i]);
    }
}

// Four threads hold four words each, word `n` of thread `t` being part `t` of chunk `n`; afterwards
// thread `t` has the four parts of chunk `t`.
__device__ inline void transpose(u32 (&w)[4], Lane lane) {
    const i32 t = lane.thread % 4;
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            if (n & step) continue;
            const u32 given = __shfl_xor_sync(0xffffffff, t & step ? w[n] : w[n | step], step);
            if (t & step) w[n] = given; else w[n | step] = given;
        }
}

__device__ inline void write_dq(const DQ& dq, const Piece& piece, i32 t, i32 group, Lane lane,
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
        for (int n = 0; n < DQ_PART / 8; n += 4) {
            u32 w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const f32* x = &dq[(n + i) * 4 + half * 2];
                w[i] = ELEMENT::pair(add_ftz(x[0], 0.f), add_ftz(x[1], 0.f));
            }
            transpose(w, lane);
            const i32 chunk = group * (DQ_PART / 8) + n + lane.thread % 4;
            if (valid && chunk * 8 < args.head_dim) to[chunk] = make_uint4(w[0], w[1], w[2], w[3]);
        }
    }
}

// A tile whose ds is in shared memory. Its dq is made two tiles later, since the warpgroups may be most of a
// tile apart.
struct DqTile {
    i32 tile;
    u32 mark;  // 0 for none
    __device__ bool exists() const { return mark & MARK_EXISTS; }
};

// Until dk and dv are in the store as the walk's part before left them.
__device__ inline void await_walk(const Piece& piece, const Attention& args, Lane lane) {
    const u32 before = piece.before();
    if (lane.leads() && before > 0)
        while (ld_acquire(piece.walked(args)) != before) {
        }
    __syncwarp();
}

__device__ inline void own_keys(const Shared& shared, const Attention& args, i32 group) {
    const Lane lane;
    const i32 key0 = group * 64;
    const f32 to_log2 = args.scale * LOG2_E;
    // This thread's part of a tile's dq.
    const u32 dq_part = shared.dq + (group * (DQ_PART / 8) * 128 + lane.thread) * 16;
    Stage<STAGES> keys, stage;
    Stage<DQ_STAGES> dq_stage;  // of the older tile
    DQ dq;
    DqTile older = {}, newer = {};  // the two tiles before, whose dq is not made
    u32 v_parity = 0;
    share_unit(group);
    const auto piece_of = [&](i32 k) { return Piece{shared.mail + k * Piece::BYTES}; };
    // Of the tile that was in this stage before, made of the k in stage `k`.
    const auto make_dq = [&](i32 k) {
        if (older.exists()) wait(stage.of(shared.ds_here), stage.parity ^ 1);
        multiply_dq(dq, stage.of(shared.ds, Shape::SCORE_TILE), shared.k + k * Shape::KEY_TILE, group);
    };
    // The last to be added needs the others' sum, the others the room that the tile before leaves.
    const auto put_dq = [&](i32 k) {
        if (!older.exists()) return;
        release(stage.of(shared.ds_free), lane);
        dq_stage.before().wait_filled(shared.dq_free);
        if (!(older.mark & MARK_LAST)) {
            stage_dq(dq, dq_part);
        } else {
            dq_stage.wait_filled(shared.sum_here);
            if (!(older.mark & MARK_FIRST)) complete_dq(dq, dq_part);
            write_dq(dq, piece_of(k), older.tile, group, lane, args);
        }
    };
    // Some time after it was put, when the stores are through.
    const auto publish_dq = [&](i32 k) {
        if (!older.exists()) return;
        fence_proxy_async();
        release(dq_stage.of(shared.dq_here), lane);
        release(shared.k_free + k * 8, lane, older.mark & MARK_ENDS);
        older.mark = 0;
        dq_stage.advance();
    };
    // All dq that is not made yet.
    const auto finish_dq = [&](i32 k_of_older, i32 k_of_newer) {
        const Stage<STAGES> next = stage;
#pragma unroll 1
        for (i32 k = k_of_older, i = 0; i < 2; ++i, k = k_of_newer) {
            make_dq(k);
            wgmma_wait_group<0>();
            put_dq(k);
            publish_dq(k);
            older = newer;
            newer.mark = 0;
            stage.advance();
        }
        stage = next;
    };
    const auto piece_exists = [&] {
        keys.wait_filled(shared.k_here);
        return uniform(piece_of(keys.stage).exists());
    };
    for (bool exists = piece_exists(); exists; exists = piece_exists()) {
        const Piece piece = piece_of(keys.stage);
        const u32 k_tile = keys.of(shared.k, Shape::KEY_TILE);
        const i32 begin = uniform(piece.begin()), end = uniform(piece.end());
        await_walk(piece, args, lane);
        Sum dk, dv;
        load_gradients(dk, dv, args, piece, key0, lane);
        take_unit(group);
        for (i32 t = end - 1; t >= begin; --t) {
            const u32 q_tile = stage.of(shared.q, Shape::QUERY_TILE);
            const u32 dout_tile = stage.of(shared.dout, Shape::QUERY_TILE);
            const u32 stats = stage.of(shared.stats, Shape::STATS);
            const i32 older_k = keys.stage ^ (t + 2 >= end);
            S s, dp;
            Narrow p16, ds16;
            stage.wait_filled(shared.q_here);
            multiply_scores(s, k_tile, q_tile, key0);
            make_dq(older_k);
            pass_unit(group);
            const u32 mark = ld_shared_i32(stage.of(shared.marks));

            wgmma_wait_group<1>();  // s is here; dk of the tile before is made
            release(stage.before().of(shared.q_free), lane, t + 1 < end);
            const bool masked = mark & MARK_MASKED << group;
            if (masked) ::mask(s, piece, t, key0, lane, args);
            each_stat(stats, lane, [&](int i, f32 lse2) { s[i] = ex2(fmaf(s[i], to_log2, -lse2)); });
            narrow(p16, s);
            wgmma_wait_group<0>();  // dq is made
            put_dq(older_k);
            if (t + 1 == end) wait(shared.v_here, v_parity);
            stage.wait_filled(shared.dout_here);
            take_unit(group);
            multiply_scores(dp, shared.v, dout_tile, key0);
            multiply_sums(dv, p16, dout_tile);
            pass_unit(group);
            publish_dq(older_k);
            if (masked) clear_lone_keys(s, piece, t, lane, args);

            wgmma_wait_group<1>();  // dp is here
            release(shared.v_free, lane, t == begin);
            each_stat(stats + ROWS * 4, lane, [&](int i, f32 delta) {
                dp[i] = s[i] * fmaf(dp[i], args.scale, -delta);  // ds
            });
            wgmma_wait_group<0>();  // dv is made
            release(stage.of(shared.dout_free), lane);
            narrow(ds16, dp);
            stage.wait_free(shared.ds_free);
            store_scores(stage.of(shared.ds, Shape::SCORE_TILE), ds16, key0, lane);
            take_unit(group);
            multiply_sums(dk, ds16, q_tile);
            fence_proxy_async();
            release(stage.of(shared.ds_here), lane);
            older = newer;
            newer = {t, mark};
            stage.advance();
        }
        pass_unit(group);
        wgmma_wait_group<0>();
        release(stage.before().of(shared.q_free), lane);
        store_gradients(dk, dv, args, piece, key0, lane);
        release(keys.of(shared.stored), lane);
        // The next piece but one will want the k of the piece before this one; and where walks are cut, a block
        // that waits for another must not keep dq that the other may wait for.
        const bool single = begin + 1 == end;
        if (single || uniform(piece.finishes())) finish_dq(keys.stage ^ single, keys.stage);
        v_parity ^= 1;
        keys.advance();
    }
    finish_dq(keys.stage ^ 1, keys.stage ^ 1);
}
