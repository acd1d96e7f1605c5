//! The kernels for compute capability 9.0: when they are launched, and with what.

use crate::packed::{AMPERE, HOPPER, Launch, Packed, parts_of_4000_tokens};
use crate::pretended::Test;
use microseq_core::{Attention, DType};
use microseq_cuda::Cuda;

pub(crate) const TESTS: &[Test] = &[
    ("hopper_takes_its_own_kernels", hopper_takes_its_own_kernels),
    ("small_heads_have_their_gradients_brought", small_heads_have_their_gradients_brought),
    ("few_heads_have_their_walks_cut", few_heads_have_their_walks_cut),
    ("blocks_are_no_more_than_the_work", blocks_are_no_more_than_the_work),
    ("other_devices_and_calls_take_the_others", other_devices_and_calls_take_the_others),
    ("large_heads_take_smaller_tiles", large_heads_take_smaller_tiles),
    ("the_grain_holds_for_both", the_grain_holds_for_both),
];

const ATTENTION: usize = 320;
const MAP: usize = 128;

/// Where in the argument block of an attention kernel.
const STATS: usize = 216;
const TILE_COUNT: usize = 248;

/// A tensor map as gpu.c encodes it: sizes, strides in bytes, and the box.
fn map(launch: &Launch, index: usize) -> ([u64; 3], [u64; 2], [u64; 3]) {
    let at = |word: usize| launch.long(ATTENTION + index * MAP + word * 8);
    ([at(2), at(3), at(4)], [at(5), at(6)], [at(7), at(8), at(9)])
}

fn hopper_takes_its_own_kernels() {
    // 1,000 tokens: 32 tiles of 128 / 4 tokens. 300: 10 tiles.
    let packed = Packed::new(HOPPER, Attention::new(32, 8, 128).expect("heads"), &[1000, 300]);
    let [forward, prepare, backward] = packed.launches()[..] else { panic!("three launches") };

    assert_eq!(forward.kernel(), ("forward", "sm_90a"));
    assert_eq!((forward.blocks, forward.threads, forward.shared), (132, 384, 196_712));
    assert_eq!((forward.block().len(), forward.word(TILE_COUNT)), (704, 42));
    let (q_row, kv_row) = (32 * 256, 16 * 256);
    assert_eq!(map(&forward, 0), ([128, 32, 1300], [256, q_row], [64, 4, 32]));
    assert_eq!(map(&forward, 1), ([128, 8, 1300], [256, kv_row], [64, 1, 128]));
    assert_eq!(map(&forward, 2), map(&forward, 1));

    // Tiles of 64 / 4 tokens from position 0.
    let numbers = 63 + 19;
    assert_eq!(prepare.kernel(), ("prepare", "sm_90a"));
    assert_eq!((prepare.blocks, prepare.threads, prepare.shared), (numbers * 8 * 2, 128, 0));
    assert_eq!(prepare.word(TILE_COUNT), numbers as i32);

    assert_eq!(backward.kernel(), ("backward", "sm_90a"));
    assert_eq!((backward.blocks, backward.threads, backward.shared), (88, 384, 230_912));
    assert_eq!((backward.block().len(), backward.word(TILE_COUNT)), (1216, 8 + 3));
    assert_eq!(map(&backward, 0), ([128, 32, 1300], [256, q_row], [64, 4, 16]));
    assert_eq!(map(&backward, 3), map(&backward, 0));
    let stats = ATTENTION + 4 * MAP;
    assert_eq!(backward.long(stats + 8), backward.long(STATS));
    assert_eq!([2, 3].map(|word| backward.long(stats + word * 8)), [128, 8 * u64::from(numbers)]);
    assert!([&forward, &prepare, &backward].into_iter().all(Launch::begins_early));
}

fn small_heads_have_their_gradients_brought() {
    let packed = Packed::new(HOPPER, Attention::new(16, 8, 64).expect("heads"), &[1000]);
    let [forward, _, backward] = packed.launches()[..] else { panic!("three launches") };
    // Three warpgroups compute: 1,000 tokens are 11 tiles of 192 / 2 tokens.
    assert_eq!((forward.blocks, forward.threads, forward.shared), (88, 512, 114_792));
    // The gradients are f32.
    assert_eq!(map(&backward, 5), ([64, 8, 1000], [256, 2 * 8 * 256], [64, 1, 128]));
    assert_eq!(map(&backward, 6), map(&backward, 5));
}

