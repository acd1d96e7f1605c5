// Attention forward on the warpgroup's matrix unit, compute capability 9.0.
//
// The same sums as forward_mma.cu, tile of keys by tile of keys ascending from the document's begin:
//
//     s = q k^T;  m' = max(m, rowmax s);  p = exp2(s - m');  a = exp2(m - m')
//     l = a l + rowsum p;  o = a o + p v
//
// and at the end out = o / l, lse = ln 2 (m + log2 l). Blocks stay: each has a share of the query tiles
// (README.md draws the pipeline). One warp brings q, k, v; two or three warpgroups of 64 rows each
// compute. A warpgroup issues the next s before it waits for this o, and exponentiates meanwhile; they
// take turns in issuing, so that some exponentiate while another multiplies.
//
// A tile of query rows is whole tokens: ROWS / group of them, with all heads of the K/V group.
//
// Rows are independent of each other in every step, and a key tile of which a row sees nothing
// leaves that row as it was (p = 0, a = 1), so a row's bits depend on its document alone.
//
// Reads q, k, v (tensor maps), tiles (query tiles), shares. Writes out (=), lse (=): every row of every tile, 0
// and -inf for rows that see no key.
#include "fragment.cuh"
#include "query.cuh"
#include "shape_sm90.cuh"
#include "unit.cuh"

using Shape = ForwardWarpgroups<HEAD_DIM>;
constexpr int D = HEAD_DIM;
constexpr int ROWS = Shape::ROWS;
constexpr int KEYS = Shape::KEYS;
constexpr int GROUPS = Shape::GROUPS;
constexpr int WARPS = GROUPS * 4;
constexpr int PART = Shape::PART;
constexpr int PARTS = D / PART;
constexpr int THREADS = (GROUPS + 1) * 128;

struct Args {
    Attention attention;
    u64 shares;  // i32: where each block's pieces begin, the end of all, and the pieces
    TensorMap q, k, v;
};
static_assert(sizeof(Args) == 704, "src/args.rs has the same size");

// Addresses in shared memory.
struct Shared {
    u32 q, k, v;
    u32 q_here, q_free, k_here, k_free, v_here, v_free, tail;

    __device__ explicit Shared(u32 base) {
        q = base;
        k = q + Shape::QUERY_STAGES * Shape::QUERY_TILE;
        v = k + Shape::STAGES * Shape::KEY_TILE;
        q_here = v + Shape::STAGES * Shape::KEY_TILE;
        q_free = q_here + Shape::QUERY_STAGES * 8;
        k_here = q_free + Shape::QUERY_STAGES * 8;
        k_free = k_here + Shape::STAGES * 8;
        v_here = k_free + Shape::STAGES * 8;
        v_free = v_here + Shape::STAGES * 8;
        tail = v_free + Shape::STAGES * 8;
    }

    __device__ void init() const {
        for (i32 i = 0; i < Shape::QUERY_STAGES; ++i) {
            mbarrier_init(q_here + i * 8, 1);
            mbarrier_init(q_free + i * 8, WARPS);
        }
        for (i32 i = 0; i < Shape::STAGES; ++i) {
            mbarrier_init(k_here + i * 8, 1);
            mbarrier_init(k_free + i * 8, WARPS);
            mbarrier_init(v_here + i * 8, 1);
            mbarrier_init(v_free + i * 8, WARPS);
        }
        mbarrier_init(tail, 1);
        fence_mbarrier_init();
    }
};

// This block's share of the work, as the host shared it out (`src/schedule/shares.rs`).
struct Share {
    const i32 *next, *end;
    i32 piece;  // read ahead

    __device__ explicit Share(const Args& args) {
        const i32* const begins = reinterpret_cast<const i32*>(args.shares);
        const i32* const pieces = begins + gridDim.x + 1;
        next = pieces + begins[blockIdx.x], end = pieces + begins[blockIdx.x + 1];
        piece = next < end ? *next : -1;
    }
    // Below 0 at the end.
    __device__ i32 take() {
        const i32 taken = piece;
        piece = ++next < end ? *next : -1;
        return taken;
    }
};

// A tile of query rows of one K/V head.
struct Piece {
    Document document;
    i32 kv_head;
    i32 tokens;  // of a tile
    QueryRows rows;
    Range seen;
    i32 first;  // key of the first tile of keys

