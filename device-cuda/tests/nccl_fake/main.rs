//! Ranks over NCCL without a GPU: order, arithmetic and failures, over a pretended driver and a pretended
//! NCCL (`../pretended/gpu.c`). What real ones do is tested by `nccl`, on GPUs.

mod faults;
mod group;
mod moves;
#[path = "../pretended/mod.rs"]
mod pretended;

use pretended::Test;

fn main() {
    pretended::run(&[moves::TESTS, faults::TESTS].concat(), &[]);
}
