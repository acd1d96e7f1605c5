// Who works on what, and in which order; no arithmetic on elements. Host twin: `src/schedule/mod.rs`.
//
// Query rows. The query heads that share a K/V head are laid out beside each other: query row `f`
// of a document is head `f % group` of token `f / group`. A tile of rows then meets one K/V tile,
// and the gradients of a group are summed inside the matrix product.
//
// Positions. Query `i` of a document has position `i + keys - queries` (bottom-right alignment);
// with it the masks are `j <= position` (causal) and `j > position - window`.
#pragma once
#include "ptx.cuh"

// A half-open range of keys.
struct Range {
    i32 begin, end;
    __device__ bool empty() const { return end <= begin; }
    __device__ bool lone() const { return end - begin == 1; }
};

// Division by a K/V group's size (1 to 65535) in one multiplication or two. The reciprocal is rounded
// up, so a quotient of numbers below 2^31 comes out right or one too large, and right below 2^16.
struct Divider {
    u32 divisor;
    u32 reciprocal;  // 2^32 / divisor

    __device__ explicit Divider(i32 group) : divisor(group), reciprocal(0xffffffffu / group + 1) {}

    // x / divisor for x below 2^16.
    __device__ i32 small_quotient(i32 x) const {
        return divisor == 1 ? x : static_cast<i32>(__umulhi(static_cast<u32>(x), reciprocal));
    }

    // x / divisor, rounded down, also below 0.
    __device__ i32 floor_quotient(i32 x) const {
        const u32 magnitude = x < 0 ? ~x : x;  // rounding down is rounding up the mirrored number
        const i32 estimate = small_quotient(magnitude);
        const i32 quotient = estimate - (estimate * divisor > magnitude ? 1 : 0);
        return x < 0 ? ~quotient : quotient;
    }
};

// One document as a kernel sees it.
struct Document {
    Tile tile;
    i32 group;
    i32 causal;
    i32 window;
    Divider by_group;

    __device__ Document(const Tile& tile, const Attention& args)
        : tile(tile),
          group(args.group),
          causal(args.causal),
          window(args.window),
          by_group(args.group) {}

    __device__ i32 query_rows() const { return tile.queries * group; }
    __device__ i32 offset() const { return tile.keys - tile.queries; }

    // The keys a query at `position` sees.
    __device__ Range visible(i32 position) const {
        const i32 begin = max(position, 0) - window + 1;
        return {max(begin, 0), causal ? min(position + 1, tile.keys) : tile.keys};
    }
};

// A query row: a token of the document (as an index) and a head of the group.
struct QueryRow {
    i32 token, head;
};

// Consecutive query rows, of which [valid_begin, valid_end) belong to the document.
struct QueryRows {
    i32 token;  // of row 0; below 0 if row 0 is not valid
    i32 head;
    i32 valid_begin, valid_end;

    // Rows [first, first + rows) of the document, where `first` may be below 0.
    __device__ QueryRows(const Document& document, i32 first, i32 rows) {
        token = document.by_group.floor_quotient(first);
        head = first - token * document.group;
        valid_begin = max(0, -first);
        valid_end = min(rows, document.query_rows() - first);
    }

    __device__ bool valid(i32 row) const { return row >= valid_begin && row < valid_end; }

    __device__ QueryRow at(const Document& document, i32 row) const {
        const i32 tokens = document.by_group.small_quotient(head + row);
        return {token + tokens, head + row - tokens * document.group};
    }

    // The keys that this row sees.
    __device__ Range visible(const Document& document, i32 row) const {
        return document.visible(at(document, row).token + document.offset());
    }

    // The keys that at least one valid row sees.
    __device__ Range seen(const Document& document) const {
        if (valid_end <= valid_begin) return {0, 0};
        return {visible(document, valid_begin).begin, visible(document, valid_end - 1).end};
    }

    // Whether every valid row sees all of `keys`.
    __device__ bool all_see(const Document& document, Range keys) const {
        return keys.begin >= visible(document, valid_end - 1).begin &&
               keys.end <= visible(document, valid_begin).end;
    }
};

// The order of the dq sums. Every query tile is met by a run of key tiles, which must add to its
// dq in ascending order. `turns[t]` counts how many have. So do the parts of a walk for their dk and dv, last to
// first, at their ends. Work is handed out by a ticket, and the host's list has whoever must add earlier earlier: a block
// waits only for blocks whose tickets came before, so all of them run already and waiting ends.
//
// One thread of a block speaks for it. Barriers of the block order the others' accesses: those
// before come before `follow` and `pass`, those after come after `wait`.
__device__ inline u32 take_ticket(u32* counter) { return atomicAdd(counter, 1u); }

struct Turn {
    u32* count;
    u32 mine;  // blocks that come first
    bool last;
    u32 seen;    // what `count` was when looked at
    bool fenced;  // whether what comes after sees what came before `seen`

    // Before the first turn: nothing to pass on.
    __device__ Turn() : count(nullptr), mine(0), last(true), seen(0), fenced(true) {}
    __device__ Turn(u32* count, u32 mine, bool last)
        : count(count), mine(mine), last(last), seen(0), fenced(first()) {}

    __device__ bool first() const { return mine == 0; }

    // Looks early, so that the answer is here when it is needed.
    __device__ void look() {
        if (!first()) seen = ld_relaxed(count);
    }

    // Passes the previous turn on. A fence takes about as long as a score product: the same one
    // serves this turn, if it has come.
    __device__ void follow(const Turn& previous) {
        fenced = first() || seen == mine;
        if (previous.last && first()) return;
        fence_gpu();
        if (!previous.last) st_relaxed(previous.count, previous.mine + 1);
    }

    __device__ void wait() {
        if (fenced) return;
        while (seen != mine) seen = ld_relaxed(count);
        fence_gpu();
    }

    __device__ void pass() const {
        if (last) return;
        fence_gpu();
        st_relaxed(count, mine + 1);
    }
};
