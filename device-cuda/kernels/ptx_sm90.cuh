// PTX instructions of compute capability 9.0 (sm_90a), one per function, named after the instruction.
#pragma once
#include "element.cuh"

// ---- barriers in shared memory (mbarrier): arrivals and bytes that copies bring

__device__ inline void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ inline void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Lets the phase wait for `bytes` more, which the copy engine brings.
__device__ inline void mbarrier_expect_tx(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

// Arrives, and lets the phase wait for `bytes` more.
__device__ inline void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

// Whether the phase of this parity is complete; may sleep a while before it says no.
__device__ inline bool mbarrier_try_wait(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// The same without sleeping.
__device__ inline bool mbarrier_test_wait(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Orders ordinary accesses to shared memory before those of the copy engine and the matrix unit.
__device__ inline void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Orders ordinary accesses to any memory before those of the copy engine.
__device__ inline void fence_proxy_async_all() { asm volatile("fence.proxy.async;" ::: "memory"); }

// ---- the copy engine (TMA)

// What the driver encodes a strided tensor into; opaque.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
static_assert(sizeof(TensorMap) == 128, "src/tensor_map.rs has the same size");

__device__ inline void cp_async_bulk_tensor_2d(u32 to, const TensorMap* map, i32 x, i32 y,
                                               u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(barrier)
        : "memory");
}

__device__ inline void cp_async_bulk_tensor_3d(u32 to, const TensorMap* map, i32 x, i32 y, i32 z,
                                               u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

// For the copy engine: lines that the L2 cache shall keep before others, or give up first.
__device__ inline u64 createpolicy_evict_last() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ inline u64 createpolicy_evict_first() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Contiguous bytes of shared memory to global memory, or added there to f32 in the L2 cache, where
// subnormal operands and sums become zeros. Part of this thread's group.
__device__ inline void cp_async_bulk_store(f32* to, u32 from, u32 bytes, u64 policy) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(to),
                 "r"(from), "r"(bytes), "l"(policy)
                 : "memory");
}

__device__ inline void cp_reduce_async_bulk_add_f32(f32* to, u32 from, u32 bytes, u64 policy) {
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.f32 [%0], [%1], %2, %3;" ::"l"(to),
        "r"(from), "r"(bytes), "l"(policy)
        : "memory");
}

// Back from there; complete at a barrier.
__device__ inline void cp_async_bulk_load(u32 to, const f32* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}

// 128 bytes need not be written from the L2 cache to memory: nobody reads them before they are written again.
__device__ inline void discard_l2(const void* line) {
    asm volatile("discard.global.L2 [%0], 128;" ::"l"(line) : "memory");
}

__device__ inline void cp_async_bulk_commit_group() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until this thread's groups are complete, what they wrote being visible to it ...
__device__ inline void cp_async_bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// ... or have read shared memory.
__device__ inline void cp_async_bulk_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// ---- registers of a warpgroup

template <int REGISTERS>
__device__ inline void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ inline void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- the warpgroup's matrix unit

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void wgmma_commit_group() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING>
__device__ inline void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define WGMMA_TYPES_F16 "f32.f16.f16"
#define WGMMA_TYPES_Bf16 "f32.bf16.bf16"
#define WGMMA_PASTE(element) WGMMA_TYPES_##element
#define WGMMA_TYPES_OF(element) WGMMA_PASTE(element)
#define WGMMA_TYPES WGMMA_TYPES_OF(ELEMENT)

#define WGMMA_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_16(d, i) WGMMA_4(d, i), WGMMA_4(d, i + 4), WGMMA_4(d, i + 8), WGMMA_4(d, i + 12)

// d (64 x N, two elements of d per column) = a b, or d += a b where `accumulate`; 16 along k. `b` is in
// shared memory, given by a matrix descriptor (panel.cuh); `a` too, or in registers, laid out as
// mma.m16n8k16 wants it of each warp. k lies along an operand's rows unless it is transposed.

