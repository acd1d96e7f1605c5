// The warpgroups of backward_wgmma that share 64 keys, of heads so large that one warpgroup's registers hold dk
// or dv. One makes s, p and the sum dv, the other dp, ds and the sum dk; p goes from one to the other through
// shared memory, as f32 and thread by thread. Each makes half of the columns of a tile's dq.
#pragma once
#include "gradient.cuh"

static_assert(!Shape::OWN_KEYS && KEYS == 64 && D > 128);

// dq goes through shared memory in two rounds. In the first the warpgroups make the panels 0 and 2, in the
// second what is left: panels 1 and 3, or a half of panel 1 each.
__host__ __device__ constexpr i32 dq_columns(i32 round) { return round == 0 ? PANEL_COLS : (D - 2 * PANEL_COLS) / 2; }
__host__ __device__ constexpr i32 dq_column(i32 round, i32 group) {
    return round == 0 ? group * 2 * PANEL_COLS
                      : PANEL_COLS + group * (D == 256 ? 2 * PANEL_COLS : dq_columns(1));
}
static_assert(DQ_ROUNDS == 2 && GROUPS == 2);
static_assert(Shape::DQ_ROOM == 2 * ROWS * dq_columns(0) * 4);
static_assert(Shape::DQ_TILE == Shape::DQ_ROOM + 2 * ROWS * dq_columns(1) * 4);

template <i32 ROUND>
using DQ = f32[dq_columns(ROUND) / 2];

// What a warpgroup does for dq, a tile later than the rest: the other's ds is in shared memory then.
struct DqMaker {
    const Shared& shared;
    const Attention& args;
    i32 group;
    Lane lane;
    Stage<DQ_STAGES> room;

    template <i32 ROUND>
    __device__ u32 part() const {
        return shared.dq + (group * (dq_columns(ROUND) / 8 * 128) + lane.thread) * 16;
    }

    // On its way when this returns.
    template <i32 ROUND>
    __device__ void multiply(DQ<ROUND>& dq, const Stage<STAGES>& stage) const {
        multiply_dq(dq, stage.of(shared.ds, Shape::SCORE_TILE), shared.k, dq_column(ROUND, group));
    }

    // The last to be added needs the others' sum, the others the room that the round before leaves.
    template <i32 ROUND>
    __device__ void put(DQ<ROUND>& dq, const Piece& piece, i32 t, u32 mark) const {
        room.before().wait_filled(shared.dq_free);
        if (!(mark & MARK_LAST)) {
            stage_dq(dq, part<ROUND>());
        } else {
            room.wait_filled(shared.sum_here);
            if (!(mark & MARK_FIRST)) complete_dq(dq, part<ROUND>());
            write_dq(dq, piece, t, dq_column(ROUND, group), lane, args);
        }
    }

    // Best some time after it was put, when the stores are through.
    __device__ void publish() {
        fence_proxy_async();
        release(room.of(shared.dq_here));
        room.advance();
    }

    // All of a piece's last tile's. The next piece's k takes the place of this one's.
    __device__ void finish(const Piece& piece, i32 t, u32 mark, const Stage<STAGES>& stage) {
        DQ<0> first;
        DQ<1> second;
        stage.wait_filled(shared.ds_here);
        multiply<0>(first, stage);
        wgmma_wait_group<0>();
        put<0>(first, piece, t, mark);
        multiply<1>(second, stage);
        publish();
        wgmma_wait_group<0>();
        release(stage.of(shared.ds_free));
        release(shared.k_read);
        put<1>(second, piece, t, mark);
        publish();
    }
};

// p for the other warpgroup, whose threads hold the same elements.
__device__ inline u32 p_part(const Shared& shared, Lane lane) { return shared.p + lane.thread * 16; }

// A warpgroup's walks over the query tiles of pieces. `Role` makes scores, s or dp first, then a sum of them.
// Nothing is on its way in the matrix unit where the loop ends, and dq is not kept beyond it: the compiler
// would make products wait for each other.
template <typename Role>
__device__ inline void walk(Role& role, const Shared& shared, const Attention& args, i32 group) {
    const Lane lane;
    DqMaker dq = {shared, args, group, lane, {}};
    Stage<STAGES> keys, stage;
    const auto piece_exists = [&] {
        keys.wait_filled(shared.k_here);
        return uniform(Piece{shared.mail + keys.stage * Piece::BYTES}.exists());
    };
    for (bool exists = piece_exists(); exists; exists = piece_exists()) {
        const Piece piece = {keys.of(shared.mail, Piece::BYTES)};
        const i32 begin = uniform(piece.begin()), end = uniform(piece.end());
        u32 mark_before = 0;
        Sum sum;
        load_gradient(sum, Role::GRADIENT, piece, 0, args.head_dim);
        as_products(sum, lane);
        for (i32 t = end - 1; t >= begin; --t) {
            // Else what is made as dq is not used: without a branch the compiler follows the products.
            const bool follows = t + 1 < end;
            const Stage<STAGES> before = stage.before();  // of tile t + 1, whose dq is made
            S s;
            DQ<0> first;
            DQ<1> second;
            Narrow scores;
            stage.wait_filled(shared.q_here);
            role.issue_scores(s, stage, t + 1 == end);
            if (follows) before.wait_filled(shared.ds_here);
            dq.multiply<0>(first, before);
            const u32 mark = ld_shared_i32(stage.of(shared.marks));

            wgmma_wait_group<1>();  // s or dp is here
            role.finish_scores(scores, s, piece, t, mark, stage);
            wgmma_wait_group<0>();  // the first half of dq is made
            role.issue_sum(sum, scores, stage);
            if (follows) dq.put<0>(first, piece, t + 1, mark_before);
            dq.multiply<1>(second, before);
            role.publish_scores(stage);
            if (follows) dq.publish();

            wgmma_wait_group<1>();  // dv or dk is made
            role.release_sum(stage);
            wgmma_wait_group<0>();  // the second half is made
            release(before.of(shared.ds_free), follows);
            if (follows) {
                dq.put<1>(second, piece, t + 1, mark_before);
                dq.publish();
            }
            mark_before = mark;
            stage.advance();
        }
        dq.finish(piece, begin, mark_before, stage.before());
        await_walk(piece, args, lane);
        put_gradient(sum, Role::GRADIENT, piece, 0, args.head_dim);
        release(keys.of(shared.stored));
        release(keys.of(shared.k_free));
        keys.advance();
    }
}