    __device__ Piece(const Attention& args, i32 at)
        : document(reinterpret_cast<const Tile*>(args.tiles)[at / args.kv_heads], args),
          kv_head(at % args.kv_heads),
          tokens(ROWS / args.group),
          rows(document, document.tile.begin, tokens * args.group),
          seen(rows.seen(document)),
          first(seen.begin / KEYS * KEYS) {}
};

// ---- the warp that brings tiles

__device__ inline void load_values(const Shared& shared, const Ring& here, u32& tail_parity,
                                   const Piece& piece, i32 key0, const TensorMap& map) {
    const u32 tile = shared.v + here.stage * Shape::KEY_TILE;
    const bool whole = key0 + KEYS <= piece.document.tile.keys;
    const u32 barrier = whole ? here.barrier() : shared.tail;
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive_expect_tx(barrier, Shape::KEY_TILE);
        load_panels<KEYS, D>(tile, map, piece.kv_head, piece.document.tile.key_row + key0, barrier);
    }
    if (whole) return;
    while (!mbarrier_try_wait(shared.tail, tail_parity)) {
    }
    tail_parity ^= 1;
    zero_rows<KEYS, D>(tile, piece.document.tile.keys - key0, KEYS);
    fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(here.barrier());
}

__device__ inline void bring_tiles(const Shared& shared, const Args& args) {
    const Attention& attention = args.attention;
    const bool leader = threadIdx.x % 32 == 0;
    Ring q_here(shared.q_here, 0), q_free(shared.q_free, 1);
    Ring k_here(shared.k_here, 0), k_free(shared.k_free, 1);
    Ring v_here(shared.v_here, 0), v_free(shared.v_free, 1);
    u32 tail_parity = 0;

    Share share(args);
    for (i32 at = share.take(); at >= 0; at = share.take()) {
        const Piece piece(attention, at);
        if (piece.seen.empty()) continue;
        q_free.wait();
        if (leader) {
            const i32 rows = piece.tokens * attention.group;
            mbarrier_arrive_expect_tx(q_here.barrier(), panels(D) * rows * PANEL_ROW_BYTES);
            load_panels<ROWS, D>(shared.q + q_here.stage * Shape::QUERY_TILE, args.q,
                                 piece.kv_head * attention.group,
                                 piece.document.tile.query_row + piece.rows.token, q_here.barrier());
        }
        q_here.advance<Shape::QUERY_STAGES>();
        q_free.advance<Shape::QUERY_STAGES>();
        for (i32 key0 = piece.first; key0 < piece.seen.end; key0 += KEYS) {
            k_free.wait();
            if (leader) {
                mbarrier_arrive_expect_tx(k_here.barrier(), Shape::KEY_TILE);
                load_panels<KEYS, D>(shared.k + k_here.stage * Shape::KEY_TILE, args.k, piece.kv_head,
                                     piece.document.tile.key_row + key0, k_here.barrier());
            }
            k_here.advance<Shape::STAGES>();
            k_free.advance<Shape::STAGES>();
            v_free.wait();
            load_values(shared, v_here, tail_parity, piece, key0, args.v);
            v_here.advance<Shape::STAGES>();
            v_free.advance<Shape::STAGES>();
        }
    }
}

// ---- the warpgroups that compute

using S = f32[KEYS / 2];
using P = u32[KEYS / 16][4];
// Of the first half of a tile's keys. With two warpgroups, code of its own cost more than it saved.
constexpr bool HALVES = GROUPS > 2;
using HalfS = f32[HALVES ? KEYS / 4 : KEYS / 2];
using HalfP = u32[HALVES ? KEYS / 32 : KEYS / 16][4];
using O = f32[PARTS][PART / 2];

// Of this thread's two rows.
struct Softmax {
    Range seen[2];
    f32 maximum[2];
    f32 sum[2];  // this thread's share
    Range all;   // keys that every row of the warpgroup sees
    Range some;  // that some row sees

    __device__ Softmax(const Piece& piece, i32 row0) {
        const QueryRows& rows = piece.rows;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i32 row = row0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
            seen[half] = rows.visible(piece.document, row);
            maximum[half] = -INFINITY_F32;
            sum[half] = 0.f;
        }
        const i32 begin = max(rows.valid_begin, row0), end = min(rows.valid_end, row0 + 64);
        all = {0, 0x7fffffff};
        some = {0, 0};
        if (begin < end) {
            const Range first = rows.visible(piece.document, begin), last = rows.visible(piece.document, end - 1);
            all = {last.begin, first.end};
            some = {first.begin, last.end};
        }
    }
};

