// Adds the sums that parts of walks left behind to dk and dv in the store, a walk's one after the other: the bits are
// those of parts that add theirs themselves, in turn. Runs after backward_wgmma where it left any.
//
// Reads parts, tiles (PartSums). Writes dk (+=), dv (+=).
#include "element.cuh"
#include "ptx_sm90.cuh"
#include "shape_sm90.cuh"

constexpr int AT_ONCE = 4;  // parts that are on their way while sums wait for them

// Sums flush subnormal numbers to zeros, as they do in the L2 cache.
__device__ inline void add(float4& sum, const float4& x) {
    sum = {add_ftz(sum.x, x.x), add_ftz(sum.y, x.y), add_ftz(sum.z, x.z), add_ftz(sum.w, x.w)};
}

// One block for some rows of a walk's keys and K/V head.
extern "C" __global__ void __launch_bounds__(ADD_PARTS_THREADS)
    add_parts(const __grid_constant__ Attention args) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const i32 keys = args.tile_rows, blocks = keys / ADD_PARTS_ROWS;  // of a tile
    const i32 at_walk = blockIdx.x / blocks, kv_head = at_walk % args.kv_heads;
    const PartSums walk = reinterpret_cast<const PartSums*>(args.tiles)[at_walk / args.kv_heads];
    const i32 key0 = blockIdx.x % blocks * ADD_PARTS_ROWS;
    const i32 quads = args.head_dim / 4;
    const i64 next_part = i64(args.kv_heads) * 2 * keys * quads;

    for (i32 i = threadIdx.x; i < 2 * ADD_PARTS_ROWS * quads; i += ADD_PARTS_THREADS) {
        const i32 row = i / quads, quad = i % quads;
        const i32 gradient = row / ADD_PARTS_ROWS, key = key0 + row % ADD_PARTS_ROWS;
        if (key >= walk.keys) continue;
        const View& view = gradient == 0 ? args.dk : args.dv;
        float4* const to = reinterpret_cast<float4*>(at<f32>(view, walk.key_row + key, kv_head)) + quad;
        const float4* from =
            reinterpret_cast<const float4*>(part_rows(args, walk.first, kv_head, gradient, keys)) +
            key * quads + quad;
        float4 sum = *to;
        for (i32 part = 0; part < walk.count; part += AT_ONCE) {
            float4 x[AT_ONCE];
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j, from += next_part)
                if (part + j < walk.count) x[j] = *from;
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j)
                if (part + j < walk.count) add(sum, x[j]);
        }
        *to = sum;
    }
}