// s, p and dv.
struct Values {
    const Shared& shared;
    const Attention& args;
    Lane lane;
    f32 to_log2;

    static constexpr Gradient GRADIENT = DV;

    __device__ void issue_scores(S& s, const Stage<STAGES>& stage, bool) {
        multiply_scores(s, shared.k, stage.of(shared.q, Shape::QUERY_TILE), 0);
    }

    __device__ void finish_scores(Narrow& p16, S& s, const Piece& piece, i32 t, u32 mark,
                                  const Stage<STAGES>& stage) const {
        if (mark & MARK_MASKED * 3) mask(s, piece, t, 0, lane, args);
        each_stat(stage.of(shared.stats, Shape::STATS), lane,
                  [&](int i, f32 lse2) { s[i] = ex2(fmaf(s[i], to_log2, -lse2)); });
        release(stage.of(shared.q_free));
        // The p before was read: the ds made of it is here, since a product reads it.
        const u32 to = p_part(shared, lane);
#pragma unroll
        for (int n = 0; n < ROWS / 8; ++n)
            st_shared_f32x4(to + n * 2048, s[n * 4], s[n * 4 + 1], s[n * 4 + 2], s[n * 4 + 3]);
        release(shared.p_here);
        narrow_scores<ELEMENT>(p16, s);
    }

    __device__ void issue_sum(Sum& dv, const Narrow& p16, const Stage<STAGES>& stage) const {
        const auto dout = among<DOUT_STAGES>(stage);
        dout.wait_filled(shared.dout_here);
        multiply_sums(dv, p16, dout.of(shared.dout, Shape::QUERY_TILE));
    }

    __device__ void publish_scores(const Stage<STAGES>&) const {}

    __device__ void release_sum(const Stage<STAGES>& stage) const {
        release(among<DOUT_STAGES>(stage).of(shared.dout_free));
    }
};

// dp, ds and dk.
struct Keys {
    const Shared& shared;
    const Attention& args;
    Lane lane;
    u32 v_parity;

    static constexpr Gradient GRADIENT = DK;

    __device__ void issue_scores(S& dp, const Stage<STAGES>& stage, bool begins) {
        if (begins) {
            wait(shared.v_here, v_parity);
            v_parity ^= 1;
        }
        const auto dout = among<DOUT_STAGES>(stage);
        dout.wait_filled(shared.dout_here);
        multiply_scores(dp, shared.v, dout.of(shared.dout, Shape::QUERY_TILE), 0);
    }

    __device__ void finish_scores(Narrow& ds16, S& dp, const Piece& piece, i32 t, u32 mark,
                                  const Stage<STAGES>& stage) const {
        release(among<DOUT_STAGES>(stage).of(shared.dout_free));
        release(shared.v_free, mark & MARK_ENDS);
        among<1>(stage).wait_filled(shared.p_here);
        const u32 from = p_part(shared, lane);
        f32 p[2][4];
        ld_shared_f32x4(p[0], from);
        each_stat(stage.of(shared.stats, Shape::STATS) + ROWS * 4, lane, [&](int i, f32 delta) {
            if (i % 4 == 0 && i + 4 < ROWS / 2) ld_shared_f32x4(p[(i / 4 + 1) % 2], from + (i / 4 + 1) * 2048);
            dp[i] = p[i / 4 % 2][i % 4] * fmaf(dp[i], args.scale, -delta);  // ds
        });
        if (mark & MARK_MASKED * 3) clear_lone_keys(dp, piece, t, lane, args);
        narrow_scores<ELEMENT>(ds16, dp);
        stage.wait_free(shared.ds_free);
        store_scores(stage.of(shared.ds, Shape::SCORE_TILE), ds16, 0, lane);
    }

    __device__ void issue_sum(Sum& dk, const Narrow& ds16, const Stage<STAGES>& stage) const {
        multiply_sums(dk, ds16, stage.of(shared.q, Shape::QUERY_TILE));
    }

    __device__ void publish_scores(const Stage<STAGES>& stage) const {
        fence_proxy_async();
        release(stage.of(shared.ds_here));
    }

    __device__ void release_sum(const Stage<STAGES>& stage) const {
        release(stage.of(shared.q_free));
    }
};

__device__ inline void compute(const Shared& shared, const Attention& args, i32 group) {
    if (group == 0) {
        Values values = {shared, args, {}, args.scale * LOG2_E};
        walk(values, shared, args, 0);
    } else {
        Keys keys = {shared, args, {}, 0};
        walk(keys, shared, args, 1);
    }
}
