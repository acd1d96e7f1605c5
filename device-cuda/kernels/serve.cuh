// The warps of backward_wgmma that serve those who compute: one brings tiles, three threads add to the
// sums of dq.
#pragma once
#include "stages.cuh"

struct Args {
    Attention attention;
    TensorMap q, k, v, dout, stats, dk, dv;
};
static_assert(sizeof(Args) == 1216, "src/args.rs has the same size");

// Brings tiles; for the lanes of one warp.
struct Loader {
    const Shared& shared;
    const Args& args;
    Lane lane;
    i32 tokens;  // of a query tile
    Stage<STAGES> keys, stage;
    u32 tail_parity, v_parity;

    __device__ Loader(const Shared& shared, const Args& args)
        : shared(shared), args(args), tokens(ROWS / args.attention.group), tail_parity(0), v_parity(0) {}

    __device__ void wait_tail() {
        wait(shared.tail, tail_parity);
        tail_parity ^= 1;
    }

    __device__ static u32 mark(const Piece& piece, i32 t) {
        u32 bits = MARK_EXISTS | MARK_QUERIES;
        if (t == piece.begin()) bits |= MARK_ENDS;
        if (piece.first_to_add(t)) bits |= MARK_FIRST;
        if (piece.last_to_add(t)) bits |= MARK_LAST;
        for (i32 half = 0; half < 2; ++half)
            if (!piece.whole(t, half)) bits |= MARK_MASKED << half;
        return bits;
    }

    // Every lane arrives at a barrier that also waits for what the copy engine brings.
    __device__ void expect(u32 barrier, u32 bytes) const {
        if (lane.leads()) mbarrier_expect_tx(barrier, bytes);
        mbarrier_arrive(barrier);
    }

    // q, dout and stats of a query tile.
    __device__ void bring_queries(const Piece& piece, i32 t) {
        const i32 group = args.attention.group;
        const u32 box = panels(D) * tokens * group * PANEL_ROW_BYTES;
        const u32 q = stage.of(shared.q, Shape::QUERY_TILE);
        const auto dout_stage = among<DOUT_STAGES>(stage);
        const u32 dout = dout_stage.of(shared.dout, Shape::QUERY_TILE);
        const TileRows rows(piece, t, tokens);
        const bool whole = rows.begin == 0 && rows.end == tokens;
        const i32 head = piece.kv_head() * group;
        const i32 number = piece.number(t, args.attention.kv_heads);
        const u32 bits = mark(piece, t);
        const u32 q_here = whole ? stage.of(shared.q_here) : shared.tail;
        const u32 dout_here = whole ? dout_stage.of(shared.dout_here) : shared.tail;

        stage.wait_free(shared.q_free);
        if (lane.leads()) st_shared_i32(stage.of(shared.marks), static_cast<i32>(bits));
        expect(q_here, box + Shape::STATS + (whole ? 0 : box));
        if (lane.leads()) {
            load_panels<ROWS, D>(q, args.q, head, rows.row, q_here);
            cp_async_bulk_tensor_2d(stage.of(shared.stats, Shape::STATS), &args.stats, 0, number, q_here);
        }
        dout_stage.wait_free(shared.dout_free);
        if (whole) expect(dout_here, box);
        if (lane.leads()) load_panels<ROWS, D>(dout, args.dout, head, rows.row, dout_here);
        if (!whole) {
            wait_tail();
            zero_rows<ROWS, D>(q, 0, rows.begin * group);
            zero_rows<ROWS, D>(q, rows.end * group, tokens * group);
            zero_rows<ROWS, D>(dout, 0, rows.begin * group);
            zero_rows<ROWS, D>(dout, rows.end * group, tokens * group);
            fence_proxy_async();
            release(stage.of(shared.q_here));
            release(dout_stage.of(shared.dout_here));
        }
        stage.advance();
    }

    // A tile without queries behind the only one of a piece, so that dq of the piece before is made before this one
    // ends: the next piece's k takes the place of that.
    __device__ void bring_no_queries() {
        const auto dout_stage = among<DOUT_STAGES>(stage);
        stage.wait_free(shared.q_free);
        if (lane.leads()) st_shared_i32(stage.of(shared.marks), MARK_EXISTS);
        release(stage.of(shared.q_here));
        dout_stage.wait_free(shared.dout_free);
        release(dout_stage.of(shared.dout_here));
        stage.advance();
    }

    // A piece's k or v.
    __device__ void bring_tile(const TensorMap& map, const Piece& piece, u32 tile, u32 here) {
        const i32 valid = piece.keys();
        const u32 barrier = valid >= KEYS ? here : shared.tail;
        expect(barrier, Shape::KEY_TILE);
        if (lane.leads()) load_panels<KEYS, D>(tile, map, piece.kv_head(), piece.key_row(), barrier);
        if (valid >= KEYS) return;
        wait_tail();
        zero_rows<KEYS, D>(tile, valid, KEYS);
        fence_proxy_async();
        release(here);
    }

