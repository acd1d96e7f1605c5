// Tiles in shared memory as the copy engine writes them and the warpgroup's matrix unit reads them.
//
// A tile of ROWS rows is cut along its columns into panels of 64 elements, one behind the other. A
// panel's row is 128 bytes; chunk `c` of 16 bytes of row `r` lies at chunk `c ^ (r & 7)`, so eight
// rows' same chunk lies in eight groups of banks. Panels begin at multiples of 1024 bytes.
#pragma once
#include "ptx_sm90.cuh"
#include "schedule.cuh"

constexpr i32 PANEL_COLS = 64;
constexpr u32 PANEL_ROW_BYTES = 128;

__host__ __device__ constexpr i32 panels(i32 columns) { return (columns + PANEL_COLS - 1) / PANEL_COLS; }
__host__ __device__ constexpr u32 panel_bytes(i32 rows) { return rows * PANEL_ROW_BYTES; }
__host__ __device__ constexpr u32 tile_bytes(i32 rows, i32 columns) {
    return panels(columns) * panel_bytes(rows);
}

__device__ inline u32 panel_chunk(u32 panel, i32 row, i32 chunk) {
    return panel + row * PANEL_ROW_BYTES + ((chunk ^ (row & 7)) << 4);
}

// An operand of the matrix unit: its address and where it continues, in units of 16 bytes. The top
// says that chunks lie as above, and that eight rows further is 1024 bytes further.
__device__ inline u64 descriptor(u32 address, u32 between_panels) {
    constexpr u64 TOP = u64(1) << 62 | u64(1024 >> 4) << 32;
    return TOP | u64(between_panels >> 4) << 16 | address >> 4;
}

// One operand of a product, 16 along k at a time. k lies along a tile's columns...
template <i32 ROWS>
struct AlongColumns {
    u64 first;
    __device__ AlongColumns(u32 tile, i32 row) : first(descriptor(tile + row * PANEL_ROW_BYTES, 16)) {}
    __device__ u64 step(i32 k) const {
        return first + ((k / 4 * panel_bytes(ROWS) + k % 4 * 32) >> 4);
    }
};

// ... or along its rows: the operand's other dimension begins at `column`, which begins a panel or the second
// half of one and does not reach beyond it then.
template <i32 ROWS>
struct AlongRows {
    u64 first;
    __device__ AlongRows(u32 tile, i32 column)
        : first(descriptor(tile + column / PANEL_COLS * panel_bytes(ROWS) + column % PANEL_COLS * 2,
                           panel_bytes(ROWS))) {}
    __device__ u64 step(i32 k) const { return first + ((k * 16 * PANEL_ROW_BYTES) >> 4); }
};

// Zeros rows [begin, end) of a tile; for the lanes of one warp. The rows of other documents that a
// box of the copy engine also brings may hold anything, and zero times infinity is not zero.
template <i32 ROWS, i32 COLUMNS>
__device__ inline void zero_rows(u32 tile, i32 begin, i32 end) {
    for (i32 i = begin * 8 + threadIdx.x % 32; i < end * 8; i += 32)
#pragma unroll
        for (i32 p = 0; p < panels(COLUMNS); ++p)
            st_shared_zero_16(tile + p * panel_bytes(ROWS) + i * 16);
}

// Bringing a tile: boxes of [64 elements][heads][tokens], one a panel.
template <i32 ROWS, i32 COLUMNS>
__device__ inline void load_panels(u32 tile, const TensorMap& map, i32 head, i32 row, u32 barrier) {
#pragma unroll
    for (i32 p = 0; p < panels(COLUMNS); ++p)
        cp_async_bulk_tensor_3d(tile + p * panel_bytes(ROWS), &map, p * PANEL_COLS, head, row, barrier);
}

__device__ inline void wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait(barrier, parity)) {
    }
}

// A barrier and the parity of the phase that is waited for next.
struct Ring {
    u32 barriers;  // `STAGES` of them, eight bytes each
    i32 stage;
    u32 parity;
    __device__ Ring(u32 barriers, u32 parity) : barriers(barriers), stage(0), parity(parity) {}
    __device__ u32 barrier() const { return barriers + stage * 8; }
    __device__ void wait() const { ::wait(barrier(), parity); }
    template <i32 STAGES>
    __device__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};
