// Attention backward on the matrix units, compute capability 8.0 and up.
//
// One block owns one tile of a document's keys and one K/V head. It walks the document's query
// tiles (tokens times heads of the group, schedule.cuh) from the last to the first:
//
//     s = q k^T;  p = exp2(s - lse2);  dp = dout v^T;  ds = p * (scale * dp - delta)
//     dv += p^T dout;  dk += ds^T q;  dq += ds k
//
// dk and dv stay in registers: they start as what the store holds and go back there at the end, so
// steps of a sequence run one after the other continue one sum. Query tiles are cut at multiples of
// ROWS query rows from the document's begin: cutting a sequence into steps there changes no bit. Where walks are cut
// into parts (Walk), sums start with zero and are added to the store in turn (`red`, the last queries' part first).
//
// dq of a query tile is a sum over key tiles, that is over blocks. They add in turn, ascending
// (schedule.cuh): the first starts from zero, the others from `dq_sum`, the last rounds the sum and
// writes dq. There are no sums in an order of chance, and a document of one key tile needs neither `dq_sum` nor turns for dq.
//
// Reads q, k, v, dout, stats, tiles (walks), turns (set to zero by `prepare`). Writes dq (=) of
// every row that some key is visible to (`prepare` writes the others), dk (+=), dv (+=).
#include "query.cuh"
#include "scores.cuh"
#include "shape.cuh"

#ifndef SMALL_TILES
#define SMALL_TILES false
#endif
using Shape = BackwardShape<HEAD_DIM, SMALL_TILES>;
constexpr int D = HEAD_DIM;
constexpr int ROWS = Shape::ROWS;
constexpr int ROWS_LOG2 = ROWS == 32 ? 5 : ROWS == 64 ? 6 : 7;
static_assert(1 << ROWS_LOG2 == ROWS);
constexpr int KEYS = Shape::KEYS;
constexpr int WARPS = Shape::WARPS;
constexpr int THREADS = WARPS * 32;

// Where this warp's part of a product begins, for `ROW_WARPS` warps along the rows; neighbouring warps
// lie along the columns, or along the rows where `DOWN`.
template <int ROW_WARPS, int PRODUCT_ROWS, int PRODUCT_COLS, bool DOWN = false>
struct Part {
    static constexpr int COL_WARPS = WARPS / ROW_WARPS;
    static constexpr int HEIGHT = PRODUCT_ROWS / ROW_WARPS;
    static constexpr int WIDTH = PRODUCT_COLS / COL_WARPS;
    using Result = Sums<HEIGHT / 16, WIDTH / 8>;
    i32 row, col;
    __device__ Part() {
        const i32 warp = threadIdx.x / 32;
        row = (DOWN ? warp % ROW_WARPS : warp / COL_WARPS) * HEIGHT;
        col = (DOWN ? warp / ROW_WARPS : warp % COL_WARPS) * WIDTH;
    }
};
using ScorePart = Part<Shape::S_WARPS, ROWS, KEYS, true>;
using KeyPart = Part<Shape::KV_WARPS, KEYS, D>;
using QueryPart = Part<Shape::Q_WARPS, ROWS, D>;

// A team of neighbouring warps makes the columns of p and ds that it needs for its keys' dv and dk:
// teams need not wait for each other there, and one can exponentiate while another multiplies.
constexpr int TEAM = Shape::S_WARPS;
static_assert(ScorePart::WIDTH * (WARPS / TEAM) == KEYS);
static_assert(KeyPart::HEIGHT * TEAM == ScorePart::WIDTH * KeyPart::COL_WARPS);

__device__ inline void team_barrier() {
    bar_sync(1 + threadIdx.x / 32 / TEAM, TEAM * 32);  // 0 is the block's
}
using S = ScorePart::Result;
using DK = KeyPart::Result;
using DQ = QueryPart::Result;

// Addresses of the tiles in shared memory.
struct Shared {
    u32 k, v, p, ds, stages;
    const unsigned char* base;

    __device__ explicit Shared(const unsigned char* base) : base(base) {
        k = shared_address(base);
        v = k + Shape::KEY_TILE;
        p = v + Shape::KEY_TILE;
        ds = p + Shape::SCORE_TILE;
        stages = ds + Shape::SCORE_TILE;
    }
    __device__ u32 q(i32 stage) const { return stages + stage * 2 * Shape::QUERY_TILE; }
    __device__ u32 dout(i32 stage) const { return q(stage) + Shape::QUERY_TILE; }
    __device__ u32 stats(i32 stage) const {
        return stages + Shape::STAGES * 2 * Shape::QUERY_TILE + stage * Shape::STATS;
    }
    __device__ Stats stats_of(i32 stage, i32 row) const {
        return reinterpret_cast<const Stats*>(base + (stats(stage) - k))[row];
    }
};

