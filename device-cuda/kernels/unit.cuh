// Two warpgroups take turns in issuing products, so that one exponentiates while the other multiplies: the
// matrix unit works on products in the order in which they are issued. Left alone, the two end up in step.
#pragma once
#include "ptx_sm90.cuh"

constexpr i32 UNIT_USERS = 2;

// Before the first turn, once by each.
__device__ inline void share_unit(i32 group) {
    if (group == UNIT_USERS - 1) bar_arrive(1, UNIT_USERS * 128);
}
__device__ inline void take_unit(i32 group) { bar_sync(1 + group, UNIT_USERS * 128); }
__device__ inline void pass_unit(i32 group) { bar_arrive(1 + (group + 1) % UNIT_USERS, UNIT_USERS * 128); }