template <int COUNT>
__device__ inline void mask(f32 (&s)[COUNT], const Softmax& state, i32 key0) {
    const i32 column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const i32 begin = state.seen[half].begin - column, end = state.seen[half].end - column;
#pragma unroll
        for (int n = 0; n < COUNT / 4; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (n * 8 + i < begin || n * 8 + i >= end) s[n * 4 + half * 2 + i] = -INFINITY_F32;
    }
}

// The four threads of a row agree on its maximum or sum.
__device__ inline f32 row_max(f32 x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ inline f32 row_sum(f32 x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// s becomes p; maximum and sum move on; `shrink` is what o is to be multiplied by.
template <int COUNT>
__device__ inline void softmax_step(f32 (&s)[COUNT], Softmax& state, f32 (&shrink)[2], f32 to_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        f32 highest = state.maximum[half];
#pragma unroll
        for (int n = 0; n < COUNT / 4; ++n)
            highest = fmaxf(highest, fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]));
        highest = row_max(highest);
        // A row that has seen nothing yet: any finite base gives p = 0.
        const f32 base = highest == -INFINITY_F32 ? 0.f : highest * to_log2;
        shrink[half] = ex2(state.maximum[half] * to_log2 - base);
        state.maximum[half] = highest;
        f32 sum = state.sum[half] * shrink[half];
#pragma unroll
        for (int n = 0; n < COUNT / 4; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                f32& x = s[n * 4 + half * 2 + i];
                x = ex2(fmaf(x, to_log2, -base));
                sum += x;
            }
        state.sum[half] = sum;
    }
}

__device__ inline void scale(O& o, const f32 (&factor)[2]) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int i = 0; i < PART / 2; ++i) o[part][i] *= factor[i / 2 % 2];
}

// o += p v, on its way when this returns. `p` may have fewer columns than v has rows.
template <int STEPS>
__device__ inline void multiply_pv(O& o, const u32 (&p)[STEPS][4], u32 v_tile) {
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        const AlongRows<KEYS> v(v_tile, part * PART);
#pragma unroll
        for (int k = 0; k < STEPS; ++k) wgmma_registers<true>(o[part], p[k], v.step(k), true);
    }
    wgmma_commit_group();
}

__device__ inline void release(const Ring& ring) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(ring.barrier());
}

__device__ inline void write_rows(const O& o, const Softmax& state, const Piece& piece, i32 row0,
                                  const Attention& args) {
    const Scores scores(args);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const f32 sum = row_sum(state.sum[half]);
        const i32 r = row0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
        const bool valid = piece.rows.valid(r);
        const QueryRow row = piece.rows.at(piece.document, r);
        const f32 inverse = sum > 0.f ? 1.f / sum : 0.f;
        uint4* out = reinterpret_cast<uint4*>(
            query_address<ELEMENT>(args.out, piece.document, row, piece.kv_head));
#pragma unroll
        for (int n = 0; n < D / 8; n += 4) {
            u32 w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const f32* x = &o[(n + i) * 8 / PART][(n + i) * 8 % PART / 2 + half * 2];
                w[i] = ELEMENT::pair(canonical(x[0] * inverse), canonical(x[1] * inverse));
            }
            transpose(w, threadIdx.x % 4);
            const i32 chunk = n + threadIdx.x % 4;
            if (valid && chunk * 8 < args.head_dim) out[chunk] = make_uint4(w[0], w[1], w[2], w[3]);
        }
        if (valid && threadIdx.x % 4 == 0) {
            f32* lse = lse_address(args, piece.document, row, piece.kv_head);
            *lse = sum > 0.f ? LN_2 * (state.maximum[half] * scores.to_log2 + log2f(sum))
                             : -INFINITY_F32;
        }
    }
}