// The query tiles of a document, numbered from the tile that holds position 0's row 0.
struct QueryTiles {
    i32 shift;        // the document's first query row, counted from position 0
    i32 first_tile;   // that holds the document's first query row
    i32 begin, end;   // the tiles this block visits

    __device__ QueryTiles(const Document& document, const Walk& walk) : begin(walk.begin), end(walk.end) {
        shift = document.offset() * document.group;
        first_tile = shift >> ROWS_LOG2;
    }

    __device__ QueryRows rows(const Document& document, i32 tile) const {
        return QueryRows(document, tile * ROWS - shift, ROWS);
    }

    // The tile's number among all tiles of the step that have turns.
    __device__ i64 number(const Document& document, i32 tile, i32 kv_head, i32 kv_heads) const {
        return (i64(document.tile.first_turn) + tile - first_tile) * kv_heads + kv_head;
    }
};

__device__ inline void load_stage(const Shared& shared, i32 stage, const Document& document,
                                  const QueryRows& rows, i32 kv_head, const Attention& args) {
    load_queries<ELEMENT, ROWS, D, THREADS>(shared.q(stage), args.q, document, rows, kv_head, args);
    load_queries<ELEMENT, ROWS, D, THREADS>(shared.dout(stage), args.dout, document, rows, kv_head,
                                            args);
    const i32 r = threadIdx.x;
    if (r < ROWS) {
        const u32 to = shared.stats(stage) + r * sizeof(Stats);
        if (rows.valid(r)) {
            cp_async_8(to, stats_address(args, document, rows.at(document, r), kv_head));
        } else {
            // No row: p is 0.
            st_shared_u32(to, __float_as_uint(INFINITY_F32));
            st_shared_u32(to + 4, 0);
        }
    }
    cp_async_commit();
}

// s becomes p, which also goes to shared memory for dv. With a softcap, s then holds p * slope.
template <bool CAPPED>
__device__ inline void probabilities(S& s, const Shared& shared, i32 stage, const Scores& scores) {
    const ScorePart part;
    const PairsOut<ELEMENT, KEYS> out(shared.p, part.row, part.col);
#pragma unroll
    for (int m = 0; m < S::M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i32 r = part.row + m * 16 + half * 8 + S::row();
            const f32 lse2 = shared.stats_of(stage, r).lse2;
#pragma unroll
            for (int n = 0; n < S::N; ++n) {
                f32(&pair)[4] = s.part[m][n];
                f32 p[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    f32& x = pair[2 * half + i];
                    p[i] = ex2(fmaf(x, scores.to_log2, -lse2));
                    x = CAPPED && p[i] > 0.f ? p[i] * scores.slope(x) : p[i];
                }
                out.store(m, n, half, p[0], p[1]);
            }
        }
}

// Where a row sees one key, p is 1 whatever the score: ds is 0, not the rounding error of scale * dp -
// delta. Such rows are in masked tiles only, since a tile has more keys.
__device__ inline void clear_lone_keys(S& p, const Document& document, const QueryRows& rows,
                                       i32 row0) {
#pragma unroll
    for (int m = 0; m < S::M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (!rows.visible(document, row0 + m * 16 + half * 8 + S::row()).lone()) continue;
#pragma unroll
            for (int n = 0; n < S::N; ++n) p.part[m][n][2 * half] = p.part[m][n][2 * half + 1] = 0.f;
        }
}

// dp becomes ds, which goes to shared memory.
__device__ inline void score_gradients(const S& p, const S& dp, const Shared& shared, i32 stage,
                                       f32 scale) {
    const ScorePart part;
    const PairsOut<ELEMENT, KEYS> out(shared.ds, part.row, part.col);
#pragma unroll
    for (int m = 0; m < S::M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i32 r = part.row + m * 16 + half * 8 + S::row();
            const f32 delta = shared.stats_of(stage, r).delta;
#pragma unroll
            for (int n = 0; n < S::N; ++n) {
                const int i = 2 * half;
                const f32 x = p.part[m][n][i] * fmaf(dp.part[m][n][i], scale, -delta);
                const f32 y = p.part[m][n][i + 1] * fmaf(dp.part[m][n][i + 1], scale, -delta);
                out.store(m, n, half, x, y);
            }
        }
}

