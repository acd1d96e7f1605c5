// The shared memory of backward_wgmma and how its threads hand it to each other.
#pragma once
#include "piece.cuh"

// Of the tiles, and of the barriers with which dq is handed on.
constexpr int STAGES = Shape::STAGES, DOUT_STAGES = Shape::DOUT_STAGES;
constexpr int DQ_ROUNDS = Shape::DQ_ROUNDS, DQ_STAGES = ADDERS * DQ_ROUNDS;

// Addresses. `x_here` are barriers at which who fills x arrives, `x_free` those at which who has read it does.
struct Shared {
    u32 k, v, q, dout, ds, dq, p, dkv, stats;
    // STAGES each, DOUT_STAGES those of dout. `k_free` is of the piece, and of its k where that has STAGES.
    u32 k_here, k_free, q_here, q_free, dout_here, dout_free, ds_here, ds_free;
    u32 stored;  // dk and dv of a piece, in global memory
    // DQ_STAGES each, although there is one `dq`: all wait for those before.
    u32 sum_here, dq_here, dq_free;
    u32 v_here, v_free, tail;
    u32 mail;   // the pieces whose k is here
    u32 marks;  // of the query tiles that are here
    u32 p_here, k_read;        // where the warpgroups share keys; nothing is behind them
    u32 dkv_here, dkv_free;    // where dk and dv are staged; likewise

    __device__ explicit Shared(u32 base) {
        k = base;
        v = k + Shape::KEY_STAGES * Shape::KEY_TILE;
        q = v + Shape::KEY_TILE;
        dout = q + STAGES * Shape::QUERY_TILE;
        ds = dout + DOUT_STAGES * Shape::QUERY_TILE;
        dq = ds + STAGES * Shape::SCORE_TILE;
        p = dq + Shape::DQ_ROOM;
        dkv = p + Shape::P_TILE;
        stats = dkv + Shape::DKV_ROOM;
        u32 next = stats + STAGES * Shape::STATS;
        const auto take = [&](u32 bytes) { return (next += bytes) - bytes; };
        k_here = take(STAGES * 8), k_free = take(STAGES * 8);
        q_here = take(STAGES * 8), q_free = take(STAGES * 8);
        dout_here = take(DOUT_STAGES * 8), dout_free = take(DOUT_STAGES * 8);
        ds_here = take(STAGES * 8), ds_free = take(STAGES * 8), stored = take(STAGES * 8);
        sum_here = take(DQ_STAGES * 8), dq_here = take(DQ_STAGES * 8), dq_free = take(DQ_STAGES * 8);
        v_here = take(8), v_free = take(8), tail = take(8);
        mail = take(STAGES * Piece::BYTES);
        marks = take(STAGES * 8);
        p_here = dkv_here = next, k_read = dkv_free = next + 8;
    }

    // Every lane arrives for itself. One for its warp would do, but compute-sanitizer's racecheck could not
    // follow that, and it would not be faster.
    __device__ void init() const {
        constexpr int LOADER = 32, COMPUTING = WARPS * 32, ONE_GROUP = 128;
        constexpr int OF_DS = Shape::OWN_KEYS ? COMPUTING : ONE_GROUP;  // those who make it, and need v for that
        for (i32 i = 0; i < STAGES; ++i) {
            mbarrier_init(k_here + i * 8, LOADER);
            mbarrier_init(k_free + i * 8, COMPUTING + LOADER + ADDERS);
            mbarrier_init(q_here + i * 8, LOADER);
            mbarrier_init(q_free + i * 8, COMPUTING);
            mbarrier_init(ds_here + i * 8, OF_DS);
            mbarrier_init(ds_free + i * 8, COMPUTING);
            mbarrier_init(stored + i * 8, COMPUTING);
        }
        for (i32 i = 0; i < DOUT_STAGES; ++i) {
            mbarrier_init(dout_here + i * 8, LOADER);
            mbarrier_init(dout_free + i * 8, COMPUTING);
        }
        for (i32 i = 0; i < DQ_STAGES; ++i) {
            mbarrier_init(sum_here + i * 8, 1);
            mbarrier_init(dq_here + i * 8, COMPUTING);
            mbarrier_init(dq_free + i * 8, 1);
        }
        mbarrier_init(v_here, LOADER);
        mbarrier_init(v_free, OF_DS);
        mbarrier_init(tail, LOADER);
        if constexpr (!Shape::OWN_KEYS) {
            mbarrier_init(p_here, ONE_GROUP);
            mbarrier_init(k_read, COMPUTING);
        }
        if constexpr (Shape::DKV_STAGED) {
            mbarrier_init(dkv_here, LOADER);
            mbarrier_init(dkv_free, COMPUTING);
        }
        fence_mbarrier_init();
    }
};

// One of COUNT stages of shared memory and the parity of the phases in which it is filled.
template <int COUNT>
struct Stage {
    i32 stage;
    u32 parity;
    __device__ Stage() : stage(0), parity(0) {}
    __device__ void advance() {
        stage = stage + 1 == COUNT ? 0 : stage + 1;
        parity ^= stage == 0;
    }
    __device__ u32 of(u32 first, u32 size = 8) const { return first + stage * size; }
    __device__ void wait_filled(u32 barriers) const { wait(of(barriers), parity); }
    __device__ void wait_free(u32 barriers) const { wait(of(barriers), parity ^ 1); }
    // The stage before, in its phase.
    __device__ Stage before() const {
        Stage before;
        before.stage = stage == 0 ? COUNT - 1 : stage - 1;
        before.parity = parity ^ (stage == 0);
        return before;
    }
};

// The stage among COUNT of what has as many as `stage`, or one.
template <int COUNT>
__device__ inline Stage<COUNT> among(const Stage<STAGES>& stage) {
    if constexpr (COUNT == STAGES) {
        return stage;
    } else {
        static_assert(COUNT == 1 && STAGES == 2);
        Stage<1> one;
        one.parity = stage.stage;
        return one;
    }
}

// What the loader tells the warpgroups of a query tile: it has queries; its piece's walk ends with it; of all keys
// that add to its dq, these are the first or the last; and, shifted by a half of the keys, some of its queries do not
// see all of the half.
constexpr u32 MARK_EXISTS = 1, MARK_QUERIES = 2, MARK_ENDS = 4, MARK_FIRST = 8, MARK_LAST = 16, MARK_MASKED = 32;

// Of a thread in its warpgroup. Where its elements lie in a 64 by n result of the matrix unit: rows `row()`
// and `row() + 8`, columns `column()` and the next in every eight.
struct Lane {
    i32 thread;
    // By way of an exchange, since the compiler would read the special register again at every use, and
    // wait for it.
    __device__ Lane() : thread(__shfl_sync(0xffffffff, threadIdx.x % 128, threadIdx.x % 32)) {}
    __device__ i32 row() const { return thread / 32 * 16 + thread % 32 / 4; }
    __device__ i32 column() const { return thread % 4 * 2; }
    __device__ bool leads() const { return thread % 32 == 0; }
};

// After what this thread did; by all of a warp.
__device__ inline void release(u32 barrier, bool wanted = true) {
    if (wanted) mbarrier_arrive(barrier);
}

// Until the walk's parts before have added their dk and dv to the store.
__device__ inline void await_walk(const Piece& piece, const Attention& args, Lane lane) {
    const u32 before = piece.before();
    if (lane.leads() && before > 0)
        while (ld_acquire(piece.walked(args)) != before) {
        }
    __syncwarp();
}
