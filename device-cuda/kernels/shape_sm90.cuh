// The tile sizes of every variant for compute capability 9.0, chosen here and nowhere else. Host twin:
// `src/shape.rs`.
//
// HEAD_DIM is the head dimension a variant is compiled for; the copy engine fills smaller ones up with
// zeros. Budgets: 65,536 registers and 227 KiB of shared memory per multiprocessor, which one block
// has for itself.
#pragma once
#include "panel.cuh"

// forward_wgmma: two warpgroups of 64 query rows each, or three where registers suffice, and one that brings
// tiles. Of small heads exponentials take longer than products: more warpgroups overlap more of them.
template <int DIM>
struct ForwardWarpgroups {
    static constexpr int GROUPS = DIM <= 64 ? 3 : 2;
    static constexpr int ROWS = GROUPS * 64;
    static constexpr int KEYS = DIM <= 128 ? 128 : DIM <= 192 ? 96 : 64;
    static constexpr int STAGES = 2;
    static constexpr int QUERY_STAGES = DIM <= 128 ? 2 : 1;
    static constexpr int QUERY_TILE = tile_bytes(ROWS, DIM);
    static constexpr int KEY_TILE = tile_bytes(KEYS, DIM);
    // Columns of out that one instruction computes.
    static constexpr int PART = DIM == 96 || DIM == 128 ? DIM : DIM == 256 ? 128 : 64;
    static constexpr int BARRIERS = 2 * QUERY_STAGES + 4 * STAGES + 1;
    static constexpr int SHARED = QUERY_STAGES * QUERY_TILE + 2 * STAGES * KEY_TILE + BARRIERS * 8;
    // Together what 65,536 allow.
    static constexpr int REGISTERS = GROUPS == 3 ? 160 : 240, LOADER_REGISTERS = GROUPS == 3 ? 32 : 24;
};

// prepare_wgmma: blocks of few rows, of which a multiprocessor has many: while some read, others begin or end.
constexpr int PREPARE_THREADS = 128, PREPARE_ROWS = 32;

// What the warpgroups of the backward need to know of a piece.
constexpr int PIECE_BYTES = sizeof(KeyTile) + 8 + 2 * 16;

// backward_wgmma: two warpgroups that compute, and one that serves them. The two own 64 keys each
// (own_keys.cuh) while dk and dv of these fit their registers; with larger heads they share 64 keys, one makes
// dk and one dv (share_keys.cuh).
template <int DIM>
struct BackwardWarpgroups {
    static constexpr bool OWN_KEYS = DIM <= 128;
    static constexpr int GROUPS = 2;
    static constexpr int ROWS = 64;
    static constexpr int KEYS = OWN_KEYS ? GROUPS * 64 : 64;
    static constexpr int STAGES = 2;  // of pieces, queries and ds
    static constexpr int KEY_STAGES = OWN_KEYS ? 2 : 1;
    static constexpr int DOUT_STAGES = DIM <= 192 ? 2 : 1;
    static constexpr int ADDERS = 3;  // of dq, one after the other
    static constexpr int DQ_ROUNDS = OWN_KEYS ? 1 : 2;  // in which a tile's dq goes through shared memory
    static constexpr int KEY_TILE = tile_bytes(KEYS, DIM);
    static constexpr int QUERY_TILE = tile_bytes(ROWS, DIM);
    static constexpr int DQ_TILE = 2 * QUERY_TILE;
    static constexpr int DQ_ROOM = OWN_KEYS ? DQ_TILE : 2 * tile_bytes(ROWS, 128);
    static constexpr int SCORE_TILE = tile_bytes(KEYS, ROWS);
    static constexpr int P_TILE = OWN_KEYS ? 0 : 2 * SCORE_TILE;
    static constexpr int STATS = ROWS * 8;
    // dk and dv as the store has them, in f32, where there is room.
    static constexpr bool DKV_STAGED = DIM <= 64;
    static constexpr int DKV_ROOM = DKV_STAGED ? 2 * KEYS * DIM * 4 : 0;
    // Columns of dk and dv that one instruction computes.
    static constexpr int PART = OWN_KEYS ? DIM : DIM == 256 ? 128 : 64;
    static constexpr int TILES = (KEY_STAGES + 1) * KEY_TILE + (STAGES + DOUT_STAGES) * QUERY_TILE +
                                 STAGES * (SCORE_TILE + STATS) + DQ_ROOM + P_TILE + DKV_ROOM;
    // With the marks of query tiles.
    static constexpr int BARRIERS =
        (OWN_KEYS ? 3 : 5) + 8 * STAGES + 2 * DOUT_STAGES + 3 * ADDERS * DQ_ROUNDS + (DKV_STAGED ? 2 : 0);
    static constexpr int SHARED = TILES + 8 * BARRIERS + STAGES * PIECE_BYTES;
    // Of a thread of those who compute, of a thread that serves them: together what three times 168 are.
    static constexpr int REGISTERS = DKV_STAGED ? 216 : 240, SERVER_REGISTERS = DKV_STAGED ? 72 : 24;
};

static_assert(ForwardWarpgroups<64>::SHARED == 114792 && ForwardWarpgroups<96>::SHARED == 196712);
static_assert(ForwardWarpgroups<128>::SHARED == 196712 && ForwardWarpgroups<192>::SHARED == 196696);
static_assert(ForwardWarpgroups<256>::SHARED == 196696 && BackwardWarpgroups<64>::SHARED == 198160);
static_assert(BackwardWarpgroups<96>::SHARED == 230912 && BackwardWarpgroups<128>::SHARED == 230912);
static_assert(BackwardWarpgroups<192>::SHARED == 214616 && BackwardWarpgroups<256>::SHARED == 230984);
