// The three element types: how they become f32, how two f32 become a pair, which matrix product
// takes them.
#pragma once
#include "ptx.cuh"

struct F32 {
    f32 value;
    __device__ static f32 widen(F32 x) { return x.value; }
    __device__ static F32 narrow(f32 x) { return F32{x}; }
};

struct F16 {
    u16 bits;
    __device__ static f32 widen(F16 x) { return cvt_f32_f16(x.bits); }
    __device__ static u32 pair(f32 low, f32 high) { return cvt_f16x2(low, high); }
    __device__ static F16 narrow(f32 x) { return F16{static_cast<u16>(pair(x, 0.f))}; }
    __device__ static void mma(f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        mma_m16n8k16_f16(c, a, b0, b1);
    }
};

struct Bf16 {
    u16 bits;
    __device__ static f32 widen(Bf16 x) { return __uint_as_float(static_cast<u32>(x.bits) << 16); }
    __device__ static u32 pair(f32 low, f32 high) { return cvt_bf16x2(low, high); }
    __device__ static Bf16 narrow(f32 x) { return Bf16{static_cast<u16>(pair(x, 0.f))}; }
    __device__ static void mma(f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        mma_m16n8k16_bf16(c, a, b0, b1);
    }
};

// The address of a row's head in a view. Rows and heads fit 32 bits, offsets do not.
template <typename E>
__device__ inline E* at(const View& view, i32 row, i32 head) {
    return reinterpret_cast<E*>(view.data) + row * view.row_stride + head * view.head_stride;
}

// Turns -0 into +0: a sum that also met masked terms (exact zeros) must not differ in the sign of
// a zero from one that did not.
__device__ inline f32 canonical(f32 x) { return x + 0.f; }
