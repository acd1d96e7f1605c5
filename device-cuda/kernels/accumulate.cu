// Adds rows of f32 to rows of f32: another rank's share of K/V gradients to the slot's. One block
// per row.
//
// Reads from. Writes to (+=).
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256) accumulate(const __grid_constant__ Rows args) {
    const i32 count = args.heads * args.head_dim;
    for (i32 row = blockIdx.x; row < args.rows; row += gridDim.x)
        for (i32 i = threadIdx.x; i < count; i += blockDim.x) {
            const i32 head = i / args.head_dim;
            const i32 column = i - head * args.head_dim;
            at<f32>(args.to, row, head)[column] += at<const f32>(args.from, row, head)[column];
        }
}