// Applies `visit(store's element, register)` to this thread's part of dk or dv.
template <typename Visit>
__device__ inline void each_gradient(DK& sums, const View& store, const Document& document,
                                     i32 kv_head, i32 head_dim, Visit visit) {
    const KeyPart part;
#pragma unroll
    for (int m = 0; m < DK::M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i32 key = document.tile.begin + part.row + m * 16 + half * 8 + DK::row();
            if (key >= document.tile.keys) continue;
            f32* row = at<f32>(store, document.tile.key_row + key, kv_head);
#pragma unroll
            for (int n = 0; n < DK::N; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const i32 column = part.col + n * 8 + DK::column() + i;
                    if (column < head_dim) visit(row[column], sums.part[m][n][2 * half + i]);
                }
        }
}

// Where this thread keeps part (m, n) of a query tile's running dq: beside its neighbours' parts.
__device__ inline f32* dq_sum_address(const Attention& args, i64 number, int m, int n) {
    f32* tile = reinterpret_cast<f32*>(args.dq_sum) + number * (ROWS * D);
    return tile + ((m * DQ::N + n) * THREADS + threadIdx.x) * 4;
}

__device__ inline void load_dq_sum(DQ& sum, const Attention& args, i64 number) {
#pragma unroll
    for (int m = 0; m < DQ::M; ++m)
#pragma unroll
        for (int n = 0; n < DQ::N; ++n)
            ld_cg_f32x4(sum.part[m][n], dq_sum_address(args, number, m, n));
}

__device__ inline void store_dq_sum(const DQ& dq, const Attention& args, i64 number) {
#pragma unroll
    for (int m = 0; m < DQ::M; ++m)
#pragma unroll
        for (int n = 0; n < DQ::N; ++n)
            st_cg_f32x4(dq_sum_address(args, number, m, n), dq.part[m][n]);
}

__device__ inline void add(DQ& dq, const DQ& sum) {
#pragma unroll
    for (int m = 0; m < DQ::M; ++m)
#pragma unroll
        for (int n = 0; n < DQ::N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) dq.part[m][n][i] += sum.part[m][n][i];
}

__device__ inline void write_dq(const DQ& dq, const Document& document, const QueryRows& rows,
                                i32 kv_head, const Attention& args) {
    const QueryPart part;
#pragma unroll
    for (int m = 0; m < DQ::M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i32 r = part.row + m * 16 + half * 8 + DQ::row();
            if (!rows.valid(r)) continue;
            ELEMENT* to =
                query_address<ELEMENT>(args.dq, document, rows.at(document, r), kv_head);
#pragma unroll
            for (int n = 0; n < DQ::N; ++n)
                store_pair(to, part.col + n * 8 + DQ::column(), args.head_dim, args.aligned,
                           canonical(dq.part[m][n][2 * half]),
                           canonical(dq.part[m][n][2 * half + 1]));
        }
}

