// What the host passes to the kernels. Plain data, shared with `src/args.rs`: same names, same
// order, same sizes; both sides assert the sizes.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
using f32 = float;

// A strided matrix of rows and heads; strides count elements, the elements of one head of one row
// are adjacent. Offsets are 64 bits wide: a view may span more than 2^31 elements.
struct View {
    u64 data;
    i64 row_stride;
    i64 head_stride;
};
static_assert(sizeof(View) == 24, "src/args.rs has the same size");

// A piece of one document, the unit of work. `begin` counts query rows (tokens times heads of a
// K/V group, see schedule.cuh) in a list of query tiles, and keys in a list of key tiles.
struct Tile {
    i32 query_row;   // the document's first row in q, out, dout, dq, lse
    i32 queries;     // its number of queries
    i32 key_row;     // its first row in k, v, dk, dv
    i32 keys;        // its number of keys
    i32 begin;       // where in the document this tile begins
    i32 first_turn;  // key tiles: number of the document's first query tile in `turns`, `dq_sum`
};
static_assert(sizeof(Tile) == 24, "src/args.rs has the same size");

// A tile of a document's keys and the query tiles that see some of it, for backward_mma. The walk over these may be cut
// into several parts, from the last to the first; each then makes sums of its own, which are added to the store one after
// the other.
struct Walk {
    Tile tile;
    i32 begin, end;  // the query tiles; those of the document count from the one that holds position 0's first query row
    i32 number;      // of the walk's counter behind those of query tiles, or -1: all of the walk
    i32 before;      // how many parts of it add their sums before this one
};
static_assert(sizeof(Walk) == 40, "src/args.rs has the same size");

// A tile of a document's keys and the query tiles that see some of it, for backward_wgmma, whose query
// tiles are whole tokens: tile `t` holds the queries at positions [t * tokens, (t + 1) * tokens). The walk
// over these query tiles may be cut into several parts, from the last to the first; each then makes sums of its
// own, which are added to the store one after the other.
struct KeyTile {
    i32 key_row;                 // the first key's row in k, v, dk, dv
    i32 keys;                    // of the document from there on; may be more than a tile has
    i32 key;                     // the first key's place in its document
    i32 position_row;            // the row in q that position 0 has or would have; may be below 0
    i32 row_begin, row_end;      // the document's rows in q
    i32 begin, end;              // the query tiles
    i32 first_begin, first_end;  // those of them to whose dq these keys are the first to add
    i32 last_end;                // those before it: to whose dq they are the last to add
    i32 whole_begin[2];          // by half of the keys: the query tiles of which every query...
    i32 whole_end[2];            // ... sees all of the half
    i32 seen_begin[2];           // likewise: query tiles before it see none of the half
    i32 sums;                    // how the sums dk and dv begin, and how they come to the store
    i32 number;                  // of tile 0 among the query tiles of the step; may be below 0
    i32 walk;                    // number of the walk's counter in `turns`
    i32 before, after;           // how many parts of the walk add theirs before and after this one
};
static_assert(sizeof(KeyTile) == 88, "src/args.rs has the same size");

enum DkvSums : i32 {
    CONTINUED,  // they go on with what the store holds
    FROM_ZERO,  // they begin with 0 and take the place of what the store holds, which is 0 too
    ADDED,      // they begin with 0 and are added to what the store holds
};

// Arguments of every attention kernel; each kernel's head comment says which fields it reads.
struct Attention {
    View q, k, v, out, dout, dq;  // elements
    View dk, dv, lse;             // f32; lse has one element per head
    u64 stats;   // Stats [heads][rows], scratch from `prepare`
    u64 dq_sum;  // f32, scratch: running sums of dq, one block per query tile
    u64 turns;   // u32, scratch: a ticket counter, then one count per query tile and per walk
    u64 tiles;   // Tile, Walk or KeyTile [tile_count], in the order in which to begin them
    i32 tile_count;
    i32 turn_count;  // entries of `turns` that `prepare` sets to zero
    i32 rows;        // row stride of `stats` between heads
    i32 group;       // query heads per K/V head
    i32 kv_heads;
    i32 head_dim;
    i32 causal;      // 0 or 1
    i32 window;      // keys a query may see, itself included; i32::MAX without a window
    i32 aligned;     // 1 if every view of elements may be read 16 bytes at a time
    f32 scale;
    f32 softcap;     // 0 for none
    i32 tile_rows;   // query rows per query tile, for `prepare`
};
static_assert(sizeof(Attention) == 296, "src/args.rs has the same size");

// What the backward needs to know of a query row besides its vectors.
struct Stats {
    f32 lse2;   // log2(e) * lse, or +inf where the row saw no key: exp2(score - lse2) is then 0
    f32 delta;  // scale * sum(out * dout)
};

// Arguments of the kernels that move rows: gather, accumulate, flush.
struct Rows {
    View from, to;
    i32 rows;
    i32 heads;
    i32 head_dim;
    i32 unused;
};
static_assert(sizeof(Rows) == 64, "src/args.rs has the same size");
