// Warpgroups take turns in issuing products, so that some exponentiate while another multiplies: the matrix
// unit works on products in the order in which they are issued. Left alone, they end up in step.
#pragma once
#include "ptx_sm90.cuh"

// One of USERS warpgroups.
template <i32 USERS>
struct Unit {
    static constexpr u32 THREADS = 2 * 128;  // at a barrier meet who passes and who takes
    i32 user;

    __device__ explicit Unit(i32 user) : user(user) {
        if (user == USERS - 1) bar_arrive(1, THREADS);  // the first turn is the first user's
    }
    __device__ void take() const { bar_sync(1 + user, THREADS); }
    __device__ void pass() const { bar_arrive(1 + (user + 1) % USERS, THREADS); }
};