// This block's turn in the run of blocks that add to a query tile's dq.
__device__ inline Turn turn_of(const Document& document, const QueryRows& rows, u32* count) {
    const Range seen = rows.seen(document);
    const i32 mine = document.tile.begin / KEYS;
    return Turn(count, mine - seen.begin / KEYS, mine == (seen.end - 1) / KEYS);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    backward(const __grid_constant__ Attention args) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ u32 ticket;
    const Shared shared(memory);
    u32* const counter = reinterpret_cast<u32*>(args.turns);
    u32* const turns = counter + 1;

    if (threadIdx.x == 0) ticket = take_ticket(counter);
    __syncthreads();
    const i32 kv_head = ticket % args.kv_heads;
    const Walk& walk = reinterpret_cast<const Walk*>(args.tiles)[ticket / args.kv_heads];
    const Tile tile = walk.tile;
    const Document document(tile, args);
    const QueryTiles tiles(document, walk);
    const Scores scores(args);
    const ScorePart score_part;
    const KeyPart key_part;
    const QueryPart query_part;

    load_keys<ELEMENT, KEYS, D, THREADS>(shared.k, args.k, document, tile.begin, kv_head, args);
    load_keys<ELEMENT, KEYS, D, THREADS>(shared.v, args.v, document, tile.begin, kv_head, args);
    load_stage(shared, 0, document, tiles.rows(document, tiles.end - 1), kv_head, args);

    DK dk, dv;
    dk.clear();
    dv.clear();
    const auto take = [](f32& store, f32& sum) { sum = store; };
    if (walk.number < 0) {
        each_gradient(dk, args.dk, document, kv_head, args.head_dim, take);
        each_gradient(dv, args.dv, document, kv_head, args.head_dim, take);
    }

    i32 stage = 0;
    Turn previous;
    for (i32 t = tiles.end - 1; t >= tiles.begin; --t) {
        const QueryRows rows = tiles.rows(document, t);
        const i64 number = tiles.number(document, t, kv_head, args.kv_heads);
        Turn turn = turn_of(document, rows, turns + number);
        if (threadIdx.x == 0) turn.look();

        cp_async_wait<0>();
        __syncthreads();  // q and dout are here; p, ds and the other stage are read
        if (threadIdx.x == 0) turn.follow(previous);
        if (Shape::STAGES == 2 && t > tiles.begin)
            load_stage(shared, stage ^ 1, document, tiles.rows(document, t - 1), kv_head, args);

        S s;
        s.clear();
        multiply<ELEMENT, D / 16>(s, Left<D>(shared.q(stage), score_part.row, 0),
                                  Right<D>(shared.k, score_part.col, 0));
        if (!scores.plain) transform(s, scores);
        const bool masked = !rows.all_see(document, {tile.begin, tile.begin + KEYS});
        if (masked) mask(s, document, rows, score_part.row, tile.begin + score_part.col);
        if (scores.softcap == 0.f) {
            probabilities<false>(s, shared, stage, scores);
        } else {
            probabilities<true>(s, shared, stage, scores);
        }
        if (masked) clear_lone_keys(s, document, rows, score_part.row);

        S dp;
        dp.clear();
        multiply<ELEMENT, D / 16>(dp, Left<D>(shared.dout(stage), score_part.row, 0),
                                  Right<D>(shared.v, score_part.col, 0));
        score_gradients(s, dp, shared, stage, scores.scale);

        team_barrier();  // this team's p and ds are here
        multiply<ELEMENT, ROWS / 16>(dv, Left<KEYS, true>(shared.p, 0, key_part.row),
                                     Right<D, true>(shared.dout(stage), 0, key_part.col));
        multiply<ELEMENT, ROWS / 16>(dk, Left<KEYS, true>(shared.ds, 0, key_part.row),
                                     Right<D, true>(shared.q(stage), 0, key_part.col));

        if (threadIdx.x == 0) turn.wait();
        __syncthreads();  // all ds is here, and so is our turn
        DQ dq, sum;
        dq.clear();
        sum.clear();
        if (!turn.first()) load_dq_sum(sum, args, number);  // on its way during the product
        multiply<ELEMENT, KEYS / 16>(dq, Left<KEYS>(shared.ds, query_part.row, 0),
                                     Right<D, true>(shared.k, 0, query_part.col));
        add(dq, sum);
        if (turn.last) {
            write_dq(dq, document, rows, kv_head, args);
        } else {
            store_dq_sum(dq, args, number);
        }
        previous = turn;

        if (Shape::STAGES == 2) {
            stage ^= 1;
        } else if (t > tiles.begin) {
            __syncthreads();  // q and dout are read
            load_stage(shared, 0, document, tiles.rows(document, t - 1), kv_head, args);
        }
    }

    __syncthreads();  // every thread's part of the last dq is on its way
    if (threadIdx.x == 0) previous.pass();
    if (walk.number < 0) {
        const auto put = [](f32& store, f32& sum) { store = canonical(sum); };
        each_gradient(dk, args.dk, document, kv_head, args.head_dim, put);
        each_gradient(dv, args.dv, document, kv_head, args.head_dim, put);
        return;
    }
    Turn turn(turns + i64(walk.number) * args.kv_heads + kv_head, walk.before, false);
    if (threadIdx.x == 0) turn.wait();
    __syncthreads();
    const auto add = [](f32& store, f32& sum) { red_add_f32(&store, sum); };
    each_gradient(dk, args.dk, document, kv_head, args.head_dim, add);
    each_gradient(dv, args.dv, document, kv_head, args.head_dim, add);
    __syncthreads();
    if (threadIdx.x == 0) turn.pass();
}