template <bool TRANSPOSE_A, bool TRANSPOSE_B>
__device__ inline void wgmma_shared(f32 (&d)[16], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %18, 0; "
        "wgmma.mma_async.sync.aligned.m64n32k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
        "}, %16, %17, p, 1, 1, %19, %20;}"
        : WGMMA_16(d, 0)
        : "l"(a), "l"(b), "r"(static_cast<u32>(accumulate)), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_A, bool TRANSPOSE_B>
__device__ inline void wgmma_shared(f32 (&d)[32], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, %32, %33, p, 1, 1, %35, %36;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16)
        : "l"(a), "l"(b), "r"(static_cast<u32>(accumulate)), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_B>
__device__ inline void wgmma_registers(f32 (&d)[32], const u32 (&a)[4], u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %37, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<u32>(accumulate)),
          "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_A, bool TRANSPOSE_B>
__device__ inline void wgmma_shared(f32 (&d)[48], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %50, 0; "
        "wgmma.mma_async.sync.aligned.m64n96k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47"
        "}, %48, %49, p, 1, 1, %51, %52;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16), WGMMA_16(d, 32)
        : "l"(a), "l"(b), "r"(static_cast<u32>(accumulate)), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_B>
__device__ inline void wgmma_registers(f32 (&d)[48], const u32 (&a)[4], u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %53, 0; "
        "wgmma.mma_async.sync.aligned.m64n96k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47"
        "}, {%48,%49,%50,%51}, %52, p, 1, 1, %54;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16), WGMMA_16(d, 32)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<u32>(accumulate)),
          "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_A, bool TRANSPOSE_B>
__device__ inline void wgmma_shared(f32 (&d)[64], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,"
        "%63"
        "}, %64, %65, p, 1, 1, %67, %68;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16), WGMMA_16(d, 32), WGMMA_16(d, 48)
        : "l"(a), "l"(b), "r"(static_cast<u32>(accumulate)), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));
}

template <bool TRANSPOSE_B>
__device__ inline void wgmma_registers(f32 (&d)[64], const u32 (&a)[4], u64 b, bool accumulate) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %69, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES " {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,"
        "%63"
        "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70;}"
        : WGMMA_16(d, 0), WGMMA_16(d, 16), WGMMA_16(d, 32), WGMMA_16(d, 48)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<u32>(accumulate)),
          "n"(TRANSPOSE_B));
}

#undef WGMMA_4
#undef WGMMA_16

// ---- results on their way to other readers

// Four 8 by 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void stmatrix_x4(u32 address, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

__device__ inline void st_shared_zero_16(u32 address) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(address), "r"(0) : "memory");
}

__device__ inline i32 ld_shared_i32(u32 address) {
    i32 r;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(r) : "r"(address) : "memory");
    return r;
}

__device__ inline u64 ld_shared_u64(u32 address) {
    u64 r;
    asm volatile("ld.shared.u64 %0, [%1];" : "=l"(r) : "r"(address) : "memory");
    return r;
}

__device__ inline void st_shared_u64(u32 address, u64 x) {
    asm volatile("st.shared.u64 [%0], %1;" ::"r"(address), "l"(x) : "memory");
}

__device__ inline void st_shared_i32(u32 address, i32 x) {
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

__device__ inline void ld_shared_f32x4(f32 (&r)[4], u32 address) {
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(r[0]), "=f"(r[1]), "=f"(r[2]), "=f"(r[3])
                 : "r"(address)
                 : "memory");
}

// Four neighbouring elements, read past the L1 cache, or zeros. Without a branch, and not moved by the
// compiler: sums of the matrix unit that are loaded must be in their registers before it starts.
__device__ inline void ld_global_f32x4_or_zero(f32 (&x)[4], const f32* address, bool exists) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %5, 0; mov.f32 %0, 0f00000000; mov.f32 %1, 0f00000000; "
        "mov.f32 %2, 0f00000000; mov.f32 %3, 0f00000000; @p ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];}"
        : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
        : "l"(address), "r"(static_cast<u32>(exists))
        : "memory");
}

__device__ inline void st_shared_f32x4(u32 address, f32 a, f32 b, f32 c, f32 d) {
    asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}

// For addresses that the compiler does not know to be global.
__device__ inline void st_global_f32x4(f32* to, f32 a, f32 b, f32 c, f32 d) {
    asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// Adds to four neighbouring elements in the L2 cache.
__device__ inline void red_add_f32x4(f32* to, f32 a, f32 b, f32 c, f32 d) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}

__device__ inline f32 add_ftz(f32 a, f32 b) {
    f32 r;
    asm("add.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

// `threads` threads meet at barrier `id`; this one does not wait for the others.
__device__ inline void bar_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Until the kernels before this one in the stream are complete and what they wrote is here.
__device__ inline void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// The kernel behind this one may begin as soon as there is room for it.
__device__ inline void griddepcontrol_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// The same in every thread of a warp, and known to be so: products must not be issued on paths that the
// compiler takes for divergent.
__device__ inline i32 uniform(i32 x) { return static_cast<i32>(__reduce_or_sync(0xffffffff, x)); }
