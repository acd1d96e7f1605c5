// The warpgroups of backward_wgmma that own keys: s, p, dp, ds of 64 keys by a tile of queries, the sums dk
// and dv, and half of the columns of the tile's dq. Walks end with queries that see the first half of the keys
// only, or with all, where the document has no keys for the second: one warpgroup has the matrix unit then.
#pragma once
#include "gradient.cuh"
#include "unit.cuh"

static_assert(Shape::OWN_KEYS);

constexpr int DQ_PART = panels(D) * PANEL_COLS / GROUPS;  // columns of dq that a warpgroup makes
static_assert(Shape::DQ_TILE == ROWS * GROUPS * DQ_PART * 4 && Shape::DQ_ROUNDS == 1);

using DQ = f32[DQ_PART / 2];

// A tile whose ds is in shared memory. Its dq is made two tiles later, since the warpgroups may be most of a
// tile apart.
struct DqTile {
    i32 tile;
    u32 mark;  // 0 for none
    __device__ bool exists() const { return mark & MARK_EXISTS; }
    __device__ bool has_queries() const { return mark & MARK_QUERIES; }
};

__device__ inline void compute(const Shared& shared, const Attention& args, i32 group) {
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
    const Unit<GROUPS> unit(group);
    const auto piece_of = [&](i32 k) { return Piece{shared.mail + k * Piece::BYTES}; };
    // Of the tile that was in this stage before, made of the k in stage `k`. Where there was none, or one without
    // queries, of whatever lies there: nobody puts it anywhere.
    const auto make_dq = [&](i32 k) {
        if (older.exists()) wait(stage.of(shared.ds_here), stage.parity ^ 1);
        multiply_dq(dq, stage.of(shared.ds, Shape::SCORE_TILE), shared.k + k * Shape::KEY_TILE,
                    group * DQ_PART);
    };
    // The last to be added needs the others' sum, the others the room that the tile before leaves.
    const auto put_dq = [&](i32 k) {
        if (!older.exists()) return;
        release(stage.of(shared.ds_free));
        if (!older.has_queries()) return;
        dq_stage.before().wait_filled(shared.dq_free);
        if (!(older.mark & MARK_LAST)) {
            stage_dq(dq, dq_part);
        } else {
            dq_stage.wait_filled(shared.sum_here);
            if (!(older.mark & MARK_FIRST)) complete_dq(dq, dq_part);
            write_dq(dq, piece_of(k), older.tile, group * DQ_PART, lane, args);
        }
    };
    // Some time after it was put, when the stores are through.
    const auto publish_dq = [&](i32 k) {
        if (!older.has_queries()) return;
        fence_proxy_async();
        release(dq_stage.of(shared.dq_here));
        release(shared.k_free + k * 8, older.mark & MARK_ENDS);
        older.mark = 0;
        dq_stage.advance();
    };
    // All dq that is not made yet, of the last piece.
    const auto finish_dq = [&] {
#pragma unroll 1
        for (i32 i = 0; i < 2; ++i) {
            make_dq(keys.stage ^ 1);
            wgmma_wait_group<0>();
            put_dq(keys.stage ^ 1);
            publish_dq(keys.stage ^ 1);
            older = newer;
            newer.mark = 0;
            stage.advance();
        }
    };
    const auto piece_exists = [&] {
        keys.wait_filled(shared.k_here);
        return uniform(piece_of(keys.stage).exists());
    };
    for (bool exists = piece_exists(); exists; exists = piece_exists()) {
        const Piece piece = piece_of(keys.stage);
        const u32 k_tile = keys.of(shared.k, Shape::KEY_TILE);
        // Two tiles at least: behind the only one of a piece comes one without queries.
        const i32 end = uniform(piece.end()), begin = min(uniform(piece.begin()), end - 2);
        Sum dk, dv;
        if constexpr (Shape::DKV_STAGED) {
            wait(shared.dkv_here, v_parity);
            take_gradient(dk, shared.dkv, piece, key0, args.head_dim, lane);
            take_gradient(dv, shared.dkv + Shape::DKV_ROOM / 2, piece, key0, args.head_dim, lane);
            release(shared.dkv_free);
        } else {
            load_gradient(dv, DV, piece, key0, args.head_dim);
            load_gradient(dk, DK, piece, key0, args.head_dim);
        }
        as_products(dv, lane);
        as_products(dk, lane);
        const auto take_tile = [&](i32 t) {
            const u32 q_tile = stage.of(shared.q, Shape::QUERY_TILE);
            const u32 dout_tile = stage.of(shared.dout, Shape::QUERY_TILE);
            const u32 stats = stage.of(shared.stats, Shape::STATS);
            const i32 older_k = keys.stage ^ (t + 2 >= end);
            S s, dp;
            Narrow p16, ds16;
            stage.wait_filled(shared.q_here);
            multiply_scores(s, k_tile, q_tile, key0);
            make_dq(older_k);
            unit.pass();
            const u32 mark = ld_shared_i32(stage.of(shared.marks));

            wgmma_wait_group<1>();  // s is here; dk of the tile before is made
            release(stage.before().of(shared.q_free), t + 1 < end);
            const bool masked = mark & MARK_MASKED << group;
            if (masked) ::mask(s, piece, t, key0, lane, args);
            each_stat(stats, lane, [&](int i, f32 lse2) { s[i] = ex2(fmaf(s[i], to_log2, -lse2)); });
            narrow_scores<ELEMENT>(p16, s);
            wgmma_wait_group<0>();  // dq is made
            put_dq(older_k);
            if (t + 1 == end) wait(shared.v_here, v_parity);
            stage.wait_filled(shared.dout_here);
            unit.take();
            multiply_scores(dp, shared.v, dout_tile, key0);
            multiply_sums(dv, p16, dout_tile);
            unit.pass();
            publish_dq(older_k);
            if (masked) clear_lone_keys(s, piece, t, lane, args);

            wgmma_wait_group<1>();  // dp is here
            release(shared.v_free, t == begin);
            each_stat(stats + ROWS * 4, lane, [&](int i, f32 delta) {
                dp[i] = s[i] * fmaf(dp[i], args.scale, -delta);  // ds
            });
            wgmma_wait_group<0>();  // dv is made
            release(stage.of(shared.dout_free));
            narrow_scores<ELEMENT>(ds16, dp);
            stage.wait_free(shared.ds_free);
            store_scores(stage.of(shared.ds, Shape::SCORE_TILE), ds16, key0, lane);
            unit.take();
            multiply_sums(dk, ds16, q_tile);
            fence_proxy_async();
            release(stage.of(shared.ds_here));
            older = newer;
            newer = {t, mark};
            stage.advance();
        };
        // The same for queries that see none of this warpgroup's keys: ds is 0, and only dq is left to be made.
        const auto pass_tile = [&](i32 t) {
            const i32 older_k = keys.stage ^ (t + 2 >= end);
            const Narrow no_ds16 = {};
            stage.wait_filled(shared.q_here);
            make_dq(older_k);
            unit.pass();
            const u32 mark = ld_shared_i32(stage.of(shared.marks));
            wgmma_wait_group<0>();
            release(stage.before().of(shared.q_free), t + 1 < end);
            put_dq(older_k);
            if (t + 1 == end) wait(shared.v_here, v_parity);
            stage.wait_filled(shared.dout_here);
            unit.take();
            unit.pass();
            publish_dq(older_k);
            release(shared.v_free, t == begin);
            release(stage.of(shared.dout_free));
            stage.wait_free(shared.ds_free);
            store_scores(stage.of(shared.ds, Shape::SCORE_TILE), no_ds16, key0, lane);
            unit.take();
            fence_proxy_async();
            release(stage.of(shared.ds_here));
            older = newer;
            newer = {t, mark};
            stage.advance();
        };
        unit.take();
        const i32 seen_begin = uniform(piece.seen_begin(group));
        i32 t = end - 1;
        for (; t >= seen_begin; --t) take_tile(t);
        wgmma_wait_group<0>();  // no product is on its way where tiles of the other kind begin
        for (; t >= begin; --t) pass_tile(t);
        unit.pass();
        wgmma_wait_group<0>();
        release(stage.before().of(shared.q_free));
        await_walk(piece, args, Lane());
        put_gradient(dv, DV, piece, key0, args.head_dim);
        put_gradient(dk, DK, piece, key0, args.head_dim);
        release(keys.of(shared.stored));
        v_parity ^= 1;
        keys.advance();
    }
    finish_dq();
}
