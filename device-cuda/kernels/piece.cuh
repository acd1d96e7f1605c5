// Who works on what in backward_wgmma: pieces of work and the query tiles that they meet. No arithmetic on
// elements. Host twins: `src/schedule/wgmma.rs` and `parts.rs`, which made the lists.
#pragma once
#include "query.cuh"
#include "shape_sm90.cuh"

using Shape = BackwardWarpgroups<HEAD_DIM>;
constexpr int D = HEAD_DIM;
constexpr int ROWS = Shape::ROWS;
constexpr int KEYS = Shape::KEYS;
constexpr int GROUPS = Shape::GROUPS;
constexpr int WARPS = GROUPS * 4;    // of the warpgroups that compute
constexpr int ADDERS = Shape::ADDERS;  // threads
static_assert(GROUPS == 2, "KeyTile has two halves");
enum Gradient { DK, DV };

// A tile of keys of one K/V head. The loader leaves it in shared memory, where it is read again whenever it
// is needed: registers are scarce.
struct Piece {
    // A KeyTile, then the K/V head, below 0 where there is no more work, then of dk and of dv where their rows begin
    // and how many elements lie between them.
    u32 at;

    static constexpr u32 KV_HEAD = sizeof(KeyTile);
    static constexpr u32 GRADIENTS = sizeof(KeyTile) + 8, GRADIENT_BYTES = 16;
    static constexpr u32 BYTES = PIECE_BYTES;
    static_assert(BYTES == GRADIENTS + 2 * GRADIENT_BYTES && BYTES % 8 == 0);

    __device__ i32 word(u32 offset) const { return ld_shared_i32(at + offset); }
#define FIELD(name) \
    __device__ i32 name() const { return word(offsetof(KeyTile, name)); }
    FIELD(key_row)
    FIELD(keys)
    FIELD(key)
    FIELD(position_row)
    FIELD(row_begin)
    FIELD(row_end)
    FIELD(begin)
    FIELD(end)
    FIELD(first_begin)
    FIELD(first_end)
    FIELD(last_end)
    FIELD(before)
    FIELD(after)
    FIELD(sums)
#undef FIELD
    __device__ i32 kv_head() const { return word(KV_HEAD); }
    __device__ bool exists() const { return kv_head() >= 0; }
    __device__ f32* row(Gradient gradient, i32 key) const {
        const u32 rows = at + GRADIENTS + gradient * GRADIENT_BYTES;
        return reinterpret_cast<f32*>(ld_shared_u64(rows)) + key * static_cast<i64>(ld_shared_u64(rows + 8));
    }

    // Query tile `t` among those of the step and its K/V heads.
    __device__ i32 number(i32 t, i32 kv_heads) const {
        return (word(offsetof(KeyTile, number)) + t) * kv_heads + kv_head();
    }

    // Query tiles before it see nothing of a half.
    __device__ i32 seen_begin(i32 half) const { return word(offsetof(KeyTile, seen_begin) + 4 * half); }

    // Those whose sums begin with what the store holds.
    __device__ i32 held() const { return sums() == CONTINUED ? keys() : 0; }

    // How many parts of the walk have added their dk and dv to the store.
    __device__ u32* walked(const Attention& args) const {
        return reinterpret_cast<u32*>(args.turns) + 1 + word(offsetof(KeyTile, walk)) * args.kv_heads + kv_head();
    }

    __device__ bool first_to_add(i32 t) const { return t >= first_begin() && t < first_end(); }
    __device__ bool last_to_add(i32 t) const { return t < last_end(); }

    // Whether every query of the tile sees all keys of a half.
    __device__ bool whole(i32 t, i32 half) const {
        return t >= word(offsetof(KeyTile, whole_begin) + 4 * half) &&
               t < word(offsetof(KeyTile, whole_end) + 4 * half);
    }

    // How many tiles of keys add to a query tile's dq before these do.
    __device__ i32 turn(i32 t, i32 tokens, i32 window) const {
        const i32 position = max(max(t * tokens, row_begin() - position_row()), 0);
        return key() / KEYS - max(position - window + 1, 0) / KEYS;
    }

    // The keys of the document that a query sees.
    __device__ Range visible(i32 position, const Attention& args) const {
        const i32 end = key() + keys();
        return {max(max(position, 0) - args.window + 1, 0),
                args.causal ? min(position + 1, end) : end};
    }
};

// The rows of a query tile: its tokens, of which [begin, end) are the document's.
struct TileRows {
    i32 row;  // in q of the first token
    i32 begin, end;

    __device__ TileRows(const Piece& piece, i32 t, i32 tokens) {
        row = piece.position_row() + t * tokens;
        begin = max(piece.row_begin() - row, 0);
        end = min(piece.row_end() - row, tokens);
    }
};