__device__ inline void compute(const Shared& shared, const Args& args, i32 group) {
    const Attention& attention = args.attention;
    const f32 to_log2 = attention.scale * LOG2_E;
    const i32 row0 = group * 64;
    Ring q_here(shared.q_here, 0), q_free(shared.q_free, 0);
    Ring k_here(shared.k_here, 0), k_free(shared.k_free, 0);
    Ring v_here(shared.v_here, 0), v_free(shared.v_free, 0);
    const Unit<GROUPS> unit(group);

    Share share(args);
    for (i32 at = share.take(); at >= 0; at = share.take()) {
        const Piece piece(attention, at);
        Softmax state(piece, row0);
        O o;
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int i = 0; i < PART / 2; ++i) o[part][i] = 0.f;

        if (!piece.seen.empty()) {
            f32 shrink[2];
            const AlongColumns<ROWS> q(shared.q + q_here.stage * Shape::QUERY_TILE, row0);
            const auto keys = [&] {
                return AlongColumns<KEYS>(shared.k + k_here.stage * Shape::KEY_TILE, 0);
            };
            const auto values = [&] { return shared.v + v_here.stage * Shape::KEY_TILE; };
            const auto next_keys = [&] {
                release(k_free);
                k_here.advance<Shape::STAGES>();
                k_free.advance<Shape::STAGES>();
            };
            const auto next_values = [&] {
                release(v_free);
                v_here.advance<Shape::STAGES>();
                v_free.advance<Shape::STAGES>();
            };
            const auto softmax = [&](auto& s, i32 key0) {
                constexpr i32 COUNT = sizeof(s) / 2;  // keys
                if (key0 < state.all.begin || key0 + COUNT > state.all.end) mask(s, state, key0);
                softmax_step(s, state, shrink, to_log2);
            };
            const auto first_tile = [&](auto& s, auto& p, i32 key0) {
                const bool later = GROUPS > 2 && key0 > piece.first;
                k_here.wait();
                if (later) unit.take();
                multiply_scores<D>(s, q, keys());
                if (later) unit.pass();
                wgmma_wait_group<0>();
                next_keys();
                softmax(s, key0);
                narrow_scores<ELEMENT>(p, s);
            };
            // `p` is of the tile before, `next` becomes this one's.
            const auto next_tile = [&](auto& s, P& p, auto& next, i32 key0) {
                k_here.wait();
                unit.take();
                multiply_scores<D>(s, q, keys());
                v_here.wait();
                multiply_pv(o, p, values());
                unit.pass();
                wgmma_wait_group<1>();
                next_keys();
                softmax(s, key0);
                wgmma_wait_group<0>();
                next_values();
                scale(o, shrink);
                narrow_scores<ELEMENT>(next, s);
            };
            const auto last_product = [&](auto& p) {
                v_here.wait();
                multiply_pv(o, p, values());
                wgmma_wait_group<0>();
                next_values();
            };
            // Key tiles of which only other warpgroups see something.
            const auto skip = [&](i32 key0) {
                if (key0 > piece.first) {
                    unit.take();
                    unit.pass();
                }
                k_here.wait();
                next_keys();
                v_here.wait();
                next_values();
            };
            // Two warpgroups see nearly the same.
            const i32 end = GROUPS > 2 ? uniform(state.some.end) : piece.seen.end;
            i32 key0 = piece.first;
            q_here.wait();
            if constexpr (GROUPS > 2)
                for (const i32 begin = uniform(state.some.begin); key0 + KEYS <= begin; key0 += KEYS) skip(key0);
            if (GROUPS == 2 || key0 < end) {
                // Of the last tile perhaps only the first half is seen.
                const bool half = HALVES && (end - 1) % KEYS < KEYS / 2;
                const i32 whole_end = half ? end - KEYS / 2 : end;
                if (!HALVES || key0 < whole_end) {
                    S s;
                    P p;
                    first_tile(s, p, key0);
                    for (key0 += KEYS; key0 < whole_end; key0 += KEYS) next_tile(s, p, p, key0);
                    if (HALVES && key0 < end) {
                        HalfS half_s;
                        HalfP half_p;
                        next_tile(half_s, p, half_p, key0);
                        last_product(half_p);
                        key0 += KEYS;
                    } else {
                        last_product(p);
                    }
                } else {
                    HalfS s;
                    HalfP p;
                    first_tile(s, p, key0);
                    last_product(p);
                    key0 += KEYS;
                }
            }
            if constexpr (GROUPS > 2)
                for (; key0 < piece.seen.end; key0 += KEYS) skip(key0);
            release(q_free);
            q_here.advance<Shape::QUERY_STAGES>();
            q_free.advance<Shape::QUERY_STAGES>();
        }
        write_rows(o, state, piece, row0, attention);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    forward(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Shared shared(shared_address(memory));
    const i32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) shared.init();
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();  // nothing in global memory was touched until here
    __syncthreads();

    if (group == GROUPS) {
        setmaxnreg_dec<Shape::LOADER_REGISTERS>();
        if (threadIdx.x / 32 == GROUPS * 4) bring_tiles(shared, args);
    } else {
        setmaxnreg_inc<Shape::REGISTERS>();
        compute(shared, args, group);
    }
}
