// Attention backward on the warpgroup's matrix unit, compute capability 9.0.
//
// The same sums as backward_mma.cu. A piece of work is one tile of a document's keys and one K/V head;
// it walks the document's query tiles (whole tokens with all heads of the group) from the last to the
// first:
//
//     s = k q^T;  p = exp2(s - lse2);  dp = v dout^T;  ds = p * (scale * dp - delta)
//     dv += p dout;  dk += ds q;  dq += ds^T k
//
// Blocks stay and take pieces by ticket. Two warpgroups compute. Up to head_dim 128 they own 64 keys each
// (own_keys.cuh); with larger heads they share 64, one makes p and dv, one ds and dk (share_keys.cuh). s, p,
// dp, ds and the sums dk, dv are in registers; dk, dv start as what the store holds and go back there at the
// end, so steps of a sequence run one after the other continue one sum. Zeros that the host knows of are not read
// there. Where walks are cut into parts (KeyTile), sums start with zero, and are added to the store in
// turn. ds also goes to shared memory, where each of the two multiplies all of it with half of k's columns, a
// tile or two later. Other warps bring the tiles and take the turns (serve.cuh). README.md draws the pipelines.
//
// dq of a query tile is a sum over key tiles, that is over blocks. They add in turn, ascending
// (schedule.cuh): the first stores to `dq_sum`, the others add in the L2 cache, the last adds in
// registers, rounds and writes dq. There are no sums in an order of chance, and a document of one key
// tile needs neither `dq_sum` nor turns for dq.
//
// Reads q, k, v, dout, stats (tensor maps), tiles (key tiles), turns (set to zero by `prepare_wgmma`).
// Writes dq (=) of every row that some key is visible to (`prepare_wgmma` writes the others), dk (+=),
// dv (+=).
#if HEAD_DIM <= 128
#include "own_keys.cuh"
#else
#include "share_keys.cuh"
#endif
#include "serve.cuh"

constexpr int THREADS = (GROUPS + 1) * 128;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    backward(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Shared shared(shared_address(memory));
    const i32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    // Query rows that no box fills, where the group's size does not divide a tile.
    const i32 filled = ROWS / args.attention.group * args.attention.group;
    for (i32 stage = 0; stage < STAGES; ++stage) {
        zero_rows<ROWS, D>(shared.q + stage * Shape::QUERY_TILE, filled, ROWS);
        if (stage < DOUT_STAGES)
            zero_rows<ROWS, D>(shared.dout + stage * Shape::QUERY_TILE, filled, ROWS);
    }
    fence_proxy_async();
    if (threadIdx.x == 0) shared.init();
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();  // nothing in global memory was touched until here
    __syncthreads();

    if (group == GROUPS) {
        setmaxnreg_dec<Shape::SERVER_REGISTERS>();
        const i32 warp = uniform(threadIdx.x / 32);
        if (warp == WARPS) bring_tiles(shared, args);
        if (warp > WARPS && warp <= WARPS + ADDERS && threadIdx.x % 32 == 0)
            add_dq(shared, args.attention, warp - WARPS - 1);
    } else {
        setmaxnreg_inc<Shape::REGISTERS>();
        compute(shared, args.attention, group);
    }
}
