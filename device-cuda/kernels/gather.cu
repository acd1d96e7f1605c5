// Copies rows of elements from one strided view to another: a rank's K or V to its place in the
// slot. One block per row.
//
// Reads from. Writes to (=).
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256) gather(const __grid_constant__ Rows args) {
    const i32 count = args.heads * args.head_dim;
    for (i32 row = blockIdx.x; row < args.rows; row += gridDim.x)
        for (i32 i = threadIdx.x; i < count; i += blockDim.x) {
            const i32 head = i / args.head_dim;
            const i32 column = i - head * args.head_dim;
            at<ELEMENT>(args.to, row, head)[column] = at<ELEMENT>(args.from, row, head)[column];
        }
}
