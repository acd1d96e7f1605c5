// sum(out * dout) of query rows, for the kernels that prepare a backward pass.
#pragma once
#include "query.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 16;  // that share a row, eight elements each at a time

// Eight elements from column `column` on, zeros past the row's end.
__device__ inline void load_eight(f32 (&x)[8], const ELEMENT* row, i32 column, i32 head_dim,
                                  bool aligned) {
    if (aligned && column + 8 <= head_dim) {
        struct alignas(16) Sixteen {
            ELEMENT x[16 / sizeof(ELEMENT)];
        };
        constexpr int PER = 16 / sizeof(ELEMENT);
#pragma unroll
        for (int part = 0; part < 8 / PER; ++part) {
            const Sixteen y = *reinterpret_cast<const Sixteen*>(row + column + part * PER);
#pragma unroll
            for (int i = 0; i < PER; ++i) x[part * PER + i] = ELEMENT::widen(y.x[i]);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
        x[i] = column + i < head_dim ? ELEMENT::widen(row[column + i]) : 0.f;
}

// The sum over the lanes that share a row.
__device__ inline f32 over_lanes(f32 sum) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
    return sum;
}

// This lane's share of sum(out * dout), then the sum over the lanes.
__device__ inline f32 dot(const ELEMENT* a, const ELEMENT* b, i32 lane, const Attention& args) {
    f32 sum = 0.f;
    for (i32 column = lane * 8; column < args.head_dim; column += LANES * 8) {
        f32 x[8], y[8];
        load_eight(x, a, column, args.head_dim, args.aligned);
        load_eight(y, b, column, args.head_dim, args.aligned);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum = fmaf(x[i], y[i], sum);
    }
    return over_lanes(sum);
}

// A row's stats: log2(e) lse, and the sum times the scale.
__device__ inline Stats stats_of(f32 lse, f32 sum, const Attention& args) {
    return {lse == -INFINITY_F32 ? INFINITY_F32 : lse * LOG2_E, args.scale * sum};
}

// dq of a row that sees no key, which no backward block visits.
__device__ inline void clear_dq(ELEMENT* dq, i32 lane, i32 head_dim) {
    for (i32 i = lane; i < head_dim; i += LANES) dq[i] = ELEMENT::narrow(0.f);
}