/// 4,000 tokens of a group of 8 are 500 tiles; every 128 keys, walks begin 16 tiles later.
fn few_heads_have_their_walks_cut() {
    let packed = Packed::new(HOPPER, Attention::new(8, 1, 128).expect("heads"), &[4000]);
    let [.., backward] = packed.launches()[..] else { panic!("three launches") };
    assert_eq!((backward.blocks, backward.word(TILE_COUNT)), (132, parts_of_4000_tokens()));
    // Stats, the ticket and 532 counters, and dq of the 500.
    let bytes = (500 * 128 * 4 + 533 * 4_usize).next_multiple_of(256) + 500 * 64 * 128 * 4;
    assert_eq!(packed.scratch_bytes(), bytes + 255);
}

fn blocks_are_no_more_than_the_work() {
    let packed = Packed::new(HOPPER, Attention::new(4, 2, 128).expect("heads"), &[10]);
    let blocks: Vec<_> = packed.launches().iter().map(|launch| launch.blocks).collect();
    assert_eq!(blocks, [2, 4, 2]);
}

fn other_devices_and_calls_take_the_others() {
    let attention = |head_dim| Attention::new(4, 2, head_dim).expect("heads");
    let softcap = attention(128).with_softcap(1.0).expect("softcap");
    let uneven = Packed { padding: 1, ..Packed::new(HOPPER, attention(128), &[10]) };
    for packed in [
        Packed::new(AMPERE, attention(128), &[10]),
        Packed::new(HOPPER, attention(264), &[10]),
        Packed::new(HOPPER, attention(100), &[10]),
        Packed::new(HOPPER, softcap, &[10]),
        uneven,
    ] {
        let launches = packed.launches();
        assert!(launches.len() >= 3);
        assert!(launches.iter().all(|launch| launch.kernel().1 == "sm_80" && !launch.begins_early()));
    }
}

fn large_heads_take_smaller_tiles() {
    for (head_dim, shared, forward_keys) in [(192, 214_616, 96), (256, 230_984, 64)] {
        let packed = Packed::new(HOPPER, Attention::new(4, 2, head_dim).expect("heads"), &[100]);
        let [forward, prepare, backward] = packed.launches()[..] else { panic!("three launches") };
        for (launch, name) in [(&forward, "forward"), (&prepare, "prepare"), (&backward, "backward")] {
            assert_eq!(launch.kernel(), (name, "sm_90a"));
        }
        let (head, head_bytes) = (head_dim as u64, 2 * head_dim as u64);
        let kv = |keys| ([head, 2, 100], [head_bytes, 4 * head_bytes], [64, 1, keys]);
        assert_eq!((map(&forward, 1), map(&backward, 1)), (kv(forward_keys), kv(64)));
        assert_eq!(map(&backward, 3), ([head, 4, 100], [head_bytes, 4 * head_bytes], [64, 2, 32]));
        // Two tiles of 64 keys.
        assert_eq!((backward.blocks, backward.threads, backward.shared), (4, 384, shared));
        assert_eq!(backward.word(TILE_COUNT), 2);
    }
}

fn the_grain_holds_for_both() {
    let device = Cuda::new(HOPPER).expect("pretended");
    let grain = |heads| device.dkv_grain(&Attention::new(heads, 1, 128).expect("heads"), DType::Bf16);
    assert_eq!([1, 4, 64].map(grain), [2048, 512, 32]);
    // Tiles of 64 / gcd(64, 3) and of 64 / 3 tokens.
    assert_eq!(grain(3), 64 * 21);
    let grain = |attention: Attention| device.dkv_grain(&attention, DType::Bf16);
    let many = Attention::new(32, 8, 128).expect("heads");
    assert_eq!([many, many.with_window(9).expect("legal")].map(grain), [16, 64 * 16]);
}
