// The tile sizes of every compiled variant, chosen here and nowhere else. Host twin: `src/shape.rs`.
//
// HEAD_DIM is the head dimension a variant is compiled for; smaller ones are filled up with zeros
// in shared memory. Budgets: 65,536 registers and, on compute capability 8.0, 163 KiB of shared
// memory per block.
#pragma once

// forward_mma: WARPS warps of M blocks of 16 query rows; BLOCKS blocks share a multiprocessor.
template <int DIM>
struct ForwardShape {
    static constexpr int WARPS = 4;
    static constexpr int M = DIM <= 128 ? 2 : 1;
    static constexpr int ROWS = WARPS * M * 16;
    static constexpr int KEYS = 64;
    static constexpr int BLOCKS = DIM <= 64 ? 3 : DIM <= 128 ? 2 : 1;
    static constexpr int SHARED = (ROWS + 2 * KEYS) * DIM * 2;
};

// backward_mma: each product's result is divided among the warps as rows by columns; the
// number of warps along the rows is given for s and dp (query rows by keys), for dk and dv (keys by
// head dimension) and for dq (query rows by head dimension). STAGES tiles of q and dout are in
// shared memory at a time.
template <int WARPS_, int S_WARPS_, int KV_WARPS_, int Q_WARPS_, int ROWS_, int KEYS_, int STAGES_, int DIM>
struct BackwardTiles {
    static constexpr int WARPS = WARPS_;
    static constexpr int S_WARPS = S_WARPS_, KV_WARPS = KV_WARPS_, Q_WARPS = Q_WARPS_;
    static constexpr int ROWS = ROWS_, KEYS = KEYS_, STAGES = STAGES_;
    static constexpr int KEY_TILE = KEYS * DIM * 2;
    static constexpr int QUERY_TILE = ROWS * DIM * 2;
    static constexpr int SCORE_TILE = ROWS * KEYS * 2;
    static constexpr int STATS = ROWS * 8;
    static constexpr int SHARED =
        2 * KEY_TILE + 2 * SCORE_TILE + STAGES * (2 * QUERY_TILE + STATS);
};

// Small ones are for 99 KiB a block, what compute capability 8.6, 8.9 and 12.0 have.
template <int DIM, bool SMALL>
struct BackwardShape;
template <>
struct BackwardShape<64, false> : BackwardTiles<8, 4, 4, 4, 128, 128, 2, 64> {};
template <>
struct BackwardShape<128, false> : BackwardTiles<8, 2, 4, 2, 64, 128, 2, 128> {};
template <>
struct BackwardShape<256, false> : BackwardTiles<8, 4, 2, 2, 64, 64, 1, 256> {};
template <>
struct BackwardShape<64, true> : BackwardTiles<8, 2, 4, 2, 64, 128, 2, 64> {};
template <>
struct BackwardShape<128, true> : BackwardTiles<8, 2, 4, 2, 32, 128, 1, 128> {};
template <>
struct BackwardShape<256, true> : BackwardTiles<4, 2, 2, 2, 32, 32, 1, 256> {};

// forward_fma, backward_dq_fma, backward_dkv_fma: square tiles of scores, a slice of the head dimension at a time, in f32.
// Rows are padded against bank conflicts. Of large heads a thread's registers hold fewer rows.
template <int DIM>
struct FmaShape {
    static constexpr int THREADS = 256;
    static constexpr int ROWS = DIM <= 256 ? 64 : 32;
    static constexpr int SLICE = 64;
    static constexpr int SLICE_PITCH = SLICE + 4, SCORE_PITCH = ROWS + 4;
    static constexpr int SHARED = (2 * SLICE_PITCH + SCORE_PITCH) * ROWS * 4;
    static constexpr int DKV_SHARED = SHARED + SCORE_PITCH * ROWS * 4;
    static constexpr int BLOCKS = DIM == 256 ? 1 : 2;
};

// src/shape.rs asserts the same numbers.
static_assert(ForwardShape<64>::SHARED == 32768 && BackwardShape<64, false>::SHARED == 165888);
static_assert(ForwardShape<128>::SHARED == 65536 && BackwardShape<128, false>::SHARED == 164864);
static_assert(ForwardShape<256>::SHARED == 98304 && BackwardShape<256, false>::SHARED == 147968);
static_assert(BackwardShape<64, true>::SHARED == 99328 && BackwardShape<128, true>::SHARED == 98560);
static_assert(BackwardShape<256, true>::SHARED == 69888);
static_assert(FmaShape<128>::SHARED == 52224 && FmaShape<128>::DKV_SHARED == 69632);
static_assert(FmaShape<512>::SHARED == 22016 && FmaShape<512>::DKV_SHARED == 26624);