    // In the store.
    __device__ void say_where_rows_begin(const Piece& piece, i32 gradient) {
        if (gradient > DV) return;
        const Attention& attention = args.attention;
        const View store = gradient == DK ? attention.dk : attention.dv;
        const f32* rows = at<f32>(store, piece.key_row(), piece.kv_head());
        const u32 to = piece.at + Piece::GRADIENTS + gradient * Piece::GRADIENT_BYTES;
        st_shared_u64(to, reinterpret_cast<u64>(rows));
        st_shared_u64(to + 8, store.row_stride);
    }

    // The next piece, with its k where that has room beside this one's, or the news that there is none.
    __device__ void take_piece() {
        const Attention& attention = args.attention;
        u32 ticket = 0;
        if (lane.leads()) ticket = take_ticket(reinterpret_cast<u32*>(attention.turns));
        ticket = __shfl_sync(0xffffffff, ticket, 0);
        const bool exists = ticket < static_cast<u32>(attention.tile_count * attention.kv_heads);
        const Piece piece = {keys.of(shared.mail, Piece::BYTES)};
        const u32 here = keys.of(shared.k_here), tile = keys.of(shared.k, Shape::KEY_TILE);
        const i32* words = reinterpret_cast<const i32*>(
            reinterpret_cast<const KeyTile*>(attention.tiles) + ticket / attention.kv_heads);
        constexpr i32 WORDS = sizeof(KeyTile) / 4;
        const i32 in_warp = lane.thread % 32;
        const i32 word = exists && in_warp < WORDS ? words[in_warp] : 0;

        keys.wait_free(shared.k_free);
        keys.advance();
        if (in_warp < WORDS) st_shared_i32(piece.at + in_warp * 4, word);
        if (in_warp == WORDS)
            st_shared_i32(piece.at + Piece::KV_HEAD,
                          exists ? static_cast<i32>(ticket % attention.kv_heads) : -1);
        __syncwarp();  // this warp reads the piece without waiting for k
        if (exists) say_where_rows_begin(piece, in_warp);
        if (!exists) {
            release(here);
        } else if (Shape::KEY_STAGES > 1) {
            bring_tile(args.k, piece, tile, here);
        }
    }

    // A piece's k where that has one stage, after its v, which has room earlier.
    __device__ void bring_keys(const Piece& piece, u32 here) {
        wait(shared.k_read, v_parity);
        bring_tile(args.k, piece, shared.k, here);
    }

    // A piece's dk and dv from the store, where they are staged: as early as its first queries. Rows behind the
    // document's come too, whatever they hold just now.
    __device__ void bring_gradients(const Piece& piece) {
        wait(shared.dkv_free, v_parity ^ 1);
        const bool held = piece.held() > 0;
        expect(shared.dkv_here, held ? Shape::DKV_ROOM : 0);
        if (!lane.leads() || !held) return;
        const i32 head = piece.kv_head(), row = piece.key_row();
        cp_async_bulk_tensor_3d(shared.dkv, &args.dk, 0, head, row, shared.dkv_here);
        cp_async_bulk_tensor_3d(shared.dkv + Shape::DKV_ROOM / 2, &args.dv, 0, head, row, shared.dkv_here);
    }

    __device__ void bring_values(const Piece& piece) {
        wait(shared.v_free, v_parity ^ 1);
        v_parity ^= 1;
        bring_tile(args.v, piece, shared.v, shared.v_here);
    }
};

// The warp that brings tiles as soon as there is room: the next k, where it has a stage of its own, before a
// piece ends.
__device__ inline void bring_tiles(const Shared& shared, const Args& args) {
    Loader loader(shared, args);
    Stage<STAGES> keys;
    loader.take_piece();
    for (;; keys.advance()) {
        const Piece piece = {keys.of(shared.mail, Piece::BYTES)};
        if (!piece.exists()) return;
        const i32 begin = piece.begin(), end = piece.end();
        // Late: who takes a ticket should begin its piece soon, since others wait for its turns. But not
        // before the second tile, with which the k of the piece before becomes free.
        const i32 take_piece_at = Shape::KEY_STAGES > 1 ? max(min(begin + 2, end - 2), begin) : begin;
        if constexpr (Shape::DKV_STAGED) loader.bring_gradients(piece);
        for (i32 t = end - 1; t >= begin; --t) {
            loader.bring_queries(piece, t);
            if (t == end - 1) {
                loader.bring_values(piece);
                if (Shape::KEY_STAGES == 1) loader.bring_keys(piece, keys.of(shared.k_here));
            }
            if (Shape::KEY_STAGES > 1 && begin + 1 == end) loader.bring_no_queries();
            if (t == take_piece_at) loader.take_piece();
        }
        release(keys.of(shared.k_free));
    }
}

