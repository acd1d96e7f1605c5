//! What GPUs of other compute capabilities launch.

use crate::packed::{ADA, AMPERE, Packed};
use microseq_core::Attention;
use microseq_cuda::Cuda;

pub(crate) const TESTS: &[(&str, fn())] =
    &[("blocks_with_little_memory_have_smaller_tiles", blocks_with_little_memory_have_smaller_tiles)];

/// Blocks, threads and shared memory of the backward kernel.
fn backward(ordinal: usize, head_dim: usize) -> (u32, u32, u32) {
    let attention = Attention::new(4, 2, head_dim).expect("heads");
    let device = Cuda::new(ordinal).expect("pretended");
    let packed = Packed { device, attention, lengths: vec![256], padding: 0 };
    let [forward, prepare, backward] = packed.launches()[..] else { panic!("three launches") };
    for (launch, name) in [(&forward, "forward"), (&prepare, "prepare"), (&backward, "backward")] {
        assert_eq!(launch.kernel(), (name, "sm_80"));
    }
    assert_eq!(forward.threads, 128);
    (backward.blocks, backward.threads, backward.shared)
}

fn blocks_with_little_memory_have_smaller_tiles() {
    // 256 keys of two heads, in tiles of 128, or of 64 or 32 for the largest heads.
    let on = |ordinal| [64, 128, 256].map(|head_dim| backward(ordinal, head_dim));
    assert_eq!(on(AMPERE), [(4, 256, 165_888), (4, 256, 164_864), (8, 256, 147_968)]);
    assert_eq!(on(ADA), [(4, 256, 99_328), (4, 256, 98_560), (16, 128, 69_888)]);
}
