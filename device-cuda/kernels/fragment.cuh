// What both passes for compute capability 9.0 do with a thread's part of a result of the matrix unit, and the
// product that makes scores.
#pragma once
#include "panel.cuh"

// s = left right^T, both from shared memory and D deep, on its way when this returns.
// `s` may have fewer columns than `right` has rows.
template <int D, int M, int N, int COUNT>
__device__ inline void multiply_scores(f32 (&s)[COUNT], const AlongColumns<M>& left, const AlongColumns<N>& right) {
    static_assert(COUNT * 2 <= N);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) wgmma_shared<false, false>(s, left.step(k), right.step(k), k > 0);
    wgmma_commit_group();
}

// Scores as the left operand of the next product.
template <typename E, int STEPS>
__device__ inline void narrow_scores(u32 (&to)[STEPS][4], const f32 (&s)[STEPS * 8]) {
#pragma unroll
    for (int k = 0; k < STEPS; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) to[k][i] = E::pair(s[k * 8 + i * 2], s[k * 8 + i * 2 + 1]);
}

// Four threads hold four words each, word `n` of thread `t` being part `t` of chunk `n`; afterwards
// thread `t` has the four parts of chunk `t`.
__device__ inline void transpose(u32 (&w)[4], i32 t) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            if (n & step) continue;
            const u32 given = __shfl_xor_sync(0xffffffff, t & step ? w[n] : w[n | step], step);
            if (t & step) w[n] = given; else w[n | step] = given;
        }
}