// The threads that add a block's dq to the sums take turns with other blocks and walk the same tiles as the
// warpgroups, each one of ADDERS: all that a tile has to wait for is several times the time that it takes.
struct Adder {
    const Shared& shared;
    const Attention& args;

    // What other blocks added before is there, for the copy engine too.
    __device__ void await_turn(const u32* count, u32 mine) const {
        if (mine == 0) return;
        while (ld_acquire(count) != mine) {
        }
        fence_proxy_async_all();
    }

    // The bytes of a round that DQ_ROOM has for most.
    __device__ static constexpr i32 bytes(i32 round) {
        return min(Shape::DQ_ROOM, Shape::DQ_TILE - round * Shape::DQ_ROOM);
    }
    __device__ f32* sum(i32 number, i32 round) const {
        return reinterpret_cast<f32*>(args.dq_sum) + i64(number) * (Shape::DQ_TILE / 4) +
               round * (Shape::DQ_ROOM / 4);
    }

    // The tile's dq goes from shared memory to the sum.
    __device__ void add(Stage<DQ_STAGES> stage, i32 number, bool first) const {
#pragma unroll
        for (i32 round = 0; round < DQ_ROUNDS; ++round, stage.advance()) {
            stage.wait_filled(shared.dq_here);
            if (first) {
                cp_async_bulk_store(sum(number, round), shared.dq, bytes(round), createpolicy_evict_last());
            } else {
                cp_reduce_async_bulk_add_f32(sum(number, round), shared.dq, bytes(round), createpolicy_evict_last());
            }
            cp_async_bulk_commit_group();
            cp_async_bulk_wait_group_read();
            mbarrier_arrive(stage.of(shared.sum_here));
            stage.wait_filled(shared.sum_here);  // who arrives again must have waited; at once, being alone
            mbarrier_arrive(stage.of(shared.dq_free));
        }
    }

    // The sum comes to shared memory, and the warpgroups add to it what becomes dq. It is not needed any more.
    __device__ void bring_sum(Stage<DQ_STAGES> stage, i32 number, bool first) const {
#pragma unroll
        for (i32 round = 0; round < DQ_ROUNDS; ++round, stage.advance()) {
            const u32 here = stage.of(shared.sum_here);
            if (first) {
                mbarrier_arrive(here);
            } else {
                stage.before().wait_filled(shared.dq_free);
                mbarrier_arrive_expect_tx(here, bytes(round));
                cp_async_bulk_load(shared.dq, sum(number, round), bytes(round), here, createpolicy_evict_first());
            }
            stage.wait_filled(shared.dq_here);
            mbarrier_arrive(stage.of(shared.dq_free));
            if (!first)
                for (i32 i = 0; i < bytes(round); i += 128)
                    discard_l2(reinterpret_cast<const char*>(sum(number, round)) + i);
        }
    }

    __device__ void serve(const Piece& piece, i32 t, const Stage<DQ_STAGES>& stage) const {
        const i32 number = piece.number(t, args.kv_heads);
        u32* const count = reinterpret_cast<u32*>(args.turns) + 1 + number;
        const u32 mine = piece.turn(t, ROWS / args.group, args.window);
        await_turn(count, mine);
        if (piece.last_to_add(t)) {
            bring_sum(stage, number, mine == 0);
        } else {
            add(stage, number, mine == 0);
            cp_async_bulk_wait_group();
            fence_gpu();
            st_relaxed(count, mine + 1);
        }
    }

    // The walk's next part may add its dk and dv. Waited for also where there is none: who arrives again must be.
    __device__ void pass_walk_on(const Piece& piece, const Stage<STAGES>& keys) const {
        keys.wait_filled(shared.stored);
        if (piece.after() == 0) return;
        fence_gpu();
        st_relaxed(piece.walked(args), piece.before() + 1);
    }
};

__device__ inline void add_dq(const Shared& shared, const Attention& args, i32 adder) {
    const Adder mine = {shared, args};
    Stage<STAGES> keys;
    Stage<DQ_STAGES> stage;
    for (;; keys.advance()) {
        keys.wait_filled(shared.k_here);
        const Piece piece = {keys.of(shared.mail, Piece::BYTES)};
        if (!piece.exists()) return;
        const i32 begin = piece.begin(), end = piece.end();
        // dq of the last two tiles is made with the next piece, where there is a k for each: too late to wait for.
        const i32 pass_on_at = Shape::KEY_STAGES > 1 && begin + 1 < end ? begin + 1 : begin - 1;
        for (i32 t = end - 1;; --t) {
            if (adder == 0 && t == pass_on_at) mine.pass_walk_on(piece, keys);
            if (t < begin) break;
            if (stage.stage == adder * DQ_ROUNDS) mine.serve(piece, t, stage);
#pragma unroll
            for (i32 round = 0; round < DQ_ROUNDS; ++round) stage.advance();
        }
        mbarrier_arrive(keys.of(shared.k_free));
    }
}
