// Tiles of 16-bit elements in shared memory and the matrix products on them.
//
// A row of COLS elements is COLS / 8 chunks of 16 bytes. Chunk `c` of row `r` lies at chunk
// `c ^ (r & 7)` of that row, so the same chunk of eight consecutive rows lies in eight different
// groups of banks and every access of a warp is free of conflicts. Rows of four chunks lie two in
// 128 bytes: `c ^ (r / 2 & 3)` does the same for these. Rows have a power of two of
// bytes and tiles are aligned to a row, so a chunk's offset can be applied with an exclusive or.
#pragma once
#include "element.cuh"
#include "schedule.cuh"

template <int COLS>
__device__ inline u32 chunk_address(u32 tile, i32 row, i32 chunk) {
    static_assert(COLS >= 32 && (COLS & (COLS - 1)) == 0);
    const i32 turned = COLS == 32 ? row / 2 & 3 : row & 7;
    return tile + row * (COLS * 2) + ((chunk ^ turned) << 4);
}

// A row of a view as a tile wants it: its address, and whether there is such a row. Without one the
// address is not used.
template <typename E>
struct SourceRow {
    const E* address;
    bool exists;
};

// Brings a tile of ROWS rows; `row_of(r)` gives row r. What does not exist becomes zeros.
template <typename E, int ROWS, int COLS, int THREADS, typename RowOf>
__device__ inline void load_tile(u32 tile, i32 head_dim, RowOf row_of) {
    constexpr int CHUNKS = COLS / 8;
    constexpr int PASS = THREADS / CHUNKS;  // rows that the block brings at a time
    static_assert(ROWS % PASS == 0);
    const i32 chunk = threadIdx.x % CHUNKS;
    const i32 columns = min(max(head_dim - chunk * 8, 0), 8);
#pragma unroll
    for (int i = 0; i < ROWS / PASS; ++i) {
        const i32 r = threadIdx.x / CHUNKS + i * PASS;
        const SourceRow<E> row = row_of(r);
        cp_async_16(chunk_address<COLS>(tile, r, chunk), row.address + chunk * 8,
                    row.exists ? 2 * columns : 0);
    }
}

// The same element by element, for views that are not aligned to 16 bytes.
template <typename E, int ROWS, int COLS, int THREADS, typename RowOf>
__device__ inline void load_tile_unaligned(u32 tile, i32 head_dim, RowOf row_of) {
#pragma unroll 1
    for (i32 i = threadIdx.x; i < ROWS * COLS; i += THREADS) {
        const i32 column = i % COLS;
        const SourceRow<E> row = row_of(i / COLS);
        const u32 to = chunk_address<COLS>(tile, i / COLS, column / 8) + column % 8 * 2;
        st_shared_u16(to, row.exists && column < head_dim ? row.address[column].bits : u16(0));
    }
}

// One operand of a matrix product as this warp reads it from a tile, 16 by 16 elements at a time.
// A product's k dimension lies either along the tile's columns or along its rows; the matrix unit
// wants k along columns, so in the second case the load transposes. `left` and `right` are the
// order in which a, b of c += a * b want their four 8 by 8 parts.
template <int COLS, bool K_ALONG_ROWS, bool LEFT>
struct Operand {
    u32 address;

    // Begins at `row`, `column` of the tile (a multiple of 16 each).
    __device__ Operand(u32 tile, i32 row, i32 column) {
        const i32 lane = threadIdx.x % 32;
        constexpr bool ROWS_FIRST = LEFT != K_ALONG_ROWS;
        const i32 lane_row = ROWS_FIRST ? lane % 16 : lane % 8 + lane / 16 * 8;
        const i32 lane_chunk = ROWS_FIRST ? lane / 16 : lane / 8 % 2;
        address = chunk_address<COLS>(tile, row + lane_row, column / 8 + lane_chunk);
    }

    // The 16 by 16 part that is number `outer` along the product's m or n, number `k` along k.
    __device__ void load(u32 (&r)[4], int outer, int k) const {
        const int row = K_ALONG_ROWS ? k : outer;
        const int column = K_ALONG_ROWS ? outer : k;
        const u32 from = (address ^ (column << 5)) + row * (16 * COLS * 2);
        if (K_ALONG_ROWS) {
            ldmatrix_x4_trans(r, from);
        } else {
            ldmatrix_x4(r, from);
        }
    }
};

template <int COLS, bool K_ALONG_ROWS = false>
using Left = Operand<COLS, K_ALONG_ROWS, true>;
template <int COLS, bool K_ALONG_ROWS = false>
using Right = Operand<COLS, K_ALONG_ROWS, false>;

// A warp's part of a product: M by N blocks of 16 by 8 f32. In a block, this thread holds columns
// `column()` and the next, in rows `row()` (parts 0, 1) and `row() + 8` (parts 2, 3).
template <int M_, int N_>
struct Sums {
    static constexpr int M = M_, N = N_;
    f32 part[M][N][4];

    __device__ static i32 row() { return threadIdx.x % 32 / 4; }
    __device__ static i32 column() { return threadIdx.x % 4 * 2; }

    __device__ void clear() {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) part[m][n][i] = 0.f;
    }
};

// sums += left * right, over K blocks of 16. The order of the terms is fixed: k ascending.
template <typename E, int K, int M, int N, typename L, typename R>
__device__ inline void multiply(Sums<M, N>& sums, const L& left, const R& right) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        u32 a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) left.load(a[m], m, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            right.load(b, n / 2, k);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                E::mma(sums.part[m][n], a[m], b[0], b[1]);
                E::mma(sums.part[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// A left operand in registers: the blocks of an earlier product, narrowed. Two neighbouring 16 by
// 8 blocks of sums are, thread by thread, one 16 by 16 left operand.
template <typename E, int M, int N>
struct Narrowed {
    u32 part[M][N / 2][4];

    __device__ explicit Narrowed(const Sums<M, N>& sums) {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int k = 0; k < N / 2; ++k)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const f32(&block)[4] = sums.part[m][2 * k + i / 2];
                    part[m][k][i] = E::pair(block[i % 2 * 2], block[i % 2 * 2 + 1]);
                }
    }

    __device__ void load(u32 (&r)[4], int m, int k) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) r[i] = part[m][k][i];
    }
};

// Where this thread's pairs of sums go in a tile, narrowed, for a part of a product that begins at
// `row`, `column` of the tile.
template <typename E, int COLS>
struct PairsOut {
    u32 address;

    __device__ PairsOut(u32 tile, i32 row, i32 column)
        : address(chunk_address<COLS>(tile, row + threadIdx.x % 32 / 4, column / 8) +
                  4 * (threadIdx.x % 4)) {}

    // The pair of block (m, n), of its upper or lower eight rows.
    __device__ void store(int m, int n, int half, f32 x, f32 y) const {
        st_shared_u32((address ^ (n << 4)) + (m * 16 + half * 8) * (COLS * 2), E::pair(x, y));
    }
};

// Writes two neighbouring elements of an output row of `head_dim` elements.
template <typename E>
__device__ inline void store_pair(E* row, i32 column, i32 head_dim, bool aligned, f32 x, f32 y) {
    if (aligned && column + 1 < head_dim) {
        *reinterpret_cast<u32*>(row + column) = E::pair(x, y);
        return;
    }
    if (column < head_dim) row[column] = E::narrow(x);
    if (column + 1 < head_dim) row[column + 1] = E::narrow(y);
}
