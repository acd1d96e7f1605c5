//! What GPUs of other compute capabilities launch.

use crate::packed::{ADA, AMPERE, HOPPER, Launch, Packed, parts_of_4000_tokens};
use microseq_core::{Attention, DType};
use microseq_cuda::Cuda;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("blocks_with_little_memory_have_smaller_tiles", blocks_with_little_memory_have_smaller_tiles),
    ("few_heads_have_their_walks_cut_everywhere", few_heads_have_their_walks_cut_everywhere),
    ("f32_and_the_largest_heads_take_the_ordinary_units", f32_and_the_largest_heads_take_the_ordinary_units),
];

/// Blocks, threads and shared memory of the backward kernel.
fn backward(ordinal: usize, head_dim: usize) -> (u32, u32, u32) {
    let attention = Attention::new(4, 2, head_dim).expect("heads");
    let packed = Packed::new(ordinal, attention, &[256]);
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

/// 4,000 tokens of a group of 8 are 32,000 query rows; every 128 keys, walks begin 1,024 later.
fn few_heads_have_their_walks_cut_everywhere() {
    let attention = Attention::new(8, 1, 128).expect("heads");
    for (ordinal, rows) in [(AMPERE, 64), (ADA, 32)] {
        let packed = Packed::new(ordinal, attention, &[4000]);
        assert_eq!(packed.device.dkv_grain(&attention, DType::Bf16), 2048 / 8);
        let [.., backward] = packed.launches()[..] else { panic!("three launches") };
        assert_eq!(backward.blocks as i32, parts_of_4000_tokens());
        // Stats, the ticket and a counter for each query tile and walk, and dq of the tiles.
        let tiles = 32_000_usize.div_ceil(rows);
        let turns = (32_000 * 8_usize).next_multiple_of(256) + 4 * (1 + tiles + 32);
        let bytes = turns.next_multiple_of(256) + tiles * rows * 128 * 4;
        assert_eq!(packed.scratch_bytes(), bytes + 255);
    }
    // Parts would begin with a token every 2,048 tokens only.
    let odd = Attention::new(3, 1, 128).expect("heads");
    assert_eq!(Cuda::new(AMPERE).expect("pretended").dkv_grain(&odd, DType::Bf16), 64);
}

/// Of 100 tokens of a group of 2 and two K/V heads.
fn f32_and_the_largest_heads_take_the_ordinary_units() {
    let packed = |head_dim| Packed::new(HOPPER, Attention::new(4, 2, head_dim).expect("heads"), &[100]);
    // Four tiles of 64 query rows and two of 64 keys.
    let wide = launches_by(2 * 4, 2 * 2, 52_224, 69_632);
    assert_eq!(shapes(&packed(64).launches_of::<f32>()), wide);
    assert_eq!(shapes(&packed(256).launches_of::<f32>()), wide);
    // Seven of 32 query rows and four of 32 keys.
    let narrow = launches_by(2 * 7, 2 * 4, 22_016, 26_624);
    assert_eq!(shapes(&packed(512).launches_of::<f32>()), narrow);
    assert_eq!(shapes(&packed(512).launches()), narrow);
}

/// Kernel, blocks, threads and shared memory.
type Shape<'a> = (&'a str, u32, u32, u32);

fn shapes(launches: &[Launch]) -> Vec<Shape<'_>> {
    launches.iter().map(|one| (one.kernel().0, one.blocks, one.threads, one.shared)).collect()
}

fn launches_by(query_blocks: u32, key_blocks: u32, shared: u32, shared_of_dkv: u32) -> Vec<Shape<'static>> {
    vec![
        ("forward", query_blocks, 256, shared),
        ("prepare", query_blocks, 256, 0),
        ("backward_dq", query_blocks, 256, shared),
        ("backward_dkv", key_blocks, 256, shared_of_dkv),
    ]
}
