// From products q * k to scores in units of log2, shared by all forward and backward kernels.
#pragma once
#include "element.cuh"

constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 LN_2 = 0.6931471805599453f;
constexpr f32 INFINITY_F32 = __builtin_huge_valf();

// tanh with a relative error near 4e-7, since a softcap multiplies it: the quotient cancels near 0, where the
// Taylor series has converged; the hardware's own tanh is good to 5e-4 only.
__device__ inline f32 tanh_accurate(f32 x) {
    const f32 x2 = x * x;
    const f32 series = fmaf(x2, fmaf(x2, fmaf(x2, 62.f / 2835.f, -17.f / 315.f), 2.f / 15.f), -1.f / 3.f);
    const f32 quotient = 1.f - 2.f * rcp(1.f + ex2(2.f * LOG2_E * x));
    return fabsf(x) < 0.25f ? fmaf(x * x2, series, x) : quotient;
}

// How a product becomes a score. In the plain case (no softcap, positive scale) the product is
// kept and `to_log2` is applied where the exponential is taken, inside one fused multiply-add. In
// the other cases `transform` brings the product to units of log2 and `to_log2` is 1.
struct Scores {
    f32 scale;
    f32 softcap;
    f32 inverse;  // 1 / softcap
    bool plain;
    f32 to_log2;

    __device__ explicit Scores(const Attention& args)
        : scale(args.scale),
          softcap(args.softcap),
          inverse(args.softcap == 0.f ? 0.f : 1.f / args.softcap),
          plain(args.softcap == 0.f && args.scale > 0.f) {
        to_log2 = plain ? scale * LOG2_E : 1.f;
    }

    __device__ f32 transform(f32 product) const {
        if (softcap == 0.f) return product * scale * LOG2_E;
        return softcap * tanh_accurate(product * scale * inverse) * LOG2_E;
    }

    // d score / d product, over scale, from a transformed score.
    __device__ f32 slope(f32 transformed) const {
        if (softcap == 0.f) return 1.f;
        const f32 t = transformed * LN_2 * inverse;
        return 1.f - t * t;
    }
};
